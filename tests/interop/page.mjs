// The page that the server answers under `/`, in a real browser: what the binary emits is shown; what the page emits the binary
// receives; what is emitted while the page is cut comes back marked, in order, once; also when the server is killed.
//
// SCREENSHOT=file keeps a picture of it (docs/images/page.png was made so).

import { chromium } from "playwright-core";
import { ask, check, end, part, same, url } from "./story.mjs";

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM || "/usr/bin/chromium", args: ["--no-sandbox", "--disable-dev-shm-usage"] });
const page = await browser.newPage({ viewport: { width: 1180, height: 930 }, colorScheme: "light" });
page.setDefaultTimeout(60_000);
const complaints = [];
page.on("pageerror", (error) => complaints.push(error.message));
page.on("console", (message) => {
  // That the server is gone for a while is part of the story, and the browser says so by itself.
  if (message.type() === "error" && !/ERR_CONNECTION|WebSocket connection|Failed to load resource/.test(message.text())) complaints.push(message.text());
});

const emit = (data, name = "message", topic = "demo") => ask("redeliver", { args: ["emit", topic, data, "--name", name] });
const rows = () => page.$$eval("#list .row", (all) => all.map((row) => ({
  seq: Number(row.dataset.seq),
  topic: row.querySelector(".topic").textContent,
  name: row.querySelector(".name").textContent,
  what: row.querySelector(".what").textContent,
  mark: row.querySelector(".mark").textContent,
})));
const wait_for_rows = (count) => page.waitForFunction((count) => document.querySelectorAll("#list .row").length >= count, count);
const wait_for_state = (state) => page.waitForFunction((state) => document.getElementById("state").textContent === state, state);
const tiles = () => page.$$eval(".tile b", (all) => all.map((tile) => tile.textContent));
const texts = (list) => list.map(({ name, what, mark }) => [name, what, mark]);

await part("it opens, connects by the stock client and follows `demo`", async () => {
  const response = await page.goto(url);
  const policy = response.headers()["content-security-policy"];
  check("a strict policy", policy?.startsWith("default-src 'none'") && !policy.includes("unsafe"), policy);
  await wait_for_state("connected");
  await page.waitForSelector("#topics li");
  same("topics", await page.$$eval("#topics li", (all) => all.map((chip) => chip.textContent)), ["demo"]);
});

await part("what a native client emits is shown", async () => {
  await emit('{"order":1,"of":"tea"}', "created");
  await emit("plain text");
  await wait_for_rows(2);
  same("rows", texts(await rows()), [["created", '{"order":1,"of":"tea"}', ""], ["message", '"plain text"', ""]]);
  check("their topic is named", (await rows()).every((row) => row.topic === "demo"), await rows());
});

await part("what the page emits a native client receives, durably", async () => {
  await page.fill("#emit-name", "paid");
  await page.fill("#emit-args", '{"order":1}');
  await page.click("#emit button");
  await wait_for_rows(3);
  const { seq } = (await rows())[2];
  await page.waitForFunction((text) => document.getElementById("receipt").textContent === text, `Durable at seq ${seq}.`);
  const { stdout } = await ask("redeliver", { args: ["listen", "demo", "--start", String(seq), "--count", "1", "--format", "json"] });
  const event = JSON.parse(stdout);
  same("event", [event.seq, event.name, event.payload], [seq, "paid", { order: 1 }]);
});

await part("cut, five events meanwhile, and they come back marked, in order, once", async () => {
  await page.selectOption("#cut-for", "0");
  await page.uncheck("#meanwhile");
  await page.click("#cut");
  await wait_for_state("cut");
  for (let n = 2; n <= 6; n++) await emit(`{"order":${n},"of":"${["", "", "coffee", "scones", "jam", "cream", "tea"][n]}"}`, "created");
  same("nothing came", (await rows()).length, 3);
  await page.click("#cut");
  await wait_for_state("connected, recovered");
  await wait_for_rows(8);
  const all = await rows();
  same("marked", texts(all.slice(3)), ["coffee", "scones", "jam", "cream", "tea"].map((of, i) => ["created", `{"order":${i + 2},"of":"${of}"}`, "missed, came back"]));
  check("in order", all.every((row, i) => i === 0 || row.seq > all[i - 1].seq), all);
  same("missed, came back, lost, twice", await tiles(), ["5", "5", "0", "0"]);
  await emit('{"order":6}', "paid");
  await wait_for_rows(9);
  same("what comes now is not marked", (await rows())[8].mark, "");
});

if (process.env.SCREENSHOT) {
  // The dots on the wires have arrived, and the rows stand.
  await page.waitForFunction(() => document.getAnimations().length === 0);
  await page.screenshot({ path: process.env.SCREENSHOT });
}

await part("the same by one press, with the page's own other connection", async () => {
  await page.selectOption("#cut-for", "5");
  await page.check("#meanwhile");
  await page.click("#cut");
  await wait_for_state("connected, recovered");
  // The last one may still be on its way.
  await page.waitForFunction(() => Number(document.getElementById("missed").textContent) >= 7 && document.getElementById("missed").textContent === document.getElementById("recovered").textContent);
  const [, , lost, twice] = await tiles();
  same("lost, twice", [lost, twice], ["0", "0"]);
});

await part("kill -9 of the server: the page comes back by itself", async () => {
  const before = (await rows()).length;
  await ask("kill");
  await wait_for_state("reconnecting");
  await ask("start");
  await wait_for_state("connected, recovered");
  await emit('"after the crash"', "crash");
  await page.waitForFunction((count) => document.querySelectorAll("#list .row").length > count, before);
  const [, , lost, twice] = await tiles();
  same("lost, twice", [lost, twice], ["0", "0"]);
});

await part("a second topic, with history of its own, and one that is left", async () => {
  await page.fill("#follow-topic", "orders");
  await page.click("#follow button");
  await page.waitForFunction(() => document.querySelectorAll("#topics li").length === 2);
  await emit("in orders", "message", "orders");
  await page.waitForFunction(() => [...document.querySelectorAll("#list .row .topic")].some((topic) => topic.textContent === "orders"));
  await page.click("#topics li:nth-child(2) button");
  await page.waitForFunction(() => document.querySelectorAll("#topics li").length === 1);
});

await part("data is shown as text, whatever is in it", async () => {
  const nasty = '<img src=x onerror="document.title=1"><script>document.title=2</script>';
  const before = (await rows()).length;
  await emit(JSON.stringify({ nasty }), "<b>bold</b>");
  await wait_for_rows(before + 1);
  const row = (await rows())[before];
  same("as it is", [row.name, row.what], ["<b>bold</b>", JSON.stringify({ nasty })]);
  same("no elements of it", await page.$$eval("#list img, #list script, #list b", (all) => all.length), 0);
  same("title", await page.title(), "redeliver");
});

await part("it fits a phone, and can be used by keyboard", async () => {
  await page.setViewportSize({ width: 360, height: 740 });
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  same("nothing sticks out", overflow, 0);
  const before = (await rows()).length;
  await page.focus("#emit-args");
  await page.keyboard.press("Enter");
  await wait_for_rows(before + 1);
});

same("the browser complained of nothing", complaints, []);
await browser.close();
end();
