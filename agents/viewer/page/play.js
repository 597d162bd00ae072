// The page: what it draws, and what hands do. Where the dream is computed is the engine's business:
// `socket.js` asks a server; an exported page brings `engine.js`, which dreams by itself.

const engineName = document.documentElement.dataset.engine ?? "./socket.js";
const { Engine } = await import(engineName);

const $ = (id) => document.getElementById(id);
const KEYS = {
  ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down", " ": "a", x: "a", Shift: "b",
  0: "0", 1: "1", 2: "2", 3: "3", 4: "4", 5: "5", 6: "6", 7: "7", 8: "8", 9: "9",
};
const NAMES = { left: "◀", right: "▶", up: "▲", down: "▼", a: "A", b: "B" };
const ON_KEYBOARD = { ...NAMES, a: "Space", b: "Shift" };
const PLACES = { up: [1, 2], left: [2, 1], right: [2, 3], down: [3, 2], b: [1, 1], a: [1, 3] };
const PAST = 200;

const pressed = new Set(); // keys and the pad
let stick = { keys: new Set(), x: 0 }; // a gamepad
const pressedAt = new Map(), released = new Set(); // a key that is let go between two steps counts for one of them
let hello, facts, drawn, lastAction = "", shown = [], history = [], held = null, started = false;

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

function steer() {
  if (!hello) return;
  const action = actionOf(hello.controls, new Set([...pressed, ...stick.keys]), stick.x);
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
  steer();
}

function up(key) {
  if (!pressed.has(key)) return;
  if (facts && !facts.paused && !facts.over && facts.step === pressedAt.get(key)) released.add(key);
  else pressed.delete(key);
  steer();
}

function letGo() { // of what was let go before the step that came now
  for (const key of released) if (facts.step !== pressedAt.get(key)) { released.delete(key); pressed.delete(key); }
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const element = event.target;
  if (element.tagName === "INPUT" && event.key.startsWith("Arrow")) return; // the slider's own
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
addEventListener("blur", () => { pressed.clear(); released.clear(); steer(); });

function makePad({ help }) {
  const keys = new Set(help.flatMap(([keys]) => keys));
  $("pad").replaceChildren(...[...keys].map((key) => {
    const button = document.createElement("button"), name = document.createElement("small");
    name.textContent = help.find(([keys]) => keys.length === 1 && keys[0] === key)?.[1] ?? "";
    button.append(NAMES[key] ?? key, name);
    button.setAttribute("aria-label", name.textContent || key);
    button.dataset.key = key;
    if (PLACES[key]) [button.style.gridRow, button.style.gridColumn] = PLACES[key];
    const hold = (event) => { event.preventDefault(); start(); down(key); };
    const free = () => up(key);
    button.addEventListener("pointerdown", (event) => { button.setPointerCapture?.(event.pointerId); hold(event); });
    for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) button.addEventListener(name, free);
    button.addEventListener("keydown", (event) => { if ((event.key === " " || event.key === "Enter") && !event.repeat) hold(event); });
    button.addEventListener("keyup", free);
    button.addEventListener("blur", free);
    button.addEventListener("contextmenu", (event) => event.preventDefault());
    return button;
  }));
}

function makeHelp({ help }) {
  $("help").replaceChildren(...help.map(([keys, does]) => {
    const row = document.createElement("div"), term = document.createElement("dt"), what = document.createElement("dd");
    for (const key of keys) term.append(Object.assign(document.createElement("kbd"), { textContent: ON_KEYBOARD[key] ?? key }), " ");
    if (!keys.length) term.append("no key");
    what.textContent = does;
    row.append(term, what);
    return row;
  }));
}

function readGamepad() {
  const gamepad = navigator.getGamepads?.().find((one) => one?.connected);
  const keys = new Set();
  if (gamepad) {
    const on = (number) => gamepad.buttons[number]?.pressed;
    for (const [number, key] of [[12, "up"], [13, "down"], [14, "left"], [15, "right"], [0, "a"], [1, "b"], [2, "b"]]) {
      if (on(number)) keys.add(key);
    }
    if (on(7)) keys.add("up");
    if (on(6)) keys.add("down");
    if (hello?.controls.kind === "discrete" && Math.abs(gamepad.axes[0]) > 0.4) keys.add(gamepad.axes[0] < 0 ? "left" : "right");
  }
  stick = { keys, x: gamepad?.axes[0] ?? 0 };
  if (keys.size || gamepad?.buttons.some((button) => button.pressed)) start();
  steer();
}

// The panel -----------------------------------------------------------------------------------------------------------

