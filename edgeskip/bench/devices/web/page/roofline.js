// The peak rates that this browser gives an engine: bytes read per second and float32 operations per second. On WASM they
// are measured with one worker per thread, each with its own memory; on WebGPU only bytes are measured, by copying.

import { messageOf } from "./errors.js";
import { FLOPS_PER_ITERATION, PAGE_BYTES } from "./kernels.js";

const MEASURE_MS = 1000; // for each rate
const TOTAL_BYTES = 256 << 20; // of all workers: more than the caches of devices that run browsers
const MAX_WORKER_BYTES = 128 << 20;
const ITERATIONS = 4e6; // per pass of arithmetic: some milliseconds
const GPU_BYTES = 128 << 20;
const GPU_COPIES = 16; // per submission: submitting one takes as long as a copy on a fast GPU
const TIMEOUT_MS = 20000; // of one answer
/** @type {GPUErrorFilter[]} */
const ERROR_SCOPES = ["validation", "out-of-memory"];

/**
 * Return Roofline records for cells like "web:2" or "webgpu:4": provider and threads.
 *
 * @param {string[]} cells
 * @returns {Promise<Roofline[]>}
 */
export async function measureRooflines(cells) {
  const rooflines = [];
  for (const cell of cells) {
    const [provider, count] = cell.split(":");
    const threads = Number(count);
    const measured = await (provider === "webgpu" ? measureGpu() : measureWasm(threads)).catch((error) => ({
      bytes_per_s: null,
      flops_per_s: null,
      how: `not measured (${messageOf(error)})`.slice(0, 300),
    }));
    rooflines.push({ provider, threads, ...measured });
  }
  return rooflines;
}

/** @param {number} threads */
async function measureWasm(threads) {
  const bytes = Math.floor(Math.min(MAX_WORKER_BYTES, TOTAL_BYTES / threads) / PAGE_BYTES) * PAGE_BYTES;
  const url = new URL("./roofline_worker.js", import.meta.url);
  const workers = Array.from({ length: threads }, () => new Worker(url, { type: "module" }));
  try {
    const all = async (/** @type {RooflineOrder} */ order) => {
      await Promise.all(workers.map((worker) => ask(worker, order)));
    };
    await all({ pages: bytes / PAGE_BYTES });
    const reading = await bestSeconds(() => all({ read: bytes }));
    const multiplying = await bestSeconds(() => all({ multiply: ITERATIONS }));
    return {
      bytes_per_s: (threads * bytes) / reading,
      flops_per_s: (threads * ITERATIONS * FLOPS_PER_ITERATION) / multiplying,
      how:
        `bytes: WASM SIMD reads ${bytes >> 20} MiB per thread; operations: WASM SIMD multiplies and adds float32 in ` +
        `registers; the best within ${MEASURE_MS / 1e3} s each`,
    };
  } finally {
    for (const worker of workers) worker.terminate();
  }
}

async function measureGpu() {
  const adapter = await navigator.gpu?.requestAdapter();
  if (!adapter) throw new Error("this browser has no WebGPU adapter");
  const device = await adapter.requestDevice();
  let lost = "";
  device.lost.then((info) => {
    lost = info.message || "unknown reason";
  });
  for (const scope of ERROR_SCOPES) device.pushErrorScope(scope);
  try {
    const bytes = Math.min(GPU_BYTES, device.limits.maxBufferSize);
    const source = device.createBuffer({ size: bytes, usage: GPUBufferUsage.COPY_SRC });
    const target = device.createBuffer({ size: bytes, usage: GPUBufferUsage.COPY_DST });
    const copy = async () => {
      const encoder = device.createCommandEncoder();
      for (let i = 0; i < GPU_COPIES; i++) encoder.copyBufferToBuffer(source, 0, target, 0, bytes);
      device.queue.submit([encoder.finish()]);
      await withTimeout(device.queue.onSubmittedWorkDone());
    };
    await copy();
    for (const scope of [...ERROR_SCOPES].reverse()) {
      const error = await withTimeout(device.popErrorScope()); // a failed command ends at once and throws nothing
      if (error) throw new Error(`WebGPU: ${error.message || scope}`);
    }
    const seconds = await bestSeconds(copy);
    if (lost) throw new Error(`the GPU was lost: ${lost}`);
    return {
      bytes_per_s: (2 * GPU_COPIES * bytes) / seconds,
      flops_per_s: null,
      how:
        `bytes: WebGPU copies ${bytes >> 20} MiB, counting reads and writes, the best within ${MEASURE_MS / 1e3} s; ` +
        "operations: not measured on WebGPU",
    };
  } finally {
    device.destroy();
  }
}

/**
 * Return the minimum over as many runs as fit, at least three.
 *
 * @param {() => Promise<void>} run
 */
async function bestSeconds(run) {
  let best = Infinity;
  const end = performance.now() + MEASURE_MS;
  for (let times = 0; times < 3 || performance.now() < end; times++) {
    const begin = performance.now();
    await run();
    best = Math.min(best, performance.now() - begin);
  }
  return best / 1e3;
}

/** @param {Worker} worker @param {RooflineOrder} order */
function ask(worker, order) {
  /** @type {Promise<void>} */
  const answer = new Promise((resolve, reject) => {
    worker.onmessage = ({ data }) => (data.error === undefined ? resolve() : reject(new Error(data.error)));
    worker.onerror = (event) => reject(new Error(event.message || "a worker does not start"));
    worker.postMessage(order);
  });
  return withTimeout(answer);
}

/** @template T @param {Promise<T>} promise @returns {Promise<T>} */
function withTimeout(promise) {
  /** @type {number} */
  let timer;
  const timeout = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer within ${TIMEOUT_MS / 1e3} s`)), TIMEOUT_MS);
  });
  return Promise.race([promise, timeout]).finally(() => clearTimeout(timer));
}
