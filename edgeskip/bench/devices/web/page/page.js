// The page: says what the device is, runs the jobs the server has for it one after the other, shows and posts what comes.

import { describe, lacks, mostThreads, plan } from "./device.js";
import { Figures } from "./figures.js";
import { measureRooflines } from "./roofline.js";
import { Text } from "./text.js";

const HEARTBEAT_MS = 3000;
const MEMORY_MS = 20000; // the browser measures when it collects garbage, which may be never; asked in round 0 only
const query = new URLSearchParams(location.search);
const automatic = query.has("auto"); // started by a program, which looks at memory itself
const depth = query.has("depth") ? Number(query.get("depth")) : null; // tokens drafted a round; null = as many as pay
const element = (id) => document.getElementById(id);
const figures = new Figures(element("figures"), element("rows"));
let device = null;
let doing = "starting";
let wasHidden = false;
let wakeLock = null;

main().catch((error) => {
  console.error(error);
  say(`This does not work: ${error.message}`);
});

async function main() {
  const remembered = automatic ? query.get("device") : stored("device") ?? query.get("device");
  const record = await describe(remembered || "new");
  if (query.has("roofline")) record.rooflines = await measureRooflines(query.get("roofline").split(","));
  element("device").textContent = `${record.name}: ${record.facts.threads} of ${record.facts.cores ?? "?"} cores${record.facts.webgpu ? ", WebGPU" : ""}`;
  if (!record.facts.cross_origin_isolated) warn("This page is not secure (plain http), so the browser gives it one thread, no WebGPU and keeps no download. The https address has them.");
  device = (await (await send("device", record)).json()).id;
  store("device", device);
  if (!automatic) {
    query.set("device", device);
    history.replaceState(null, "", `?${query}`); // for a reload where the browser keeps nothing
  }
  const response = await fetch(`work?device=${encodeURIComponent(device)}`);
  if (!response.ok) throw new Error((await response.text()).trim());
  const { jobs } = await response.json();
  if (!jobs.length) return finish("There is nothing to do: you may close this page.");
  const missing = lacks();
  if (missing !== null) {
    warn(`This browser cannot run the benchmark: ${missing}. Use a current Chrome, Edge, Firefox or Safari.`);
    for (const job of jobs) await fail(job, `unsupported browser: ${missing}`);
    return finish("Nothing was measured.");
  }
  if (!automatic) {
    const size = new Map(jobs.flatMap(({ artifact }) => artifact.weights.map((file) => [file.sha256, file.size])));
    const megabytes = Math.round([...size.values()].reduce((a, b) => a + b, 0) / 1e6);
    say(`${jobs.length} measurements, ${megabytes} MB to download once. Keep this page in front while it runs.`);
    await pressed("start");
    say("Measuring what this device gives…");
    const cells = new Set(jobs.map(({ request: { cell } }) => `${cell.provider}:${cell.threads}`));
    await send("device", { ...record, id: device, rooflines: await measureRooflines([...cells]) });
  }
  const heart = setInterval(beat, HEARTBEAT_MS);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) wasHidden = true;
    else stayAwake();
  });
  await stayAwake();
  let failed = 0;
  for (const [number, job] of jobs.entries()) failed += (await runJob(job, `${number + 1} of ${jobs.length}`)) ? 0 : 1;
  clearInterval(heart);
  await wakeLock?.release().catch(() => {});
  finish(failed ? `Done, ${failed} of ${jobs.length} failed. You may close this page.` : "Done, you may close this page.");
}

