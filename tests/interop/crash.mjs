// kill -9 of the server while 1,000 clients are connected and events go on: each of them is recovered, and has every
// acknowledged event once and in order. Then the same once more.

import { check, client, connected, end, Inbox, insist, part, within } from "./story.mjs";
import { ask } from "./story.mjs";

const clients = Number(process.env.CLIENTS ?? 1000);
const topics = 10;

await part(`kill -9 under ${clients} clients`, async () => {
  const readers = [];
  for (let i = 0; i < clients; i += 50) {
    readers.push(...await Promise.all(Array.from({ length: Math.min(50, clients - i) }, async (_, j) => {
      // Half of them by WebSocket alone, half as it is by default, and all slower to come back than the server.
      const options = (i + j) % 2 === 0 ? { transports: ["websocket"], auth: { redeliver: {} } } : {};
      const socket = await connected({ ...options, reconnectionDelay: 100, reconnectionDelayMax: 1000, timeout: 60_000 });
      const reader = { socket, inbox: new Inbox(socket), sid: socket.id, recoveries: 0, unrecovered: 0, topic: `crash-${(i + j) % topics}` };
      socket.on("connect", () => (socket.recovered ? (reader.recoveries += 1) : (reader.unrecovered += 1)));
      await insist(socket, "subscribe", reader.topic);
      return reader;
    })));
  }
  check("all connected", readers.length === clients);

  const writer = client({ reconnectionDelay: 100, reconnectionDelayMax: 500, timeout: 60_000 });
  const acknowledged = new Map(Array.from({ length: topics }, (_, i) => [`crash-${i}`, []]));
  let n = 0, stop = false;
  const writing = (async () => {
    while (!stop) {
      const topic = `crash-${n % topics}`;
      n += 1;
      // An emit without a reply may or may not be in the log; only what was acknowledged is owed.
      const reply = await writer.timeout(5_000).emitWithAck("emit", topic, "n", n).catch(() => null);
      if (reply?.ok) acknowledged.get(topic).push({ n: n, seq: reply.seq });
    }
  })();
  const written = (count) => within((async () => {
    for (;;) {
      const sum = [...acknowledged.values()].reduce((all, list) => all + list.length, 0);
      if (sum >= count) return;
      await new Promise((resolve) => setImmediate(resolve));
    }
  })(), `${count} emits`);

  for (let round = 1; round <= 2; round++) {
    const before = [...acknowledged.values()].reduce((all, list) => all + list.length, 0);
    await written(before + 60);
    await ask("kill");
    await ask("start");
    await within(Promise.all(readers.map((reader) => new Promise((resolve) => {
      const look = () => (reader.recoveries + reader.unrecovered >= round ? resolve() : reader.socket.once("connect", look));
      look();
    }))), `all to be back, time ${round}`);
    const unrecovered = readers.filter((reader) => reader.unrecovered > 0).length;
    check(`all are recovered, time ${round}`, unrecovered === 0, { unrecovered });
    const strangers = readers.filter((reader) => reader.socket.id !== reader.sid).length;
    check(`all have their sids, time ${round}`, strangers === 0, { strangers });
  }
  stop = true;
  await writing;

  const last = new Map();
  for (const topic of acknowledged.keys()) {
    const reply = await insist(writer, "emit", topic, "last");
    last.set(topic, reply.seq);
  }
  await Promise.all(readers.map(({ inbox }) => inbox.until("last", (row) => row[0] === "last")));
  let lost = 0, twice = 0, disordered = 0;
  for (const { inbox, topic } of readers) {
    const seen = new Set(inbox.seqs);
    for (const { seq } of acknowledged.get(topic)) if (!seen.has(seq)) lost += 1;
    twice += inbox.seqs.length - seen.size;
    for (let i = 1; i < inbox.seqs.length; i++) if (inbox.seqs[i] < inbox.seqs[i - 1]) disordered += 1;
  }
  check("nothing is lost", lost === 0, { lost });
  check("nothing comes twice", twice === 0, { twice });
  check("everything comes in order", disordered === 0, { disordered });
  for (const { socket } of readers) socket.close();
  writer.close();
});

end();
