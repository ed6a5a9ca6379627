// The page: reports what the device is, runs the server's jobs one after the other, shows and posts the results.

import { describeDevice, findMissingFeature, maxThreads, planMemory } from "./device.js";
import { FinalError, messageOf, sleep } from "./errors.js";
import { GeneratedText } from "./generated_text.js";
import { ResultsTable } from "./results_table.js";
import { measureRooflines } from "./roofline.js";

const HEARTBEAT_MS = 3000;
const MEMORY_MS = 20000; // the browser measures when it collects garbage, which may be never; asked in round 0 only
const CONFIRM_MS = 60000;
const query = new URLSearchParams(location.search);
const automatic = query.has("auto"); // started by a program, which monitors memory itself
const depth = query.has("depth") ? Number(query.get("depth")) : null; // drafted tokens per round; null = as many as pay
const bar = /** @type {HTMLProgressElement} */ (element("bar"));
const table = new ResultsTable(element("figures"), /** @type {HTMLTableSectionElement} */ (element("rows")));
let device = "";
let currentStep = "starting";
let wasHidden = false;
/** @type {WakeLockSentinel | null} */
let wakeLock = null;

main().catch((error) => {
  console.error(error);
  status(`The benchmark failed: ${messageOf(error)}`);
});

async function main() {
  const remembered = automatic ? query.get("device") : (readStored("device") ?? query.get("device"));
  const record = await describeDevice(remembered || "new");
  const cells = query.get("roofline");
  if (cells !== null) record.rooflines = await measureRooflines(cells.split(","));
  const { threads, cores, webgpu, cross_origin_isolated: isolated } = record.facts;
  element("device").textContent = `${record.name}: ${threads} of ${cores ?? "?"} cores${webgpu ? ", WebGPU" : ""}`;
  if (!isolated) {
    warn(
      "This page is not secure (plain http): the browser gives it one thread and no WebGPU, and stores no downloads. " +
        "Use the https address if you can.",
    );
  }
  device = (await (await post("device", record)).json()).id;
  writeStored("device", device);
  if (!automatic) {
    query.set("device", device);
    history.replaceState(null, "", `?${query}`); // for a reload if the browser stores nothing
  }
  const response = await fetch(`work?device=${encodeURIComponent(device)}`);
  if (!response.ok) throw new Error((await response.text()).trim());
  /** @type {{ jobs: Job[] }} */
  const { jobs } = await response.json();
  if (!jobs.length) return finish("There is nothing to measure. You may close this page.");
  const missing = findMissingFeature();
  if (missing !== null) {
    warn(`This browser cannot run the benchmark: ${missing}. Use a current Chrome, Edge, Firefox or Safari.`);
    for (const job of jobs) await postFailure(job, `unsupported browser: ${missing}`);
    return finish("Nothing was measured.");
  }
  if (!automatic) {
    await waitForStart(jobs);
    status("Measuring the peak rates of this device…");
    const wanted = new Set(jobs.map(({ request: { cell } }) => `${cell.provider}:${cell.threads}`));
    await post("device", { ...record, id: device, rooflines: await measureRooflines([...wanted]) });
  }
  const timer = setInterval(heartbeat, HEARTBEAT_MS);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) wasHidden = true;
    else requestWakeLock();
  });
  await requestWakeLock();
  let failed = 0;
  for (const [index, job] of jobs.entries()) {
    if (!(await runJob(job, `${index + 1} of ${jobs.length}`))) failed++;
  }
  clearInterval(timer);
  await wakeLock?.release().catch(() => {});
  finish(`Done${failed ? `, ${failed} of ${jobs.length} failed` : ""}. You may close this page.`);
}

/** @param {Job[]} jobs */
async function waitForStart(jobs) {
  const sizes = new Map(jobs.flatMap(({ artifact }) => artifact.weights.map((file) => [file.sha256, file.size])));
  const megabytes = Math.round([...sizes.values()].reduce((a, b) => a + b, 0) / 1e6);
  status(
    `${jobs.length} measurements, ${megabytes} MB to download once. Keep this page in the foreground while it runs.`,
  );
  await waitForClick("start");
}

/**
 * Run a job and post its result; return whether it was measured.
 *
 * @param {Job} job
 * @param {string} position
 */
async function runJob(job, position) {
  const { request, artifact } = job;
  const { cell } = request;
  const title = `${cell.target}, ${cell.provider}, ${cell.strategy}`;
  const { unpack, refusal } = planMemory(job);
  if (refusal !== null && !automatic) {
    status(`${position}: ${title}`);
    warn(`${refusal}. The browser may close the page.`);
    if (!(await confirmLowMemory())) {
      await postFailure(job, `not enough memory: ${refusal}`);
      return false;
    }
  }
  if (cell.provider === "webgpu" && !(await navigator.gpu?.requestAdapter().catch(() => null))) {
    const reason = "this browser has no WebGPU adapter: use the provider web";
    warn(`${title}: ${reason}`);
    await postFailure(job, reason);
    return false;
  }
  wasHidden = document.hidden;
  const threads = Math.min(cell.threads, maxThreads());
  const text = new GeneratedText(artifact.tokenizer, element("answer"), element("prompt"), element("text"));
  const created = new Date().toISOString();
  try {
    await post(`progress?device=${encodeURIComponent(device)}`, { message: `begins ${title}` });
    const { result, memory } = await runInWorker(
      job,
      { provider: cell.provider, threads, unpack, depth },
      (progress) => {
        if (progress.step !== undefined) {
          currentStep = `${title}: ${progress.step}`;
          status(`${position}: ${currentStep}`);
        }
        bar.value = progress.share ?? bar.value;
        if (progress.prompt !== undefined) text.begin(progress.prompt);
        if (progress.tokens !== undefined) text.add(progress.tokens);
      },
    );
    const notes = [...result.notes];
    if (memory !== null) notes.push("memory is what the page held at the end, not its peak");
    if (threads < cell.threads) {
      notes.push(`${threads} of ${cell.threads} threads: the page is not isolated or the device has no more cores`);
    }
    if (wasHidden) notes.push("the page was hidden for a time: the browser may have slowed it down");
    if (wakeLock === null && !automatic) notes.push("no wake lock: the screen may have been off for a time");
    const { round } = request;
    await post("results", { kind: "sample", cell, round, created, ...result, peak_rss_bytes: memory, notes });
    table.add(title, result);
    return true;
  } catch (error) {
    warn(`${title}: ${messageOf(error)}`);
    await postFailure(job, messageOf(error));
    return false;
  }
}

