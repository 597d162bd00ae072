// The engine of the served page: a server computes the dream and sends it over a WebSocket.

export class Engine {
  constructor(page) { this.page = page; }

  start() {
    const url = new URL("dream", location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    this.socket = new WebSocket(url);
    this.socket.binaryType = "arraybuffer";
    this.socket.onmessage = ({ data }) => (typeof data === "string" ? this.receiveMessage(JSON.parse(data)) : this.receiveFrame(data));
    this.socket.onclose = ({ code }) => this.page.setStatus(code === 1013 ? "Too many visitors: try again later." : "The connection is closed: reload the page to continue.");
  }

  send(message) { if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message)); }

  receiveMessage(message) {
    if (message.error) return console.warn(message.error);
    this.page.hello(message);
  }

  receiveFrame(data) {
    const length = new DataView(data).getUint32(0, true);
    const facts = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
    const offset = 4 + length, bytes = facts.size * facts.size * 3;
    const reality = data.byteLength > offset + bytes ? new Uint8Array(data, offset + bytes, bytes) : null;
    this.page.show(facts, new Uint8Array(data, offset, bytes), reality);
  }
}
