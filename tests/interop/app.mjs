// The stock JS client against an application of its own (`interop_server`): rooms, acks with timeouts, broadcasts, namespaces,
// middleware, and the recovery stories that need an app.

import { back, call, check, client, connected, cut, end, Inbox, insist, next, part, same, url, within } from "./story.mjs";

const app = (options) => connected(options, url, "/app");
const numbers = (from, to) => Array.from({ length: to - from + 1 }, (_, i) => ["n", from + i]);

await part("acks and answers, text and binary", async () => {
  const socket = await app();
  same("ack", await call(socket, "echo", 1, "two", [3], { four: null }), 1);
  const all = await within(new Promise((resolve) => socket.emit("echo", 1, Uint8Array.from([2, 3]), { b: Buffer.from("x") }, (...args) => resolve(args))), "the ack");
  same("several arguments, binary", all, [1, Uint8Array.from([2, 3]), { b: Buffer.from("x") }]);
  socket.emit("echo", "no ack", Uint8Array.from([9]));
  same("an event back", (await next(socket, "echoed")).slice(0, 2), ["no ack", Uint8Array.from([9])]);
  const late = await socket.timeout(50).emitWithAck("never-answered").then(() => "answered", (error) => error.message);
  same("the client's own timeout", late, "operation has timed out");
  socket.close();
});

await part("rooms: to one, to several, except, others", async () => {
  const [a, b, c] = await Promise.all([app(), app(), app()]);
  const [in_a, in_b, in_c] = [a, b, c].map((socket) => new Inbox(socket));
  await insist(a, "join", "red"), await insist(b, "join", "red"), await insist(b, "join", "blue"), await insist(c, "join", "blue");
  same("rooms", await call(b, "rooms"), ["blue", "red"]);
  await insist(c, "say", ["red"], "to-red", 1);
  await insist(c, "say", ["red", "blue"], "to-both", 2);
  await insist(a, "say-others", "red", "to-others", 3);
  await insist(c, "say-except", "red", "blue", "except-blue", 4);
  await insist(b, "leave", "blue");
  await insist(c, "say-except", "red", "blue", "except-nobody", 5);
  await insist(c, "say", ["red", "blue"], "end");
  for (const inbox of [in_a, in_b, in_c]) await inbox.until("end", (row) => row[0] === "end");
  same("a", in_a.rows, [["to-red", 1], ["to-both", 2], ["except-blue", 4], ["except-nobody", 5], ["end"]]);
  same("b, in both, gets each once", in_b.rows, [["to-red", 1], ["to-both", 2], ["to-others", 3], ["except-nobody", 5], ["end"]]);
  same("c", in_c.rows, [["to-both", 2], ["end"]]);
  for (const socket of [a, b, c]) socket.close();
});

await part("the server asks a room, and hears who answers", async () => {
  const [a, b, silent] = await Promise.all([app(), app(), app()]);
  for (const [socket, answer] of [[a, "a"], [b, "b"]]) socket.on("question", (question, ack) => typeof ack === "function" && ack(`${answer}: ${question}`));
  for (const socket of [a, b]) await insist(socket, "join", "asked");
  same("all", await call(a, "ask", "asked", 30_000, "tea?"), { complete: true, answers: ["a: tea?", "b: tea?"] });
  await insist(silent, "join", "asked");
  same("all but one", await call(a, "ask", "asked", 300, "tea?"), { complete: false, answers: ["a: tea?", "b: tea?"] });
  for (const socket of [a, b, silent]) socket.close();
});

await part("disconnects have the reasons of the reference", async () => {
  const one = await app();
  one.emit("leave-me", true);
  same("by the server, whole", (await next(one, "disconnect"))[0], "io server disconnect");
  const two = await app();
  const reason = next(two, "disconnect");
  two.disconnect();
  same("by the client", (await reason)[0], "io client disconnect");
});

