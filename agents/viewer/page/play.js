// The page: input, plots and images. An engine computes the dream: `socket.js` uses a server, and `engine.js` of an
// exported page runs in the browser. Start reading at `show` and `draw`.

const engineName = document.documentElement.dataset.engine ?? "./socket.js";
const { Engine } = await import(engineName);

const $ = (id) => document.getElementById(id);
const KEYS = {
  ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down", " ": "a", x: "a", Shift: "b",
  0: "0", 1: "1", 2: "2", 3: "3", 4: "4", 5: "5", 6: "6", 7: "7", 8: "8", 9: "9",
};
const BUTTON_LABELS = { left: "◀", right: "▶", up: "▲", down: "▼", a: "A", b: "B" };
const KEY_LABELS = { ...BUTTON_LABELS, a: "Space", b: "Shift" };
const PAD_POSITIONS = { up: [1, 2], left: [2, 1], right: [2, 3], down: [3, 2], b: [1, 1], a: [1, 3] };
const PLOT_STEPS = 200;

const pressed = new Set(); // keys of the keyboard and the touch controls
let gamepad = { keys: new Set(), x: 0 };
const pressedAt = new Map(), released = new Set(); // a key released within the step of its press stays pressed for one step
let hello, facts, drawnFacts, lastAction = "", frameTimes = [], history = [], pendingFrame = null, started = false;

// From keys to actions ------------------------------------------------------------------------------------------------

export function actionOf(controls, keys, x = 0) {
  if (controls.kind === "box") {
    return controls.axes.map((axis, number) => {
      const low = keys.has(axis.negative), high = keys.has(axis.positive);
      if (low !== high) return low ? -1 : 1;
      return number === 0 && Math.abs(x) > 0.15 ? x : axis.rest;
    });
  }
  const score = (choice) => choice.keys.reduce((sum, key) => sum + (keys.has(key) ? 2 : -1), 0);
  const scores = controls.choices.map(score);
  const best = scores.indexOf(Math.max(...scores));
  return controls.choices.map((_, number) => (number === best ? 1 : 0));
}

function sendAction() {
  if (!hello) return;
  const action = actionOf(hello.controls, new Set([...pressed, ...gamepad.keys]), gamepad.x);
  const text = JSON.stringify(action);
  if (text === lastAction) return;
  lastAction = text;
  engine.send({ type: "action", value: action });
}

function start() {
  if (started || !hello) return;
  started = true;
  engine.send({ type: "pause", value: false });
}

function down(key) {
  pressed.add(key);
  released.delete(key);
  pressedAt.set(key, facts?.step);
  sendAction();
}

function up(key) {
  if (!pressed.has(key)) return;
  if (facts && !facts.paused && !facts.over && facts.step === pressedAt.get(key)) released.add(key);
  else pressed.delete(key);
  sendAction();
}

function removeReleasedKeys() { // those whose step is over
  for (const key of released) if (facts.step !== pressedAt.get(key)) { released.delete(key); pressed.delete(key); }
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const element = event.target;
  if (element.tagName === "INPUT" && event.key.startsWith("Arrow")) return; // moves the slider
  if (element.tagName === "BUTTON" && event.key === " ") return; // presses the button
  const shortcut = { c: "controller", p: "pause", n: "single", z: "rewind", r: "restart", b: "real", v: "record" }[event.key.toLowerCase()];
  if (shortcut && !event.repeat && !$(shortcut).disabled && !$(shortcut).hidden) return $(shortcut).click();
  const key = KEYS[event.key];
  if (!shortcut && (key || event.key === "Enter")) start();
  if (!key) return;
  event.preventDefault();
  if (!event.repeat) down(key);
});
addEventListener("keyup", (event) => { if (KEYS[event.key]) up(KEYS[event.key]); });
addEventListener("blur", () => { pressed.clear(); released.clear(); sendAction(); });

function makePad({ help }) {
  const keys = new Set(help.flatMap(([keys]) => keys));
  $("pad").replaceChildren(...[...keys].map((key) => {
    const button = document.createElement("button"), name = document.createElement("small");
    name.textContent = help.find(([keys]) => keys.length === 1 && keys[0] === key)?.[1] ?? "";
    button.append(BUTTON_LABELS[key] ?? key, name);
    button.setAttribute("aria-label", name.textContent || key);
    button.dataset.key = key;
    if (PAD_POSITIONS[key]) [button.style.gridRow, button.style.gridColumn] = PAD_POSITIONS[key];
    const press = (event) => { event.preventDefault(); start(); down(key); };
    const release = () => up(key);
    button.addEventListener("pointerdown", (event) => { button.setPointerCapture?.(event.pointerId); press(event); });
    for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) button.addEventListener(name, release);
    button.addEventListener("keydown", (event) => { if ((event.key === " " || event.key === "Enter") && !event.repeat) press(event); });
    button.addEventListener("keyup", release);
    button.addEventListener("blur", release);
    button.addEventListener("contextmenu", (event) => event.preventDefault());
    return button;
  }));
}

