// What the stories share: checks, waiting, asking the test that runs them, and a TCP proxy that can go silent.
//
// A story gets the server's address in URL. It prints one line of JSON per check, `{"check":…,"ok":…}`, and ends with 0
// only if all were fine. What it cannot do itself it asks for with a line `{"ask":…}`, and reads the answer, a line of
// JSON, from stdin: `kill`, `start`, `restart` (the server, -9), `redeliver` (the binary, with `args`).
// It never sleeps to let something happen: it waits for the thing itself, for as long as a slow machine may need.

import { createConnection, createServer } from "node:net";
import { createInterface } from "node:readline";
import { io } from "socket.io-client";

export const url = process.env.URL ?? "http://127.0.0.1:7400";
export const patience_ms = 60_000;

let failures = 0;
let checks = 0;

/** Notes whether something holds. Never throws, so that a story shows all that is wrong. */
export function check(name, ok, detail) {
  checks += 1;
  if (!ok) failures += 1;
  console.log(JSON.stringify({ check: name, ok: Boolean(ok), ...(ok || detail === undefined ? {} : { detail }) }));
}

/** Notes whether two values are the same as JSON, binary included. */
export function same(name, actual, expected) {
  const [a, b] = [plain(actual), plain(expected)];
  check(name, a === b, { actual: a.slice(0, 2000), expected: b.slice(0, 2000) });
}

/** One part of a story. What it throws is a failed check of its name. */
export async function part(name, run) {
  try {
    await within(run(), name);
    check(name, true);
  } catch (error) {
    check(name, false, String(error?.stack ?? error));
  }
}

/** Ends the story. */
export function end() {
  if (checks === 0) failures += 1;
  process.exit(failures === 0 ? 0 : 1);
}

function plain(value) {
  return JSON.stringify(value, (_, inner) => {
    if (inner instanceof ArrayBuffer) inner = Buffer.from(inner);
    if (inner?.type === "Buffer") return { bytes: inner.data };
    if (ArrayBuffer.isView(inner)) return { bytes: [...new Uint8Array(inner.buffer, inner.byteOffset, inner.byteLength)] };
    // The order of an object's keys says nothing.
    if (inner && typeof inner === "object" && !Array.isArray(inner)) return Object.fromEntries(Object.entries(inner).sort());
    return inner;
  }) ?? "undefined";
}

/** A promise's result, or an error that names what was waited for. */
export function within(promise, what, ms = patience_ms) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited ${ms} ms for: ${what}`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** The next event of this name, as the array of its arguments. */
export function next(emitter, name) {
  return within(new Promise((resolve) => emitter.once(name, (...args) => resolve(args))), `event ${name}`);
}

/** Asks the test that runs this story. */
const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
export async function ask(what, more = {}) {
  console.log(JSON.stringify({ ask: what, ...more }));
  const { value, done } = await within(answers.next(), `an answer to ${what}`, 2 * patience_ms);
  if (done) throw new Error(`nobody answers ${what}`);
  const answer = JSON.parse(value);
  if (answer.error) throw new Error(`${what}: ${answer.error}`);
  return answer;
}

/** A stock client. Without `multiplex`, so that each is a connection of its own; quick to come back. */
export function client(options = {}, to = url, namespace = "") {
  return io(to + namespace, { forceNew: true, reconnectionDelay: 20, reconnectionDelayMax: 200, ...options });
}

/** A stock client that is connected. */
export async function connected(options, to, namespace) {
  const socket = client(options, to, namespace);
  await up(socket);
  return socket;
}

/** Waits until it is connected, and gives it. */
export async function up(socket) {
  if (!socket.connected) await within(new Promise((resolve) => socket.once("connect", resolve)), "connect");
  return socket;
}

/** Calls one of the server's events and gives its reply. */
export async function call(socket, ...args) {
  return within(socket.emitWithAck(...args), `the reply to ${args[0]}`);
}

/** Calls one that must say ok. */
export async function insist(socket, ...args) {
  const reply = await call(socket, ...args);
  if (reply?.ok !== true) throw new Error(`${args.slice(0, 2).join(" ")}: ${JSON.stringify(reply)}`);
  return reply;
}

/** Cuts a client's connection as a network does: without a word. It stays away until `back` is called. */
export async function cut(socket) {
  socket.io.reconnection(false);
  const gone = next(socket, "disconnect");
  socket.io.engine.close();
  await gone;
}

/** Lets a client that was cut come back, and waits until it is connected. */
export async function back(socket) {
  socket.io.reconnection(true);
  const again = within(new Promise((resolve) => socket.once("connect", resolve)), "reconnect");
  socket.connect();
  await again;
}

const offset_form = /^rd1\.[\w-]+\.([0-9a-z]+)(?:-[0-9a-z]+)?\.[0-9a-z]+$/;

/** The seq in an offset; none if it is no offset. */
export function seqOf(offset) {
  const found = typeof offset === "string" && offset_form.exec(offset);
  return found ? Number.parseInt(found[1], 36) : null;
}

/** Gathers what a socket receives, without offsets: `[name, ...args]` each. */
export class Inbox {
  constructor(socket) {
    this.rows = [];
    this.seqs = [];
    this.waiting = [];
    socket.onAny((name, ...args) => {
      if (typeof args.at(-1) === "function") args.pop()();
      const seq = seqOf(args.at(-1));
      if (seq !== null) args.pop();
      this.seqs.push(seq);
      this.rows.push([name, ...args]);
      this.waiting = this.waiting.filter((look) => !look());
    });
  }

  /** Waits until a row satisfies this. */
  until(what, satisfies) {
    return within(new Promise((resolve) => {
      const look = () => this.rows.some(satisfies) && (resolve(), true);
      if (!look()) this.waiting.push(look);
    }), what);
  }

  /** Waits until there are at least this many. */
  count(count) {
    return within(new Promise((resolve) => {
      const look = () => this.rows.length >= count && (resolve(), true);
      if (!look()) this.waiting.push(look);
    }), `${count} events, there are never more than ${this.rows.length} (now)`);
  }

  /** The rows that this name has. */
  named(name) {
    return this.rows.filter((row) => row[0] === name);
  }
}

/** A TCP proxy to the server that can stop forwarding, so that both ends keep a connection that is dead. */
export class Proxy {
  static async start() {
    const proxy = new Proxy();
    const { hostname, port } = new URL(url);
    proxy.links = [];
    proxy.server = createServer((near) => {
      const far = createConnection({ host: hostname, port: Number(port) });
      const link = { near, far };
      proxy.links.push(link);
      near.pipe(far).pipe(near);
      for (const end of [near, far]) end.on("error", () => {});
      near.on("close", () => link.silent || far.destroy());
      far.on("close", () => link.silent || near.destroy());
    });
    await new Promise((resolve) => proxy.server.listen(0, "127.0.0.1", resolve));
    proxy.url = `http://127.0.0.1:${proxy.server.address().port}`;
    return proxy;
  }

  /** From now on nothing comes through the connections that there are, and nobody is told. New ones are forwarded. */
  silence() {
    for (const link of this.links) {
      link.silent = true;
      link.near.unpipe(link.far);
      link.far.unpipe(link.near);
      for (const end of [link.near, link.far]) end.pause();
    }
  }

  close() {
    for (const { near, far } of this.links) near.destroy(), far.destroy();
    this.server.close();
  }
}
