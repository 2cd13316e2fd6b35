// Engine.IO v4 as its protocol's text has it, against `engineio_conformance`: an echo under /engine.io/ with pings each
// 300 ms that want an answer within 200 ms, and at most 1,000,000 bytes a payload.

import WebSocket from "ws";
import { end, part, same, check, url, within } from "./story.mjs";

const endpoint = `${url}/engine.io/`;
const ws_endpoint = endpoint.replace(/^http/, "ws");
const interval_ms = 300, timeout_ms = 200;

const get = (query) => fetch(`${endpoint}?${query}`);
const post = (query, body, headers = {}) => fetch(`${endpoint}?${query}`, { method: "POST", body, headers });
const polling = (sid) => `EIO=4&transport=polling${sid ? `&sid=${sid}` : ""}`;

async function handshake() {
  const text = await (await get(polling())).text();
  return JSON.parse(text.slice(1)).sid;
}

/** A raw WebSocket whose messages are read one by one. */
class Raw {
  constructor(query) {
    this.socket = new WebSocket(`${ws_endpoint}?${query}`);
    this.messages = [];
    this.readers = [];
    this.opened = new Promise((resolve) => this.socket.once("open", resolve));
    this.closed = new Promise((resolve) => this.socket.once("close", resolve));
    this.refused = new Promise((resolve) => this.socket.once("unexpected-response", (_, response) => resolve(response.statusCode)));
    this.socket.on("error", () => {});
    this.socket.on("message", (data, binary) => {
      const message = binary ? data : data.toString();
      const reader = this.readers.shift();
      if (reader) reader(message); else this.messages.push(message);
    });
  }
  read() {
    if (this.messages.length > 0) return Promise.resolve(this.messages.shift());
    return within(new Promise((resolve) => this.readers.push(resolve)), "a message");
  }
  /** The next message that is no ping. */
  async readData() {
    for (;;) {
      const message = await this.read();
      if (message !== "2") return message;
    }
  }
  send(data) { this.socket.send(data); }
  close() { this.socket.close(); }
}

function checkHandshake(name, text, upgrades) {
  const { sid, ...rest } = JSON.parse(text.slice(1));
  same(`${name}: open packet`, text[0], "0");
  check(`${name}: sid`, typeof sid === "string" && sid.length > 0, sid);
  const sorted = Object.fromEntries(Object.entries(rest).sort());
  same(`${name}: exactly the documented keys`, sorted, { maxPayload: 1_000_000, pingInterval: interval_ms, pingTimeout: timeout_ms, upgrades });
}

await part("handshake by polling", async () => {
  const response = await get(polling());
  same("status", response.status, 200);
  same("type", response.headers.get("content-type"), "text/plain; charset=UTF-8");
  checkHandshake("polling", await response.text(), ["websocket"]);
});

await part("handshake by polling is refused with a code", async () => {
  for (const [query, code] of [["transport=polling", 5], ["EIO=abc&transport=polling", 5], ["EIO=4", 0], ["EIO=4&transport=abc", 0], [`${polling("nobody")}`, 1]]) {
    const response = await get(query);
    same(`${query}: status`, response.status, 400);
    same(`${query}: code`, (await response.json()).code, code);
  }
  for (const method of ["POST", "PUT"]) {
    const response = await fetch(`${endpoint}?${polling()}`, { method });
    same(`${method}: status`, response.status, 400);
    same(`${method}: code`, (await response.json()).code, 2);
  }
});

await part("handshake by WebSocket", async () => {
  const raw = new Raw("EIO=4&transport=websocket");
  checkHandshake("websocket", await raw.read(), []);
  raw.close();
});

await part("handshake by WebSocket is refused", async () => {
  for (const query of ["transport=websocket", "EIO=abc&transport=websocket", "EIO=4", "EIO=4&transport=abc"]) {
    const raw = new Raw(query);
    await within(Promise.race([raw.closed, raw.refused]), `${query} to be refused`);
  }
});

await part("messages by polling are echoed", async () => {
  for (const body of ["4hello", "4test1\x1e4test2\x1e4test3", "4hello\x1ebAQIDBA==", "4ä€\u{1f600}"]) {
    const sid = await handshake();
    const answer = await post(polling(sid), body);
    same("POST", [answer.status, await answer.text()], [200, "ok"]);
    let got = "";
    while (got.length < body.length) {
      const response = await get(polling(sid));
      same("GET", response.status, 200);
      const packets = (await response.text()).split("\x1e").filter((packet) => packet !== "2");
      got = [got, ...packets].filter(Boolean).join("\x1e");
    }
    same("echo", got, body);
  }
});

await part("a malformed payload closes the session", async () => {
  for (const body of ["abc", "", "4ok\x1e", "b*", "4a\x1e9"]) {
    const sid = await handshake();
    same(`${JSON.stringify(body)}: POST`, (await post(polling(sid), body)).status, 400);
    same(`${JSON.stringify(body)}: then`, (await get(polling(sid))).status, 400);
  }
});

await part("a payload larger than maxPayload is refused, one of its size is not", async () => {
  const sid = await handshake();
  const large = await post(polling(sid), `4${"x".repeat(1_000_000)}`).then((response) => response.status, () => 413);
  same("one more", large, 413);
  const fits = await handshake();
  same("exactly", (await post(polling(fits), `4${"x".repeat(999_999)}`)).status, 200);
});