function makeHelp({ help }) {
  $("help").replaceChildren(...help.map(([keys, effect]) => {
    const row = document.createElement("div"), term = document.createElement("dt"), description = document.createElement("dd");
    for (const key of keys) term.append(Object.assign(document.createElement("kbd"), { textContent: KEY_LABELS[key] ?? key }), " ");
    if (!keys.length) term.append("no key");
    description.textContent = effect;
    row.append(term, description);
    return row;
  }));
}

function readGamepad() {
  const device = navigator.getGamepads?.().find((one) => one?.connected);
  const keys = new Set();
  if (device) {
    const on = (number) => device.buttons[number]?.pressed;
    for (const [number, key] of [[12, "up"], [13, "down"], [14, "left"], [15, "right"], [0, "a"], [1, "b"], [2, "b"]]) {
      if (on(number)) keys.add(key);
    }
    if (on(7)) keys.add("up");
    if (on(6)) keys.add("down");
    if (hello?.controls.kind === "discrete" && Math.abs(device.axes[0]) > 0.4) keys.add(device.axes[0] < 0 ? "left" : "right");
  }
  gamepad = { keys, x: device?.axes[0] ?? 0 };
  if (keys.size || device?.buttons.some((button) => button.pressed)) start();
  sendAction();
}

// The panel -----------------------------------------------------------------------------------------------------------

const toggles = {
  start: () => {}, // the listener below starts the dream
  pause: () => started && engine.send({ type: "pause", value: !facts?.paused }),
  controller: () => engine.send({ type: "controller", value: facts?.controller === "you" ? hello.controllers[0] : "you" }),
  single: () => engine.send({ type: "step" }),
  rewind: () => engine.send({ type: "rewind", value: Math.round(facts?.speed ?? 30) }),
  restart: () => engine.send({ type: "restart" }),
  real: () => {
    const on = $("real").getAttribute("aria-pressed") !== "true";
    if (on) setStatus("Starting the real game …");
    engine.send({ type: "reality", value: on });
  },
  record: () => engine.send({ type: "record", value: !facts?.recording }),
};
for (const [id, act] of Object.entries(toggles)) {
  $(id).addEventListener("click", () => {
    if (!hello) return;
    act();
    if (id !== "single" && id !== "rewind") start();
  });
}
$("temperature").addEventListener("input", (event) => engine.send({ type: "temperature", value: Number(event.target.value) }));
$("speed").addEventListener("input", (event) => engine.send({ type: "speed", value: Number(event.target.value) }));

function setPressed(id, on) { $(id).setAttribute("aria-pressed", String(Boolean(on))); }
function setStatus(text) { if ($("status").textContent !== text) $("status").textContent = text; }
function number(value, digits = 2) {
  const text = Math.abs(value) >= 1e7 ? Number(value).toPrecision(3) : Number(value).toFixed(digits);
  return text.replace("-", "−");
}

function showRollouts({ episodes, error }) {
  const text = error ? `The last episode could not be recorded: ${error}` : `Your play is recorded as rollouts: ${episodes} episodes.`;
  if ($("rollouts").textContent !== text) $("rollouts").textContent = text;
}

function updatePanel() {
  const names = hello.controls.kind === "box" ? null : hello.controls.choices.map((choice) => choice.name);
  $("step").textContent = facts.step;
  $("reward").textContent = number(facts.reward);
  $("total").textContent = number(facts.total, 1);
  $("real-total").textContent = facts.real ? number(facts.real.total, 1) : "–";
  $("action").textContent = names ? names[facts.action.indexOf(1)] : facts.action.map((value) => number(value, 1)).join(" ");
  $("temperature-value").textContent = Number(facts.temperature).toFixed(2);
  $("speed-value").textContent = `${number(facts.speed, 1)}${facts.speed === hello.speed ? " (the game's speed)" : ""}`;
  setPressed("pause", facts.paused);
  setPressed("controller", facts.controller !== "you");
  setPressed("real", facts.real !== null);
  setPressed("record", facts.recording);
  $("film").hidden = facts.recording || !facts.film || !$("film").hasAttribute("href");
  $("reality-figure").hidden = !facts.real;
  $("rollouts").hidden = !facts.rollouts;
  if (facts.rollouts) showRollouts(facts.rollouts);
  const mode = facts.controller === "you" ? "You play." : `The controller (${facts.controller}) plays.`;
  $("start").hidden = started || facts.step > 0;
  if (!started) return setStatus("Paused: any key or button starts the dream.");
  const ended = facts.real && facts.real.over && !facts.over ? " The real game has ended: R starts both again." : "";
  const running = (facts.recording ? `${mode} Recording.` : mode) + ended;
  const inGame = facts.over && facts.controller === "you" && facts.real && !facts.real.over;
  if (inGame && !facts.notice && !facts.paused) return setStatus("The dream has ended. The real game goes on.");
  setStatus(facts.notice ? facts.notice : facts.over ? "The dream has ended. The next dream starts soon." : facts.paused ? "Paused." : running);
}