// Whether it was measured.
async function runJob(job, place) {
  const { request, artifact } = job;
  const title = `${request.cell.target}, ${request.cell.provider}, ${request.cell.strategy}`;
  const { unpack, refusal } = plan(job);
  if (refusal !== null && !automatic) {
    say(`${place}: ${title}`);
    warn(`${refusal}. The browser may close the page.`);
    if (!(await insisted())) {
      await fail(job, `not enough memory: ${refusal}`);
      return false;
    }
  }
  if (request.cell.provider === "webgpu" && !(await navigator.gpu?.requestAdapter().catch(() => null))) {
    const reason = "this browser gives no WebGPU adapter: measure with the provider web";
    warn(`${title}: ${reason}`);
    await fail(job, reason);
    return false;
  }
  wasHidden = document.hidden;
  const threads = Math.min(request.cell.threads, mostThreads());
  const text = new Text(artifact.tokenizer, element("answer"), element("prompt"), element("text"));
  const begun = new Date().toISOString();
  try {
    await send(`progress?device=${encodeURIComponent(device)}`, { message: `begins ${title}` });
    const { result, memory } = await work(job, { provider: request.cell.provider, threads, unpack, depth }, (news) => {
      if (news.step !== undefined) {
        doing = `${title}: ${news.step}`;
        say(`${place}: ${title}: ${news.step}`);
      }
      element("bar").value = news.share ?? element("bar").value;
      if (news.prompt !== undefined) text.begin(news.prompt);
      if (news.tokens !== undefined) text.add(news.tokens);
    });
    const notes = [...result.notes];
    if (memory !== null) notes.push("memory is what the page held at the end, not its peak");
    if (threads < request.cell.threads) notes.push(`${threads} of ${request.cell.threads} threads: the page is not isolated or the device has no more cores`);
    if (wasHidden) notes.push("the page was hidden meanwhile: the browser may have slowed it down");
    if (wakeLock === null && !automatic) notes.push("no wake lock: the screen may have gone dark meanwhile");
    await send("results", { kind: "sample", cell: request.cell, round: request.round, created: begun, ...result, peak_rss_bytes: memory, notes });
    figures.add(title, result);
    return true;
  } catch (error) {
    warn(`${title}: ${error.message}`);
    await fail(job, error.message);
    return false;
  }
}

// Runs a job in a fresh worker; ends with it.
function work(job, settings, heard) {
  const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  return new Promise((resolve, reject) => {
    worker.onerror = (event) => reject(new Error(event.message || "the worker does not start: this browser may lack module workers"));
    worker.onmessage = async ({ data }) => {
      if (data.error !== undefined) reject(new Error(data.error));
      else if (data.result === undefined) heard(data);
      else resolve({ result: data.result, memory: automatic || job.request.round > 0 ? null : await memoryUsed() });
    };
    worker.postMessage({ job, settings });
  }).finally(() => worker.terminate());
}

// Bytes of the page and its workers now; null where the browser does not tell.
async function memoryUsed() {
  if (!globalThis.crossOriginIsolated || !performance.measureUserAgentSpecificMemory) return null;
  doing = "asking the browser how much memory it took";
  say("Asking the browser how much memory that took…");
  const patience = new Promise((resolve) => setTimeout(() => resolve(null), MEMORY_MS));
  const measured = performance.measureUserAgentSpecificMemory().then((found) => found.bytes).catch(() => null);
  return Promise.race([measured, patience]);
}

async function fail(job, message) {
  const { cell, round } = job.request;
  try {
    await send("failure", { kind: "failure", cell, round, created: new Date().toISOString(), message: message.slice(0, 2000) });
  } catch (error) {
    warn(error.message); // the next measurement is worth trying all the same
  }
}

// Posts until the server has it: a result is not lost to a network that is away for a while.
async function send(where, record) {
  for (let tries = 0; ; tries++) {
    try {
      const response = await fetch(where, { method: "POST", body: JSON.stringify(record) });
      if (response.ok) return response;
      throw Object.assign(new Error(`the server refuses a record: ${(await response.text()).trim()}`), { final: response.status < 500 });
    } catch (error) {
      if (error.final) throw error;
      say(`The server cannot be reached (${error.message}): trying again…`);
      await new Promise((resolve) => setTimeout(resolve, Math.min(30000, 1000 * 2 ** tries)));
    }
  }
}

function beat() {
  fetch(`progress?device=${encodeURIComponent(device)}`, { method: "POST", body: JSON.stringify({ message: doing.slice(0, 500) }) }).catch(() => {});
}

async function stayAwake() {
  wakeLock = (await navigator.wakeLock?.request("screen").catch(() => null)) ?? null;
}

function pressed(id) {
  const button = element(id);
  button.hidden = false;
  return new Promise((resolve) => button.addEventListener("click", () => resolve((button.hidden = true)), { once: true }));
}

// Asks whether to try although memory may not do; no answer in a minute is no.
async function insisted() {
  const patience = new Promise((resolve) => setTimeout(() => resolve(false), 60000));
  const answer = await Promise.race([pressed("insist"), patience]);
  element("insist").hidden = true;
  return answer;
}

function say(text) {
  element("status").textContent = text;
}

function warn(text) {
  element("warning").textContent = text;
  element("warning").hidden = false;
}

function finish(text) {
  element("bar").value = 1;
  doing = "done";
  say(text);
}

// Kept by the browser between visits, so that a page that was closed in the middle goes on as the same device.
function stored(key) {
  try {
    return localStorage.getItem(`edgeskip ${key}`);
  } catch {
    return null;
  }
}

function store(key, value) {
  try {
    localStorage.setItem(`edgeskip ${key}`, value);
  } catch {
    // a private window: then it is another device when it is opened again, by the address without `device`
  }
}