await part("two polls at once close the session", async () => {
  const sid = await handshake();
  const [first, second] = await Promise.all([get(polling(sid)), get(`${polling(sid)}&t=burst`)]);
  same("one is told that it closes, the other is refused", [first.status, second.status].sort(), [200, 400]);
  same("close packet", await (first.status === 200 ? first : second).text(), "1");
  same("then", (await get(polling(sid))).status, 400);
});

await part("messages by WebSocket are echoed", async () => {
  const raw = new Raw("EIO=4&transport=websocket");
  await raw.read();
  raw.send("4hello");
  same("text", await raw.readData(), "4hello");
  raw.send(Uint8Array.from([1, 2, 3, 4]));
  same("binary", await raw.readData(), Uint8Array.from([1, 2, 3, 4]));
  raw.close();
});

await part("a malformed packet closes the WebSocket", async () => {
  for (const message of ["abc", "", "9", "0{}", "6", "2probe"]) {
    const raw = new Raw("EIO=4&transport=websocket");
    await raw.read();
    raw.send(message);
    await within(raw.closed, `the end after ${JSON.stringify(message)}`);
  }
});

await part("the server pings by polling, and stays while it is answered", async () => {
  const sid = await handshake();
  for (let i = 0; i < 3; i++) {
    same("ping", await (await get(polling(sid))).text(), "2");
    same("pong", (await post(polling(sid), "3")).status, 200);
  }
});

await part("no pong closes a polling session", async () => {
  const sid = await handshake();
  same("ping", await (await get(polling(sid))).text(), "2");
  // The waiting poll is how its end is heard of.
  const last = await get(polling(sid));
  check("the poll ends", [200, 400].includes(last.status), last.status);
  same("then", (await get(polling(sid))).status, 400);
});

await part("the server pings by WebSocket, and stays while it is answered", async () => {
  const raw = new Raw("EIO=4&transport=websocket");
  await raw.read();
  for (let i = 0; i < 3; i++) {
    same("ping", await raw.read(), "2");
    raw.send("3");
  }
  raw.close();
});

await part("no pong closes a WebSocket", async () => {
  const raw = new Raw("EIO=4&transport=websocket");
  await within(raw.closed, "the end");
});

await part("a close packet ends a polling session", async () => {
  const sid = await handshake();
  const [poll, close] = await Promise.all([get(polling(sid)), post(polling(sid), "1")]);
  same("close", close.status, 200);
  same("the waiting poll gets a noop", [poll.status, await poll.text()], [200, "6"]);
  same("then", (await get(polling(sid))).status, 400);
});

await part("a close packet ends a WebSocket", async () => {
  const raw = new Raw("EIO=4&transport=websocket");
  await raw.read();
  raw.send("1");
  await within(raw.closed, "the end");
});

async function upgraded() {
  const sid = await handshake();
  const raw = new Raw(`EIO=4&transport=websocket&sid=${sid}`);
  await within(raw.opened, "open");
  raw.send("2probe");
  same("probe", await raw.read(), "3probe");
  return { sid, raw };
}

await part("upgrade: the waiting poll gets a noop, then messages go by WebSocket", async () => {
  const { sid, raw } = await upgraded();
  const poll = await get(polling(sid));
  const first = (await poll.text()).split("\x1e");
  check("noop, perhaps a ping before it", first.includes("6"), first);
  raw.send("5");
  raw.send("4hello");
  same("echo", await raw.readData(), "4hello");
  raw.close();
});

await part("upgrade: what was sent meanwhile comes once", async () => {
  const sid = await handshake();
  await post(polling(sid), "4before");
  const raw = new Raw(`EIO=4&transport=websocket&sid=${sid}`);
  await within(raw.opened, "open");
  raw.send("2probe");
  same("probe", await raw.read(), "3probe");
  raw.send("5");
  raw.send("4after");
  same("kept for the WebSocket", [await raw.readData(), await raw.readData()], ["4before", "4after"]);
  raw.close();
});

await part("upgrade: HTTP with this sid is refused afterwards, and harms nothing", async () => {
  const { sid, raw } = await upgraded();
  raw.send("5");
  raw.send("4there?");
  same("upgraded", await raw.readData(), "4there?");
  same("GET", (await get(polling(sid))).status, 400);
  same("POST", (await post(polling(sid), "4x")).status, 400);
  raw.send("4hello");
  same("echo", await raw.readData(), "4hello");
  raw.close();
});

await part("upgrade: a second WebSocket with this sid is refused, and harms nothing", async () => {
  const { sid, raw } = await upgraded();
  raw.send("5");
  raw.send("4there?");
  same("upgraded", await raw.readData(), "4there?");
  const second = new Raw(`EIO=4&transport=websocket&sid=${sid}`);
  await within(Promise.race([second.closed, second.refused]), "the second's end");
  raw.send("4hello");
  same("echo", await raw.readData(), "4hello");
  raw.close();
});

await part("CORS: a preflight is answered", async () => {
  const response = await fetch(`${endpoint}?${polling()}`, { method: "OPTIONS", headers: { origin: url, "access-control-request-method": "POST" } });
  check("2xx", response.status >= 200 && response.status < 300, response.status);
});

end();