// Pictures ------------------------------------------------------------------------------------------------------------

function paint(canvas, bytes) {
  const size = Math.sqrt(bytes.length / 3), image = new ImageData(size, size);
  if (canvas.width !== size) canvas.width = canvas.height = size;
  for (let from = 0, to = 0; from < bytes.length; from += 3, to += 4) {
    image.data[to] = bytes[from];
    image.data[to + 1] = bytes[from + 1];
    image.data[to + 2] = bytes[from + 2];
    image.data[to + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function plot(canvas, lines, low, high) {
  const context = canvas.getContext("2d"), { width, height } = canvas;
  context.clearRect(0, 0, width, height);
  for (const values of lines) for (const [, list] of [values]) for (const value of list) {
    if (value !== null) { low = Math.min(low, value); high = Math.max(high, value); }
  }
  const y = (value) => height - 4 - ((value - low) / (high - low || 1)) * (height - 8);
  context.strokeStyle = "#3a4350";
  context.beginPath(); context.moveTo(0, y(0)); context.lineTo(width, y(0)); context.stroke();
  for (const [colour, list] of lines) {
    context.strokeStyle = colour;
    context.lineWidth = 2;
    context.beginPath();
    let connected = false;
    list.forEach((value, index) => {
      if (value === null) { connected = false; return; }
      context[connected ? "lineTo" : "moveTo"]((index / (PLOT_STEPS - 1)) * width, y(value));
      connected = true;
    });
    context.stroke();
  }
}

function bars(canvas, weights) {
  const context = canvas.getContext("2d"), { width, height } = canvas;
  context.clearRect(0, 0, width, height);
  const step = width / Math.max(weights.length, 1);
  weights.forEach((weight, index) => {
    context.fillStyle = `hsl(${(index * 67) % 360} 70% 65%)`;
    context.fillRect(index * step + 2, height - weight * height, step - 4, weight * height);
  });
}

function drawPlots() {
  const style = getComputedStyle(document.documentElement);
  plot($("rewards"), [
    [style.getPropertyValue("--dream"), history.map((row) => row.reward)],
    [style.getPropertyValue("--real"), history.map((row) => row.real)],
  ], -0.1, 0.1);
  plot($("terminations"), [[style.getPropertyValue("--dream"), history.map((row) => row.termination)]], 0, 0.05);
  bars($("weights"), facts.weights);
}

function show(next, dream, reality) {
  facts = next;
  removeReleasedKeys();
  history = history.filter((row) => row.step < facts.step).slice(-PLOT_STEPS + 1);
  history.push({ step: facts.step, reward: facts.reward, real: facts.real?.reward ?? null, termination: facts.termination });
  pendingFrame = { dream, reality };
  const now = performance.now();
  frameTimes = frameTimes.filter((time) => now - time < 1000);
  frameTimes.push(now);
}

function draw() {
  readGamepad();
  if (pendingFrame) {
    paint($("dream"), pendingFrame.dream);
    if (pendingFrame.reality) paint($("reality"), pendingFrame.reality);
    $("rate").textContent = frameTimes.length;
    updatePanel();
    drawPlots();
    pendingFrame = null;
    drawnFacts = facts;
  }
  requestAnimationFrame(draw);
}

const engine = new Engine({
  hello(message) {
    hello = message;
    document.title = `${hello.title}: play the dream`;
    $("title").textContent = hello.title;
    $("controller").hidden = hello.controllers.length === 0;
    $("real").hidden = !hello.reality;
    if (hello.recording) $("film").href = hello.recording;
    makePad(hello.controls);
    makeHelp(hello.controls);
    $("speed").value = hello.speed;
    $("fidelity").hidden = hello.notes.length === 0;
    $("notes").replaceChildren(...hello.notes.map((note) => Object.assign(document.createElement("li"), { textContent: note })));
    lastAction = "";
    sendAction();
  },
  show,
  film(url, name) { Object.assign($("film"), { href: url, download: name }); },
  setStatus,
});
engine.start({ dream: $("dream") });
requestAnimationFrame(draw);
globalThis.dreamPage = { shown: () => frameTimes.length, facts: () => drawnFacts, actionOf }; // for tests and debugging
