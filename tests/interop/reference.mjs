// socket.io's own server with the events and the test application of redeliver's, so that each story can be tried
// against the reference first: what fails here says something about the story, not about redeliver.
//
//   PORT=0 node tests/interop/reference.mjs        prints `ready <port>`
//
// Its offsets have redeliver's form, but its log is memory: stories that need more than the reference can do (a killed
// server, a cursor without an offset) fail here, as they should.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { Server } from "socket.io";
import { SessionAwareAdapter } from "socket.io-adapter";

const assets = new URL("../../crates/socketio/assets/", import.meta.url);
const page = readFileSync(new URL("index.html", assets), "utf8");
const sha256 = (tag) => {
  const inside = new RegExp(`<${tag}>([\\s\\S]*?)</${tag}>`).exec(page)[1];
  return `'sha256-${createHash("sha256").update(inside).digest("base64")}'`;
};
const policy = `default-src 'none'; script-src 'self' ${sha256("script")}; style-src ${sha256("style")}; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'`;

let seq = 0;

class NumberedAdapter extends SessionAwareAdapter {
  broadcast(packet, opts) {
    if (packet.type === 2 && packet.id === undefined && !opts.flags?.volatile) {
      seq += 1;
      if (process.env.TOPICS) packet.data.push([...opts.rooms]);
      const id = `rd1.AAAA.${seq.toString(36)}.0`;
      packet.data.push(id);
      this.packets.push({ id, opts, data: packet.data, emittedAt: Date.now() });
    }
    Object.getPrototypeOf(SessionAwareAdapter.prototype).broadcast.call(this, packet, opts);
  }
}

const http = createServer((request, response) => {
  const path = request.url.split("?")[0];
  if (path === "/") {
    response.writeHead(200, { "content-type": "text/html; charset=utf-8", "content-security-policy": policy });
    response.end(page);
  } else {
    response.writeHead(404).end();
  }
});
const io = new Server(http, {
  pingInterval: Number(process.env.PING_INTERVAL_MS ?? 25_000),
  pingTimeout: Number(process.env.PING_TIMEOUT_MS ?? 20_000),
  // Handlers of fixed arity, as Python's, break with it: RECOVERY=off to try those.
  ...(process.env.RECOVERY === "off" ? {} : { adapter: NumberedAdapter, connectionStateRecovery: { maxDisconnectionDuration: 120_000, skipMiddlewares: false } }),
});

// ---- What `redeliver serve` answers by itself ----

io.on("connection", (socket) => {
  socket.on("subscribe", (topic, ...rest) => {
    socket.join(topic);
    rest.at(-1)?.({ ok: true, topic, offset: `rd1.AAAA.${seq.toString(36)}.0`, labelled: Boolean(process.env.TOPICS) });
  });
  socket.on("unsubscribe", (topic, ack) => {
    socket.leave(topic);
    ack?.({ ok: true, topic });
  });
  socket.on("emit", (topic, name, ...rest) => {
    const ack = typeof rest.at(-1) === "function" ? rest.pop() : undefined;
    io.to(topic).emit(name, ...rest);
    ack?.({ ok: true, seq });
  });
});

// ---- The test application: crates/socketio/examples/interop_server.rs is its twin ----

const revoked = new Set();
const app = io.of("/app");
app.on("connection", (socket) => {
  socket.on("echo", (...args) => {
    const ack = args.pop();
    typeof ack === "function" ? ack(...args) : socket.emit("echoed", ...args, ack);
  });
  socket.on("join", (room, ack) => { socket.join(room); ack({ ok: true }); });
  socket.on("leave", (room, ack) => { socket.leave(room); ack({ ok: true }); });
  socket.on("rooms", (ack) => ack([...socket.rooms].filter((room) => room !== socket.id).sort()));
  socket.on("say", (rooms, name, ...args) => {
    const ack = args.pop();
    app.to(rooms).emit(name, ...args);
    ack({ ok: true });
  });
  socket.on("say-others", (room, name, ...args) => {
    const ack = args.pop();
    socket.to(room).emit(name, ...args);
    ack({ ok: true });
  });
  socket.on("say-except", (room, except, name, ...args) => {
    const ack = args.pop();
    app.to(room).except(except).emit(name, ...args);
    ack({ ok: true });
  });
  socket.on("say-volatile", (room, name, ...args) => {
    const ack = args.pop();
    app.to(room).volatile.emit(name, ...args);
    ack({ ok: true });
  });
  // Asks everyone in the room, and answers with what they answered and how many did not.
  socket.on("ask", async (room, within_ms, question, ack) => {
    app.to(room).timeout(within_ms).emit("question", question, (error, answers) => ack({ complete: !error, answers: answers.sort() }));
  });
  socket.on("leave-me", (close) => socket.disconnect(close));
  socket.on("revoke", (user, ack) => { revoked.add(user); ack({ ok: true }); });
});

io.of("/private").use((socket, next) => {
  const { token, user } = socket.handshake.auth;
  if (token === "open sesame" && !revoked.has(user)) return next();
  const error = new Error("not authorized");
  error.data = { code: 401 };
  next(error);
});
io.of("/private").on("connection", (socket) => {
  socket.on("whoami", (ack) => ack(socket.handshake.auth.user ?? null));
  socket.on("join", (room, ack) => { socket.join(room); ack({ ok: true }); });
  socket.on("say", (room, name, ...args) => {
    const ack = args.pop();
    io.of("/private").to(room).emit(name, ...args);
    ack({ ok: true });
  });
});

http.listen(Number(process.env.PORT ?? 3002), "127.0.0.1", () => console.log(`ready ${http.address().port}`));
if (process.env.WATCH_STDIN) process.stdin.on("end", () => process.exit(0)).resume();
