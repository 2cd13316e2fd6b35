// Socket.IO v5 on the wire as its protocol's text has it, against `socketio_conformance`: namespaces / and /custom emit
// `auth` with the auth payload; / answers `message` with `message-back` and acknowledges `message-with-ack`.

import WebSocket from "ws";
import { check, end, part, same, url, within } from "./story.mjs";

const endpoint = `${url}/socket.io/`;

class Raw {
  constructor() {
    this.socket = new WebSocket(`${endpoint.replace(/^http/, "ws")}?EIO=4&transport=websocket`);
    this.messages = [];
    this.readers = [];
    this.closed = new Promise((resolve) => this.socket.once("close", resolve));
    this.socket.on("error", () => {});
    this.socket.on("message", (data, binary) => {
      const message = binary ? data : data.toString();
      if (message === "2") return this.socket.send("3");
      const reader = this.readers.shift();
      if (reader) reader(message); else this.messages.push(message);
    });
  }
  read() {
    if (this.messages.length > 0) return Promise.resolve(this.messages.shift());
    return within(new Promise((resolve) => this.readers.push(resolve)), "a message");
  }
  async readAll(count) {
    const all = [];
    while (all.length < count) all.push(await this.read());
    return all;
  }
  send(data) { this.socket.send(data); }
  close() { this.socket.close(); }
}

async function open() {
  const raw = new Raw();
  same("Engine.IO handshake", (await raw.read())[0], "0");
  return raw;
}

async function joined() {
  const raw = await open();
  raw.send("40");
  await raw.readAll(2);
  return raw;
}

/** After this, the connection must be closed by the server. */
async function closes(raw, ...packets) {
  for (const packet of packets) raw.send(packet);
  await within(raw.closed, `the end after ${JSON.stringify(packets)}`);
}

for (const [name, packet, prefix, auth] of [
  ["the main namespace", "40", "40", "{}"],
  ["the main namespace with a payload", '40{"token":"123"}', "40", '{"token":"123"}'],
  ["a namespace", "40/custom,", "40/custom,", "{}"],
  ["a namespace with a payload", '40/custom,{"token":"abc"}', "40/custom,", '{"token":"abc"}'],
]) {
  await part(`connect to ${name}`, async () => {
    const raw = await open();
    raw.send(packet);
    const [connect, event] = await raw.readAll(2);
    check("prefix", connect.startsWith(prefix), connect);
    const answer = JSON.parse(connect.slice(prefix.length));
    same("only a sid", Object.keys(answer), ["sid"]);
    check("sid", typeof answer.sid === "string" && answer.sid.length > 0, answer);
    same("auth", event, `42${prefix.slice(2)}["auth",${auth}]`);
    raw.close();
  });
}

await part("the sid of a socket is not the session's", async () => {
  const raw = new Raw();
  const session = JSON.parse((await raw.read()).slice(1)).sid;
  raw.send("40");
  const [connect] = await raw.readAll(2);
  check("another", JSON.parse(connect.slice(2)).sid !== session);
  raw.close();
});

await part("an unknown namespace is refused, and the rest goes on", async () => {
  const raw = await joined();
  raw.send("40/random");
  same("error", await raw.read(), '44/random,{"message":"Invalid namespace"}');
  raw.send('42["message",1]');
  same("goes on", await raw.read(), '42["message-back",1]');
  raw.close();
});

await part("a malformed connect closes", async () => closes(await open(), "4abc"));
await part("anything before connect closes", async () => {
  await closes(await open(), '42["message"]');
  await closes(await joined(), '42/custom,["message"]');
});
await part("no connect in time closes", async () => within((await open()).closed, "the end"));

await part("disconnect from the main namespace", async () => {
  const raw = await joined();
  await closes(raw, "41", '42["message","not joined any more"]');
});

await part("disconnect from a namespace keeps the other", async () => {
  const raw = await joined();
  raw.send("40/custom");
  await raw.readAll(2);
  raw.send("41/custom");
  raw.send('42["message","to main"]');
  same("main", await raw.read(), '42["message-back","to main"]');
  raw.close();
});

for (const [name, sent, expected] of [
  ["text", ['42["message",1,"2",{"3":[true]}]'], ['42["message-back",1,"2",{"3":[true]}]']],
  ["no arguments", ['42["message"]'], ['42["message-back"]']],
  ["binary", ['452-["message",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]', Uint8Array.from([1, 2, 3]), Uint8Array.from([4, 5, 6])],
    ['452-["message-back",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]', Uint8Array.from([1, 2, 3]), Uint8Array.from([4, 5, 6])]],
  ["text with an ack", ['42456["message-with-ack",1,"2",{"3":[false]}]'], ['43456[1,"2",{"3":[false]}]']],
  ["binary with an ack", ['452-789["message-with-ack",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]', Uint8Array.from([1, 2, 3]), Uint8Array.from([4, 5, 6])],
    ['462-789[{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]', Uint8Array.from([1, 2, 3]), Uint8Array.from([4, 5, 6])]],
]) {
  await part(`event with ${name}`, async () => {
    const raw = await joined();
    for (const packet of sent) raw.send(packet);
    same(name, await raw.readAll(expected.length), expected);
    raw.close();
  });
}

// Others had to publish advisories for some of these.
for (const [name, ...packets] of [
  ["an unknown packet type", "4abc"],
  ["an empty packet", "4"],
  ["a payload that is no array", "42{}"],
  ["an empty array", "42[]"],
  ["a name that is no string", "42[{}]"],
  ["an ack id that is no number", '42abc["message-with-ack",1,"2",{"3":[false]}]'],
  ["an ack id that is too large", '4299999999999999999999["message-with-ack"]'],
  ["a reserved name", '42["connect"]'],
  ["another reserved name", '42["disconnecting"]'],
  ["JSON that ends early", '42["message",'],
  ["JSON that goes on", '42["message"]x'],
  ["JSON that is very deep", `42["message",${"[".repeat(5000)}${"]".repeat(5000)}]`],
  ["half a character", '42["message","\\ud83d'],
  ["more attachments than anybody sends", '45999999999-["message",{"_placeholder":true,"num":0}]'],
  ["a number of attachments that is none", '45x-["message"]'],
  ["an attachment that was not announced", Uint8Array.from([1])],
  ["a text in the middle of attachments", '451-["message",{"_placeholder":true,"num":0}]', '42["message"]'],
  ["a placeholder for an attachment that is not there", '451-["message",{"_placeholder":true,"num":7}]', Uint8Array.from([1])],
  ["a placeholder whose number is none", '451-["message",{"_placeholder":true,"num":"0"}]', Uint8Array.from([1])],
  ["a connect error, which is the server's", '44{"message":"no"}'],
  ["a connect payload that is no object", "40[1]"],
]) {
  await part(`closed for ${name}`, async () => closes(await (name.startsWith("a connect payload") ? open() : joined()), ...packets));
}

await part("after all of this the server serves", async () => {
  const raw = await joined();
  raw.send('42["message","still here"]');
  same("echo", await raw.read(), '42["message-back","still here"]');
  raw.close();
});

end();
