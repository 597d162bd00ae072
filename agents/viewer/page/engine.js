// The engine of an exported page: it computes the dream with two ONNX graphs. `session.py` does the same on a server.

import * as ort from "./runtime/ort.wasm.min.mjs";

const PAST = 900, RECORDING_SECONDS = 60, REST_SECONDS = 1.5;

ort.env.wasm.wasmPaths = new URL("./runtime/", import.meta.url).href;
ort.env.wasm.numThreads = 1; // more threads need headers that a plain file server does not send

const size = (shape) => shape.reduce((product, part) => product * part, 1);
const tensor = (values, shape) => new ort.Tensor("float32", values, shape);

export function gumbel() { return -Math.log(-Math.log(1 - Math.random() || 1e-20) || 1e-20); }
export function normal() { return Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random()); }

export class Engine {
  constructor(page) {
    this.page = page;
    this.temperature = 1; this.speed = 30; this.controller = "you"; this.paused = true; this.recording = false;
    this.inbox = []; this.numRecorded = 0;
  }

  async start({ dream }) {
    this.canvas = dream;
    const load = async (name) => (await fetch(new URL(name, import.meta.url))).arrayBuffer();
    const create = async (name) => ort.InferenceSession.create(await load(name), { executionProviders: ["wasm"] });
    const [scene, startStates] = await Promise.all([load("scene.json"), load("start_states.bin")]);
    this.scene = JSON.parse(new TextDecoder().decode(scene));
    this.startStates = this.splitStates(new Float32Array(startStates));
    this.stepSession = await create("step.onnx");
    this.pictureSession = await create("picture.onnx");
    const { title, controls, controllers, speed, notes } = this.scene;
    this.speed = speed;
    this.action = this.neutralAction();
    await this.restart();
    this.page.hello({ title, controls, controllers: Object.keys(controllers), reality: false, recording: null, speed, notes });
    this.show();
    this.run();
  }

  splitStates(values) {
    const states = {}, count = this.scene.num_start_states;
    let offset = 0;
    for (const [name, shape] of Object.entries(this.scene.shapes)) {
      const length = size(shape), first = offset;
      states[name] = Array.from({ length: count }, (_, row) => values.slice(first + row * length, first + (row + 1) * length));
      offset += length * count;
    }
    return states;
  }

  neutralAction() {
    const { controls } = this.scene;
    if (controls.kind === "box") return controls.axes.map((axis) => axis.rest);
    const fewest = controls.choices.reduce((best, choice, number, all) => (choice.keys.length < all[best].keys.length ? number : best), 0);
    return controls.choices.map((_, number) => Number(number === fewest));
  }

  send(message) { this.inbox.push(message); }

  async run() {
    let due = performance.now();
    for (;;) {
      let changed = false, single = false;
      for (const message of this.inbox.splice(0)) {
        single ||= message.type === "step";
        changed = (await this.apply(message)) || changed;
      }
      if (this.facts.over && !this.paused) {
        this.stepsSinceEnd += 1;
        if (this.stepsSinceEnd > REST_SECONDS * this.speed) { await this.restart(); changed = true; }
      } else if (single || !this.paused) {
        await this.step();
        changed = true;
      }
      if (changed) this.show();
      due = Math.max(due + 1000 / this.speed, performance.now() - 100);
      await new Promise((resolve) => setTimeout(resolve, Math.max(0, due - performance.now())));
    }
  }

  async apply({ type, value }) {
    if (type === "action") { this.action = value; return false; }
    if (type === "temperature") this.temperature = value;
    if (type === "speed") this.speed = value;
    if (type === "controller") this.controller = value;
    if (type === "pause") this.paused = value;
    if (type === "restart") await this.restart();
    if (type === "rewind") this.rewind(value);
    if (type === "record") this.record(value);
    return true;
  }

  async restart() {
    const row = Math.floor(Math.random() * this.scene.num_start_states);
    this.state = { latent: this.startStates.latent[row], hidden: this.startStates.hidden[row], cell: this.startStates.cell[row] };
    this.past = [];
    this.stepsSinceEnd = 0;
    this.facts = { step: 0, reward: 0, total: 0, termination: 0, over: false, weights: [], action: this.neutralAction(), real: null };
    await this.draw();
  }

  rewind(steps) {
    const snapshot = this.past.splice(Math.max(0, this.past.length - steps))[0];
    if (snapshot) ({ state: this.state, facts: this.facts, dream: this.dream } = snapshot);
  }

  controllerAction({ weight, bias }) {
    const { shapes } = this.scene;
    const hidden = this.state.hidden.slice(-shapes.hidden[1]); // the last layer
    const inputs = [...this.state.latent, ...hidden];
    const outputs = weight.map((row, number) => row.reduce((sum, value, column) => sum + value * inputs[column], bias[number]));
    if (!this.scene.discrete) return outputs.map(Math.tanh);
    return outputs.map((_, number) => Number(number === outputs.indexOf(Math.max(...outputs))));
  }

  async step() {
    const { shapes, controllers } = this.scene;
    this.past.push({ state: this.state, facts: this.facts, dream: this.dream });
    this.past.splice(0, this.past.length - PAST);
    if (controllers[this.controller]) this.action = this.controllerAction(controllers[this.controller]);
    const sample = (shape, draw) => tensor(Float32Array.from({ length: size(shape) }, draw), [1, ...shape]);
    const feeds = {
      latent: tensor(this.state.latent, [1, ...shapes.latent]),
      action: tensor(Float32Array.from(this.action), [1, this.action.length]),
      hidden: tensor(this.state.hidden, [1, ...shapes.hidden]),
      cell: tensor(this.state.cell, [1, ...shapes.cell]),
      gumbel: sample(this.scene.gumbel, gumbel),
      normal: sample(this.scene.normal, normal),
      temperature: tensor(Float32Array.of(this.temperature), [1]),
    };
    for (const name of Object.keys(feeds)) if (!this.stepSession.inputNames.includes(name)) delete feeds[name];
    const outputs = await this.stepSession.run(feeds);
    const data = (name) => outputs[name].data;
    this.state = { latent: data("next_latent"), hidden: data("next_hidden"), cell: data("next_cell") };
    const reward = data("reward")[0], termination = data("termination")[0];
    this.facts = {
      step: this.facts.step + 1, reward, total: this.facts.total + reward, termination,
      over: Math.random() < termination, weights: Array.from(data("weights")), action: Array.from(this.action), real: null,
    };
    await this.draw();
  }

  async draw() {
    const { picture } = await this.pictureSession.run({ latent: tensor(this.state.latent, [1, ...this.scene.shapes.latent]) });
    this.dream = picture.data;
    if (this.recording) {
      this.numRecorded += 1;
      if (this.numRecorded > RECORDING_SECONDS * this.speed) this.record(false);
    }
  }

  record(on) {
    if (on === this.recording) return;
    this.recording = on;
    if (!on) { this.recorder.stop(); return; }
    this.numRecorded = 0;
    const chunks = [];
    this.recorder = new MediaRecorder(this.canvas.captureStream(30));
    this.recorder.ondataavailable = ({ data }) => chunks.push(data);
    this.recorder.onstop = () => this.page.film(URL.createObjectURL(new Blob(chunks, { type: this.recorder.mimeType })), "dream.webm");
    this.recorder.start();
  }

  show() {
    const { controller, paused, speed, temperature, recording, numRecorded } = this;
    this.page.show({ ...this.facts, past: this.past.length, controller, paused, speed, temperature, recording, film: numRecorded }, this.dream, null);
  }
}
