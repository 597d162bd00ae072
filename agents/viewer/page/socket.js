// The engine that asks a server: one WebSocket, one dream.

const FRAME = 64 * 64 * 3;

export class Engine {
  constructor(page) { this.page = page; }

  start() {
    const url = new URL("dream", location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    this.socket = new WebSocket(url);
    this.socket.binaryType = "arraybuffer";
    this.socket.onmessage = ({ data }) => (typeof data === "string" ? this.hear(JSON.parse(data)) : this.see(data));
    this.socket.onclose = ({ code }) => this.page.say(code === 1013 ? "Too many visitors: come back later." : "The server has gone: reload to dream on.");
  }

  send(message) { if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message)); }

  hear(message) {
    if (message.error) return console.warn(message.error);
    this.page.hello(message);
  }

  see(data) {
    const length = new DataView(data).getUint32(0, true);
    const facts = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
    const start = 4 + length;
    const real = data.byteLength > start + FRAME ? new Uint8Array(data, start + FRAME, FRAME) : null;
    this.page.show(facts, new Uint8Array(data, start, FRAME), real);
  }
}
