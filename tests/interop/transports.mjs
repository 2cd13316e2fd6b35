// The stock JS client against the standalone server, by polling, by WebSocket, and from one to the other: events both ways,
// binary, acks, and coming back.

import { back, call, check, client, connected, cut, end, Inbox, insist, next, part, same, up, url } from "./story.mjs";

const bytes = Uint8Array.from([0, 1, 2, 254, 255]);

for (const [name, options, transport] of [
  ["polling", { transports: ["polling"] }, "polling"],
  ["websocket", { transports: ["websocket"], auth: { redeliver: {} } }, "websocket"],
  ["upgrade", {}, "websocket"],
]) {
  const topic = `transports-${name}`;

  await part(`${name}: connects`, async () => {
    const socket = client(options);
    const upgraded = new Promise((resolve) => socket.io.on("open", () => socket.io.engine.once("upgrade", resolve)));
    await up(socket);
    if (name === "upgrade") await upgraded;
    same("transport", socket.io.engine.transport.name, transport);
    check("a sid of its own", socket.id && socket.id !== socket.io.engine.id);
    check("not recovered", !socket.recovered);
    socket.close();
  });

  await part(`${name}: events of a topic come to whoever follows it, in order`, async () => {
    const reader = await connected(options), writer = await connected(options), inbox = new Inbox(reader);
    await insist(reader, "subscribe", topic);
    const seqs = [];
    for (const [event, ...args] of [["text", "ä€\u{1f600}\u0000\\\""], ["json", { a: [1, null, true, 1.5] }], ["many", 1, "two", [3]], ["none"]]) {
      seqs.push((await insist(writer, "emit", topic, event, ...args)).seq);
    }
    await inbox.count(4);
    same("events", inbox.rows, [["text", "ä€\u{1f600}\u0000\\\""], ["json", { a: [1, null, true, 1.5] }], ["many", 1, "two", [3]], ["none"]]);
    same("their offsets name the seqs of the receipts", inbox.seqs, seqs);
    await insist(reader, "unsubscribe", topic);
    await insist(writer, "emit", topic, "unheard");
    await insist(reader, "subscribe", topic);
    await insist(writer, "emit", topic, "heard");
    await inbox.count(5);
    same("nothing of what came between", inbox.rows[4], ["heard"]);
    reader.close(), writer.close();
  });

  await part(`${name}: binary both ways`, async () => {
    const reader = await connected(options), writer = await connected(options), inbox = new Inbox(reader);
    await insist(reader, "subscribe", `${topic}-binary`);
    await insist(writer, "emit", `${topic}-binary`, "one", bytes);
    await insist(writer, "emit", `${topic}-binary`, "mixed", { picture: bytes, of: "tea" }, [Buffer.from("second")], 3);
    await inbox.count(2);
    same("one", inbox.rows[0], ["one", bytes]);
    same("mixed", inbox.rows[1], ["mixed", { picture: bytes, of: "tea" }, [Buffer.from("second")], 3]);
    reader.close(), writer.close();
  });

  await part(`${name}: a large event`, async () => {
    const reader = await connected(options), writer = await connected(options), inbox = new Inbox(reader);
    await insist(reader, "subscribe", `${topic}-large`);
    const large = "ä".repeat(100_000);
    await insist(writer, "emit", `${topic}-large`, "large", large);
    await inbox.count(1);
    same("as it was", inbox.rows[0], ["large", large]);
    const reply = await call(writer, "emit", `${topic}-large`, "too large", "x".repeat(900_000));
    check("one that is too large is refused in words", reply.ok === false && typeof reply.message === "string", reply);
    await insist(writer, "emit", `${topic}-large`, "next");
    await inbox.count(2);
    reader.close(), writer.close();
  });

  await part(`${name}: comes back after a cut as the same socket`, async () => {
    const reader = await connected(options), writer = await connected(options), inbox = new Inbox(reader);
    await insist(reader, "subscribe", `${topic}-back`);
    await insist(writer, "emit", `${topic}-back`, "before");
    await inbox.count(1);
    const sid = reader.id;
    await cut(reader);
    await insist(writer, "emit", `${topic}-back`, "meanwhile");
    await back(reader);
    same("sid", reader.id, sid);
    check("recovered", reader.recovered);
    await insist(writer, "emit", `${topic}-back`, "after");
    await inbox.count(3);
    same("all, once, in order", inbox.rows, [["before"], ["meanwhile"], ["after"]]);
    reader.close(), writer.close();
  });
}

await part("what is wrong is answered in words", async () => {
  const socket = await connected();
  for (const args of [["subscribe", ""], ["subscribe", "x".repeat(256)], ["subscribe", 7], ["subscribe"], ["unsubscribe"], ["emit", "topic"], ["emit", "", "name"], ["emit", {}, "name"], ["subscribe", "/#room"]]) {
    const reply = await call(socket, ...args);
    check(`${args.join(" ").slice(0, 30)} is refused`, reply?.ok === false && typeof reply.code === "string" && typeof reply.message === "string", reply);
  }
  await insist(socket, "emit", "still", "works");
  socket.close();
});

await part("a namespace that is not there is refused with the reference's words", async () => {
  const socket = client({}, url, "/nowhere");
  const [error] = await next(socket, "connect_error");
  same("message", error.message, "Invalid namespace");
  socket.close();
});

await part("the client comes from the server itself", async () => {
  for (const file of ["socket.io.js", "socket.io.min.js"]) {
    const response = await fetch(`${url}/socket.io/${file}`);
    same(`${file}: status`, response.status, 200);
    check(`${file}: javascript`, response.headers.get("content-type").startsWith("application/javascript"));
    check(`${file}: the stock client`, (await response.text()).startsWith("/*!\n * Socket.IO v4.8."));
    const again = await fetch(`${url}/socket.io/${file}`, { headers: { "if-none-match": response.headers.get("etag") } });
    same(`${file}: not sent again`, again.status, 304);
  }
});

end();
