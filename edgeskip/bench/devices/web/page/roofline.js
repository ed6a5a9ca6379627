// What this browser gives an engine: bytes read a second and float32 operations done a second. On WASM by as many workers
// as threads, each with memory of its own; on WebGPU bytes only, by copying.

import { FLOPS_PER_TURN, PAGE_BYTES } from "./kernels.js";

const MEASURE_MS = 1000; // for each figure
const ALL_BYTES = 256 << 20; // of all workers: more than the caches of what people run browsers on
const MOST_BYTES = 128 << 20; // of one
const TURNS = 4e6; // of a pass of arithmetic: some milliseconds
const GPU_BYTES = 128 << 20;
const GPU_COPIES = 16; // a submission: handing one over takes as long as a fast GPU copies
const LIMIT_MS = 20000; // of one answer

// Roofline records for cells "web:2", "webgpu:4": provider and threads.
export async function measureRooflines(cells) {
  const found = [];
  for (const cell of cells) {
    const [provider, count] = cell.split(":");
    const threads = Number(count);
    const measured = await (provider === "webgpu" ? onGpu() : onWasm(threads)).catch((error) => nothing(error));
    found.push({ provider, threads, ...measured });
  }
  return found;
}

async function onWasm(threads) {
  const bytes = Math.floor(Math.min(MOST_BYTES, ALL_BYTES / threads) / PAGE_BYTES) * PAGE_BYTES;
  const workers = Array.from({ length: threads }, () => new Worker(new URL("./roofline_worker.js", import.meta.url), { type: "module" }));
  try {
    const all = (order) => Promise.all(workers.map((worker) => asked(worker, order)));
    await all({ pages: bytes / PAGE_BYTES });
    const reading = await best(() => all({ read: bytes }));
    const multiplying = await best(() => all({ multiply: TURNS }));
    return {
      bytes_per_s: (threads * bytes) / reading,
      flops_per_s: (threads * TURNS * FLOPS_PER_TURN) / multiplying,
      how: `bytes: WASM SIMD reads ${bytes >> 20} MiB a thread; operations: WASM SIMD multiplies and adds float32 in registers; the best within ${MEASURE_MS / 1e3} s each`,
    };
  } finally {
    for (const worker of workers) worker.terminate();
  }
}

async function onGpu() {
  const adapter = await navigator.gpu?.requestAdapter();
  if (!adapter) throw new Error("this browser gives no WebGPU adapter");
  const device = await adapter.requestDevice();
  let lost = null;
  device.lost.then((info) => (lost = info));
  for (const kind of FAILURES) device.pushErrorScope(kind);
  try {
    const bytes = Math.min(GPU_BYTES, device.limits.maxBufferSize);
    const [from, to] = [GPUBufferUsage.COPY_SRC, GPUBufferUsage.COPY_DST].map((usage) => device.createBuffer({ size: bytes, usage }));
    const copy = async () => {
      const encoder = device.createCommandEncoder();
      for (let i = 0; i < GPU_COPIES; i++) encoder.copyBufferToBuffer(from, 0, to, 0, bytes);
      device.queue.submit([encoder.finish()]);
      await answered(device.queue.onSubmittedWorkDone());
    };
    await copy();
    for (const kind of FAILURES) {
      const error = await answered(device.popErrorScope()); // what cannot be done is over at once, and no exception
      if (error !== null) throw new Error(`WebGPU: ${error.message || kind}`);
    }
    const seconds = await best(copy);
    if (lost !== null) throw new Error(`the GPU was lost: ${lost.message}`);
    return {
      bytes_per_s: (2 * GPU_COPIES * bytes) / seconds,
      flops_per_s: null,
      how: `bytes: WebGPU copies ${bytes >> 20} MiB, read and write counted, the best within ${MEASURE_MS / 1e3} s; operations: not measured on WebGPU`,
    };
  } finally {
    device.destroy();
  }
}

const FAILURES = ["validation", "out-of-memory"];

const nothing = (error) => ({ bytes_per_s: null, flops_per_s: null, how: `not measured (${String(error?.message ?? error)})`.slice(0, 300) });

// Seconds, the least of as many times as fit, three at least.
async function best(work) {
  let least = Infinity;
  const end = performance.now() + MEASURE_MS;
  for (let times = 0; times < 3 || performance.now() < end; times++) {
    const begin = performance.now();
    await work();
    least = Math.min(least, performance.now() - begin);
  }
  return least / 1e3;
}

function asked(worker, order) {
  return answered(new Promise((resolve, reject) => {
    worker.onmessage = ({ data }) => (data.error === undefined ? resolve() : reject(new Error(data.error)));
    worker.onerror = (event) => reject(new Error(event.message || "a worker does not start"));
    worker.postMessage(order);
  }));
}

// What the promise gives, within the limit.
function answered(promise) {
  let timer;
  const limit = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer in ${LIMIT_MS / 1e3} s`)), LIMIT_MS);
  });
  return Promise.race([promise, limit]).finally(() => clearTimeout(timer));
}