const toggles = {
  start: () => {}, // as every other button does
  pause: () => started && engine.send({ type: "pause", value: !facts?.paused }),
  controller: () => engine.send({ type: "controller", value: facts?.controller === "you" ? hello.controllers[0] : "you" }),
  single: () => engine.send({ type: "step" }),
  rewind: () => engine.send({ type: "rewind", value: Math.round(facts?.speed ?? 30) }),
  restart: () => engine.send({ type: "restart" }),
  real: () => {
    const on = $("real").getAttribute("aria-pressed") !== "true";
    if (on) say("Starting the real game …");
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

function press(id, on) { $(id).setAttribute("aria-pressed", String(Boolean(on))); }
function say(text) { if ($("status").textContent !== text) $("status").textContent = text; }
function number(value, digits = 2) {
  const text = Math.abs(value) >= 1e7 ? Number(value).toPrecision(3) : Number(value).toFixed(digits);
  return text.replace("-", "−");
}

function tell() {
  const names = hello.controls.kind === "box" ? null : hello.controls.choices.map((choice) => choice.name);
  $("step").textContent = facts.step;
  $("reward").textContent = number(facts.reward);
  $("total").textContent = number(facts.total, 1);
  $("real-total").textContent = facts.real ? number(facts.real.total, 1) : "–";
  $("action").textContent = names ? names[facts.action.indexOf(1)] : facts.action.map((value) => number(value, 1)).join(" ");
  $("temperature-value").textContent = Number(facts.temperature).toFixed(2);
  $("speed-value").textContent = `${number(facts.speed, 1)}${facts.speed === hello.speed ? ", as the game" : ""}`;
  press("pause", facts.paused);
  press("controller", facts.controller !== "you");
  press("real", facts.real !== null);
  press("record", facts.recording);
  $("film").hidden = facts.recording || !facts.film || !$("film").hasAttribute("href");
  $("reality-figure").hidden = !facts.real;
  const who = facts.controller === "you" ? "You steer." : `The controller ${facts.controller} drives.`;
  $("start").hidden = started || facts.step > 0;
  if (!started) return say("Paused: any key or button starts the dream.");
  say(facts.notice ? facts.notice : facts.over ? "The dream has ended; another one begins." : facts.paused ? "Paused." : facts.recording ? `${who} Recording.` : who);
}

// Pictures ------------------------------------------------------------------------------------------------------------

function paint(canvas, bytes) {
  const image = new ImageData(64, 64);
  for (let from = 0, to = 0; from < bytes.length; from += 3, to += 4) {
    image.data[to] = bytes[from];
    image.data[to + 1] = bytes[from + 1];
    image.data[to + 2] = bytes[from + 2];
    image.data[to + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function plot(canvas, lines, least, most) {
  const context = canvas.getContext("2d"), { width, height } = canvas;
  context.clearRect(0, 0, width, height);
  for (const values of lines) for (const [, list] of [values]) for (const value of list) {
    if (value !== null) { least = Math.min(least, value); most = Math.max(most, value); }
  }
  const y = (value) => height - 4 - ((value - least) / (most - least || 1)) * (height - 8);
  context.strokeStyle = "#3a4350";
  context.beginPath(); context.moveTo(0, y(0)); context.lineTo(width, y(0)); context.stroke();
  for (const [colour, list] of lines) {
    context.strokeStyle = colour;
    context.lineWidth = 2;
    context.beginPath();
    let on = false;
    list.forEach((value, place) => {
      if (value === null) { on = false; return; }
      context[on ? "lineTo" : "moveTo"]((place / (PAST - 1)) * width, y(value));
      on = true;
    });
    context.stroke();
  }
}

function bars(canvas, weights) {
  const context = canvas.getContext("2d"), { width, height } = canvas;
  context.clearRect(0, 0, width, height);
  const each = width / Math.max(weights.length, 1);
  weights.forEach((weight, place) => {
    context.fillStyle = `hsl(${(place * 67) % 360} 70% 65%)`;
    context.fillRect(place * each + 2, height - weight * height, each - 4, weight * height);
  });
}

function drawPlots() {
  const style = getComputedStyle(document.documentElement);
  plot($("rewards"), [
    [style.getPropertyValue("--dreamed"), history.map((row) => row.reward)],
    [style.getPropertyValue("--real"), history.map((row) => row.real)],
  ], -0.1, 0.1);
  plot($("ends"), [[style.getPropertyValue("--dreamed"), history.map((row) => row.termination)]], 0, 0.05);
  bars($("weights"), facts.weights);
}

function show(next, dream, reality) {
  facts = next;
  letGo();
  history = history.filter((row) => row.step < facts.step).slice(-PAST + 1);
  history.push({ step: facts.step, reward: facts.reward, real: facts.real?.reward ?? null, termination: facts.termination });
  held = { dream, reality };
  const now = performance.now();
  shown = shown.filter((time) => now - time < 1000);
  shown.push(now);
}

function draw() {
  readGamepad();
  if (held) {
    paint($("dream"), held.dream);
    if (held.reality) paint($("reality"), held.reality);
    $("rate").textContent = shown.length;
    tell();
    drawPlots();
    held = null;
    drawn = facts;
  }
  requestAnimationFrame(draw);
}

const engine = new Engine({
  hello(message) {
    hello = message;
    document.title = `${hello.title}: a dream to steer`;
    $("title").textContent = hello.title;
    $("controller").hidden = hello.controllers.length === 0;
    $("real").hidden = !hello.reality;
    if (hello.recording) $("film").href = hello.recording;
    makePad(hello.controls);
    makeHelp(hello.controls);
    $("speed").value = hello.speed;
    $("known").hidden = hello.notes.length === 0;
    $("notes").replaceChildren(...hello.notes.map((note) => Object.assign(document.createElement("li"), { textContent: note })));
    lastAction = "";
    steer();
  },
  show,
  film(url, name) { Object.assign($("film"), { href: url, download: name }); },
  say,
});
engine.start({ dream: $("dream") });
requestAnimationFrame(draw);
globalThis.dreamPage = { shown: () => shown.length, facts: () => drawn, actionOf }; // what one sees now: for tests, and the curious
