// What a JS client gets back after a cut: everything, once, in order, as the same socket.

import { back, check, connected, cut, end, Inbox, insist, part, Proxy, same } from "./story.mjs";

const numbers = (from, to) => Array.from({ length: to - from + 1 }, (_, i) => ["n", from + i]);

async function emit(writer, topic, from, to) {
  for (let n = from; n <= to; n++) await insist(writer, "emit", topic, "n", n);
}

for (const [name, options] of [["websocket", { transports: ["websocket"], auth: { redeliver: {} } }], ["polling", { transports: ["polling"] }], ["upgrade", {}]]) {
  await part(`${name}: a cut, and a second and a third`, async () => {
    const reader = await connected(options), writer = await connected(), inbox = new Inbox(reader);
    const topic = `cut-${name}`, sid = reader.id;
    await insist(reader, "subscribe", topic);
    await emit(writer, topic, 1, 5);
    await inbox.count(5);
    for (let i = 1; i <= 3; i++) {
      await cut(reader);
      await emit(writer, topic, 10 * i - 4, 10 * i);
      await back(reader);
      check(`recovered, time ${i}`, reader.recovered);
      same(`sid, time ${i}`, reader.id, sid);
      await emit(writer, topic, 10 * i + 1, 10 * i + 5);
      await inbox.count(10 * i + 5);
    }
    same("all, once, in order", inbox.rows, numbers(1, 35));
    check("seqs rise", inbox.seqs.every((seq, i) => i === 0 || seq > inbox.seqs[i - 1]), inbox.seqs);
    reader.close(), writer.close();
  });

  await part(`${name}: a cut before the first event`, async () => {
    const reader = await connected(options), writer = await connected(), inbox = new Inbox(reader);
    await insist(reader, "subscribe", `first-${name}`);
    await cut(reader);
    await emit(writer, `first-${name}`, 1, 5);
    await back(reader);
    check("recovered", reader.recovered);
    await emit(writer, `first-${name}`, 6, 6);
    await inbox.count(6);
    same("all, once, in order", inbox.rows, numbers(1, 6));
    reader.close(), writer.close();
  });
}

await part("cut in the middle of what comes, again and again", async () => {
  const reader = await connected(), writer = await connected(), inbox = new Inbox(reader);
  await insist(reader, "subscribe", "middle");
  const all = emit(writer, "middle", 1, 400);
  for (let i = 1; i <= 8; i++) {
    await inbox.count(40 * i);
    await cut(reader);
    await back(reader);
    check(`recovered, time ${i}`, reader.recovered);
  }
  await all;
  await inbox.count(400);
  same("all, once, in order", inbox.rows, numbers(1, 400));
  reader.close(), writer.close();
});

await part("a half-open connection: the client is back long before the server hears of the cut", async () => {
  const proxy = await Proxy.start();
  const reader = await connected({ transports: ["websocket"], auth: { redeliver: {} } }, proxy.url), writer = await connected(), inbox = new Inbox(reader);
  const sid = reader.id;
  await insist(reader, "subscribe", "half-open");
  await emit(writer, "half-open", 1, 3);
  await inbox.count(3);
  for (let i = 1; i <= 2; i++) {
    // What is written from now on goes into the old connection's buffers and nowhere else.
    proxy.silence();
    await emit(writer, "half-open", 10 * i - 6, 10 * i);
    await cut(reader);
    await back(reader);
    check(`recovered, time ${i}`, reader.recovered);
    same(`sid, time ${i}`, reader.id, sid);
    await emit(writer, "half-open", 10 * i + 1, 10 * i + 3);
    await inbox.count(10 * i + 3);
  }
  same("all, once, in order", inbox.rows, numbers(1, 23));
  reader.close(), writer.close(), proxy.close();
});

await part("several topics come back as one row, without the one that was left", async () => {
  const reader = await connected(), writer = await connected(), inbox = new Inbox(reader);
  for (const topic of ["row-a", "row-b", "row-c"]) await insist(reader, "subscribe", topic);
  await insist(reader, "unsubscribe", "row-c");
  await cut(reader);
  const expected = [];
  for (let n = 1; n <= 30; n++) {
    const topic = ["row-a", "row-b", "row-b", "row-c"][n % 4];
    await insist(writer, "emit", topic, "n", n);
    if (topic !== "row-c") expected.push(["n", n]);
  }
  await back(reader);
  check("recovered", reader.recovered);
  await insist(writer, "emit", "row-b", "last");
  await inbox.until("last", (row) => row[0] === "last");
  same("all, once, in order, nothing of the one left", inbox.rows, [...expected, ["last"]]);
  reader.close(), writer.close();
});

await part("a topic followed late gives nothing older", async () => {
  const reader = await connected(), writer = await connected(), inbox = new Inbox(reader);
  await emit(writer, "late", 1, 3);
  await insist(reader, "subscribe", "late-other");
  await insist(writer, "emit", "late-other", "first");
  await inbox.count(1);
  await insist(reader, "subscribe", "late");
  await cut(reader);
  await emit(writer, "late", 4, 5);
  await back(reader);
  check("recovered", reader.recovered);
  await inbox.count(3);
  await emit(writer, "late", 6, 6);
  await inbox.count(4);
  same("from then on", inbox.rows, [["first"], ...numbers(4, 6)]);
  reader.close(), writer.close();
});

await part("a thousand missed events come back", async () => {
  const reader = await connected(), writer = await connected(), inbox = new Inbox(reader);
  await insist(reader, "subscribe", "thousand");
  await cut(reader);
  const replies = [];
  for (let n = 1; n <= 1000; n++) replies.push(insist(writer, "emit", "thousand", "n", n));
  await Promise.all(replies);
  await back(reader);
  check("recovered", reader.recovered);
  await inbox.count(1000);
  same("all, once, in order", inbox.rows, numbers(1, 1000));
  reader.close(), writer.close();
});

end();
