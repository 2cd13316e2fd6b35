// Ten thousand handshakes and hundreds of upgrades that nobody goes on with, against `engineio_conformance`: each ends, and the
// server's memory is what it was. How many are there at once differs from time to time, and with it what the allocator keeps; so
// the same is done again until a round adds nothing. What leaks adds in every round.

import { Agent, request } from "node:http";
import WebSocket from "ws";
import { ask, check, end, same, url, within } from "./story.mjs";

const handshakes = 10_000, upgrades = 300, rounds_max = 6, at_once = 50;
const agent = new Agent({ keepAlive: true, maxSockets: at_once });
const endpoint = `${url}/engine.io/?EIO=4&transport=`;
// Of the sessions, not of whoever asks: what one of them would leave behind if it leaked is far more.
const bytes_per_session_max = 512;

function get(query) {
  return new Promise((resolve, reject) => {
    request(endpoint + query, { agent }, (response) => {
      let body = "";
      response.setEncoding("utf8").on("data", (part) => (body += part)).on("end", () => resolve({ status: response.statusCode, body }));
    }).on("error", reject).end();
  });
}

async function many(count, one) {
  let begun = 0, last;
  await Promise.all(Array.from({ length: at_once }, async () => {
    while (begun++ < count) last = await one();
  }));
  return last;
}

const handshake = async () => JSON.parse((await get("polling")).body.slice(1)).sid;

/** Waits until a session is gone, by asking what refuses it without keeping it alive. */
async function gone(sid) {
  const raw = new WebSocket(`${endpoint.replace(/^http/, "ws")}websocket&sid=${sid}`);
  raw.on("error", () => {});
  await within(new Promise((resolve) => raw.once("close", resolve)), "the session's end");
}

async function upgrade() {
  const raw = new WebSocket(`${endpoint.replace(/^http/, "ws")}websocket&sid=${await handshake()}`);
  raw.on("error", () => {});
  await within(new Promise((resolve, reject) => (raw.once("open", resolve), raw.once("close", reject))), "open");
  raw.send("2probe");
  // Never a "5": the server must end it.
  await within(new Promise((resolve) => raw.once("close", resolve)), "the end of an abandoned upgrade");
}

async function round() {
  const last = await many(handshakes, handshake);
  await gone(last);
  same("the last one is gone", (await get(`polling&sid=${last}`)).status, 400);
  await many(upgrades, upgrade);
  return (await ask("memory")).rss_bytes;
}

await within((async () => {
  const allowed = (handshakes + upgrades) * bytes_per_session_max, memory = [await round()];
  const grows = () => memory.length < 2 || memory.at(-1) - memory.at(-2) > allowed;
  while (grows() && memory.length < rounds_max) memory.push(await round());
  check("a round leaves nothing", !grows(), { memory, allowed });
})(), "all rounds", 10 * 60_000);

end();
