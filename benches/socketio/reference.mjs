// The server that the gateway is measured beside: socket.io on Node, with its own in-memory recovery on and nothing else.
//
//   npm ci --prefix benches/socketio && PORT=0 node benches/socketio/reference.mjs
//
// Answers the same three events as `redeliver serve`, so one load generator drives both. Prints `ready <port>` once it
// listens on 127.0.0.1 (PORT, default 3001; 0 takes a free one). Ends on SIGTERM, SIGINT, or when its stdin is closed
// and WATCH_STDIN is set, so that it never outlives a bench that was killed.

import { createServer } from "node:http";
import { Server } from "socket.io";

const http = createServer();
const io = new Server(http, {
  serveClient: false,
  // As redeliver: no compression of frames. Both are the defaults, and are said here because figures hang on them.
  perMessageDeflate: false,
  httpCompression: false,
  pingInterval: Number(process.env.PING_INTERVAL_MS ?? 25_000),
  pingTimeout: Number(process.env.PING_TIMEOUT_MS ?? 20_000),
  connectionStateRecovery: { maxDisconnectionDuration: 10 * 60_000, skipMiddlewares: true },
});

let seq = 0;

io.on("connection", (socket) => {
  socket.on("subscribe", (topic, ...rest) => {
    socket.join(topic);
    rest.at(-1)?.({ ok: true, topic });
  });
  socket.on("unsubscribe", (topic, ack) => {
    socket.leave(topic);
    ack?.({ ok: true, topic });
  });
  socket.on("emit", (topic, name, ...rest) => {
    const ack = typeof rest.at(-1) === "function" ? rest.pop() : undefined;
    io.to(topic).emit(name, ...rest);
    ack?.({ ok: true, seq: ++seq });
  });
});

http.listen(Number(process.env.PORT ?? 3001), "127.0.0.1", () => console.log(`ready ${http.address().port}`));

const stop = () => process.exit(0);
process.on("SIGTERM", stop);
process.on("SIGINT", stop);
if (process.env.WATCH_STDIN) process.stdin.on("end", stop).resume();
