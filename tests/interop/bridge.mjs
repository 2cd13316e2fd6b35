// Native clients and Socket.IO clients share topics: what the binary emits arrives here, and what is emitted here it receives.

import { ask, connected, end, Inbox, insist, part, same } from "./story.mjs";

await part("what a native client emits arrives", async () => {
  const reader = await connected(), inbox = new Inbox(reader);
  await insist(reader, "subscribe", "orders");
  await ask("redeliver", { args: ["emit", "orders", '{"id":7,"what":"tea"}', "--name", "created"] });
  await ask("redeliver", { args: ["emit", "orders", "plain text"] });
  await ask("redeliver", { args: ["emit", "orders", "[1,[2],null]", "--name", "list"] });
  await inbox.count(3);
  same("JSON is an argument, text too, and a JSON array is the arguments", inbox.rows, [["created", { id: 7, what: "tea" }], ["message", "plain text"], ["list", 1, [2], null]]);
  reader.close();
});

await part("what is emitted here a native client receives, durably", async () => {
  const writer = await connected();
  await insist(writer, "emit", "back", "created", { id: 8 });
  await insist(writer, "emit", "back", "two", 1, "b");
  await insist(writer, "emit", "back", "text", "ä");
  await insist(writer, "emit", "back", "bytes", Uint8Array.from([1, 2, 255]));
  await ask("restart");
  const { stdout } = await ask("redeliver", { args: ["listen", "back", "--start", "earliest", "--count", "4", "--format", "json"] });
  const rows = stdout.trim().split("\n").map((line) => JSON.parse(line));
  same("names and payloads", rows.map((row) => [row.name, row.payload]), [["created", { id: 8 }], ["two", [1, "b"]], ["text", "ä"], ["bytes", { base64: "AQL/" }]]);
  writer.close();
});

end();