await part("two namespaces on one connection", async () => {
  const first = await connected({ forceNew: false }, url, "/app");
  const second = client({ forceNew: false, auth: { token: "open sesame", user: "ann" } }, url, "/private");
  await within(new Promise((resolve, reject) => (second.on("connect", resolve), second.on("connect_error", reject))), "connect");
  check("one connection", first.io.engine.id === second.io.engine.id);
  check("two sids", first.id !== second.id);
  same("each has its events", [await call(first, "echo", 1), await call(second, "whoami")], [1, "ann"]);
  second.disconnect();
  same("the other goes on", await call(first, "echo", 2), 2);
  first.close();
});

await part("middleware refuses with message and data, and lets in", async () => {
  for (const auth of [undefined, { token: "wrong" }, { user: "ann" }]) {
    const refused = client({ auth }, url, "/private");
    const [error] = await next(refused, "connect_error");
    same("message", error.message, "not authorized");
    same("data", error.data, { code: 401 });
    refused.close();
  }
  const socket = client({ auth: { token: "wrong" } }, url, "/private");
  await next(socket, "connect_error");
  socket.auth = { token: "open sesame", user: "ann" };
  socket.connect();
  await next(socket, "connect");
  same("in", await call(socket, "whoami"), "ann");
  socket.close();
});

await part("recovery: rooms are as they were, one left is not replayed, one joined late gives nothing older", async () => {
  const [reader, writer] = await Promise.all([app(), app()]), inbox = new Inbox(reader);
  await insist(reader, "join", "kept"), await insist(reader, "join", "left");
  await insist(writer, "say", ["late"], "older");
  await insist(writer, "say", ["kept"], "n", 1), await insist(writer, "say", ["left"], "n", 2);
  await inbox.count(2);
  await insist(reader, "leave", "left");
  await insist(writer, "say", ["left"], "gone");
  await insist(reader, "join", "late");
  await cut(reader);
  await insist(writer, "say", ["left"], "gone"), await insist(writer, "say", ["late"], "n", 3), await insist(writer, "say", ["kept"], "n", 4);
  await insist(writer, "say", ["kept", "late", "left"], "n", 5);
  await back(reader);
  check("recovered", reader.recovered);
  same("rooms", await call(reader, "rooms"), ["kept", "late"]);
  await insist(writer, "say", ["kept"], "n", 6);
  await inbox.count(6);
  same("events", inbox.rows, numbers(1, 6));
  reader.close(), writer.close();
});

await part("recovery: a volatile event that ends in a string, just before the cut", async () => {
  const [reader, writer] = await Promise.all([app(), app()]), inbox = new Inbox(reader);
  await insist(reader, "join", "volatile");
  for (let round = 1; round <= 3; round++) {
    await insist(writer, "say", ["volatile"], "n", 10 * round);
    await insist(writer, "say-volatile", "volatile", "shout", `a string, as an offset is, ${round}`);
    await inbox.until("the volatile one", (row) => row[0] === "shout" && row[1].endsWith(round));
    await cut(reader);
    for (let n = 1; n <= 4; n++) await insist(writer, "say", ["volatile"], "n", 10 * round + n);
    await back(reader);
    check(`recovered, time ${round}`, reader.recovered);
  }
  await insist(writer, "say", ["volatile"], "end");
  await inbox.until("end", (row) => row[0] === "end");
  same("all that was logged, once, in order", inbox.named("n"), [1, 2, 3].flatMap((round) => numbers(10 * round, 10 * round + 4)));
  reader.close(), writer.close();
});

await part("recovery: who was revoked does not get back in by its pid", async () => {
  const eve = await connected({ auth: { token: "open sesame", user: "eve" } }, url, "/private"), inbox = new Inbox(eve);
  const ann = await connected({ auth: { token: "open sesame", user: "ann" } }, url, "/private"), admin = await app();
  await insist(eve, "join", "secrets");
  await insist(ann, "say", "secrets", "n", 1);
  await inbox.count(1);
  await cut(eve);
  await insist(ann, "say", "secrets", "n", 2);
  await insist(admin, "revoke", "eve");
  eve.io.reconnection(true);
  eve.connect();
  const [error] = await next(eve, "connect_error");
  same("refused", error.message, "not authorized");
  same("nothing of what she missed", inbox.rows, [["n", 1]]);
  for (const socket of [eve, ann, admin]) socket.close();
});

end();