/**
 * Run a job in a new worker and end the worker.
 *
 * @param {Job} job
 * @param {RunSettings} settings
 * @param {(progress: WorkerProgress) => void} report
 * @returns {Promise<{ result: Measurement, memory: number | null }>}
 */
function runInWorker(job, settings, report) {
  const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  /** @type {Promise<{ result: Measurement, memory: number | null }>} */
  const finished = new Promise((resolve, reject) => {
    worker.onerror = (event) => {
      reject(new Error(event.message || "the worker does not start: this browser may lack module workers"));
    };
    worker.onmessage = async (/** @type {MessageEvent<WorkerMessage>} */ { data }) => {
      if ("error" in data) reject(new Error(data.error));
      else if ("result" in data) {
        resolve({ result: data.result, memory: automatic || job.request.round > 0 ? null : await memoryUsed() });
      } else report(data);
    };
    worker.postMessage({ job, settings });
  });
  return finished.finally(() => worker.terminate());
}

/**
 * Return the bytes that the page and its workers hold now, or null if the browser does not report them.
 *
 * @returns {Promise<number | null>}
 */
async function memoryUsed() {
  if (!globalThis.crossOriginIsolated || !performance.measureUserAgentSpecificMemory) return null;
  currentStep = "waiting for the browser to report its memory";
  status("Waiting for the browser to report how much memory it used…");
  const measured = performance.measureUserAgentSpecificMemory().then(
    ({ bytes }) => bytes,
    () => null,
  );
  return Promise.race([measured, sleep(MEMORY_MS).then(() => null)]);
}

/** @param {Job} job @param {string} message */
async function postFailure(job, message) {
  const { cell, round } = job.request;
  const created = new Date().toISOString();
  try {
    await post("failure", { kind: "failure", cell, round, created, message: message.slice(0, 2000) });
  } catch (error) {
    warn(messageOf(error)); // the next measurement may still work
  }
}

/**
 * Post until the server has the record: a result must survive a network that is away for a while.
 *
 * @param {string} path
 * @param {object} record
 */
async function post(path, record) {
  for (let tries = 0; ; tries++) {
    try {
      const response = await fetch(path, { method: "POST", body: JSON.stringify(record) });
      if (response.ok) return response;
      const message = `the server rejects a record: ${(await response.text()).trim()}`;
      throw response.status < 500 ? new FinalError(message) : new Error(message);
    } catch (error) {
      if (error instanceof FinalError) throw error;
      status(`Cannot reach the server (${messageOf(error)}): trying again…`);
      await sleep(Math.min(30000, 1000 * 2 ** tries));
    }
  }
}

function heartbeat() {
  const body = JSON.stringify({ message: currentStep.slice(0, 500) });
  fetch(`progress?device=${encodeURIComponent(device)}`, { method: "POST", body }).catch(() => {});
}

async function requestWakeLock() {
  wakeLock = (await navigator.wakeLock?.request("screen").catch(() => null)) ?? null;
}

/**
 * Show a button until it is clicked.
 *
 * @param {string} id
 * @returns {Promise<boolean>}
 */
function waitForClick(id) {
  const button = element(id);
  button.hidden = false;
  return new Promise((resolve) => {
    button.addEventListener(
      "click",
      () => {
        button.hidden = true;
        resolve(true);
      },
      { once: true },
    );
  });
}

// Ask whether to try even though memory may not suffice; no answer within a minute means no.
async function confirmLowMemory() {
  const confirmed = await Promise.race([waitForClick("confirm"), sleep(CONFIRM_MS).then(() => false)]);
  element("confirm").hidden = true;
  return confirmed;
}

/** @param {string} text */
function status(text) {
  element("status").textContent = text;
}

/** @param {string} text */
function warn(text) {
  element("warning").textContent = text;
  element("warning").hidden = false;
}

/** @param {string} text */
function finish(text) {
  bar.value = 1;
  currentStep = "done";
  status(text);
}

/** @param {string} id */
function element(id) {
  const found = document.getElementById(id);
  if (found === null) throw new Error(`the page has no element ${id}`);
  return found;
}

/**
 * Read what the browser keeps between visits, so that a page that was closed early continues as the same device.
 *
 * @param {string} key
 */
function readStored(key) {
  try {
    return localStorage.getItem(`edgeskip ${key}`);
  } catch {
    return null;
  }
}

/** @param {string} key @param {string} value */
function writeStored(key, value) {
  try {
    localStorage.setItem(`edgeskip ${key}`, value);
  } catch {
    // A private window: it counts as a new device if it is opened again by the address without `device`.
  }
}
