// What this browser is and can do.

import { PREFILL_CHUNK } from "./decoding.js";

// A module with one SIMD instruction: a browser that accepts it supports WASM SIMD.
// biome-ignore format: one module
const SIMD_MODULE = new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11]);

const WASM_LIMIT = 4 * 2 ** 30 * 0.95; // bytes

/**
 * Return why onnxruntime-web cannot run here, or null.
 *
 * @returns {string | null}
 */
export function findMissingFeature() {
  if (typeof WebAssembly !== "object") return "it has no WebAssembly";
  if (!WebAssembly.validate(SIMD_MODULE)) return "its WebAssembly has no SIMD";
  if (typeof Worker !== "function") return "it has no web workers";
  if (typeof BigInt64Array !== "function") return "it has no BigInt64Array";
  return null;
}

// Threads that WASM may use: one if the page is not isolated, because there is no shared memory then.
export const maxThreads = () => (globalThis.crossOriginIsolated ? navigator.hardwareConcurrency || 1 : 1);

/**
 * Return a Device record.
 *
 * @param {string} id - The one that the server assigned before, or "new".
 * @returns {Promise<DeviceRecord>}
 */
export async function describeDevice(id) {
  const hints = await navigator.userAgentData
    ?.getHighEntropyValues(["model", "platform", "platformVersion", "architecture"])
    .catch(() => null);
  const facts = {
    user_agent: navigator.userAgent,
    cores: navigator.hardwareConcurrency ?? null,
    memory_gib: navigator.deviceMemory ?? null, // rounded and capped by the browser
    secure: globalThis.isSecureContext === true,
    cross_origin_isolated: globalThis.crossOriginIsolated === true,
    threads: maxThreads(),
    screen: `${screen.width}x${screen.height}@${devicePixelRatio}`,
    platform: hints ? `${hints.platform} ${hints.platformVersion} ${hints.architecture}`.trim() : null,
    model: hints?.model || null,
    webgpu: await describeAdapter(),
  };
  return { kind: "device", id, type: "browser", name: deviceName(facts), facts, versions: {} };
}

async function describeAdapter() {
  try {
    const adapter = await navigator.gpu?.requestAdapter();
    if (!adapter) return null;
    const { vendor, architecture, device, description } = adapter.info ?? {};
    return { vendor, architecture, device, description, fp16: adapter.features.has("shader-f16") };
  } catch {
    return null;
  }
}

/** @type {Record<string, string>} */
const BROWSERS = {
  Edg: "Edge",
  OPR: "Opera",
  SamsungBrowser: "Samsung Internet",
  FxiOS: "Firefox",
  CriOS: "Chrome",
  Version: "Safari",
};

/** @param {{ user_agent: string, model: string | null, platform: string | null }} facts */
function deviceName({ user_agent: agent, model, platform }) {
  const browser = /(Edg|OPR|SamsungBrowser|Firefox|FxiOS|CriOS|Chrome|Version)\/(\d+)/.exec(agent);
  const program = browser ? `${BROWSERS[browser[1]] ?? browser[1]} ${browser[2]}` : "unknown browser";
  const system = /(iPhone|iPad|Android [^;)]*|Macintosh|Windows|Linux)/.exec(agent)?.[1];
  return `${model || system || platform || "unknown device"}, ${program}`;
}

/**
 * Estimate the peak memory of a job in bytes: in WASM memory alone, and in total. Measured on a 135M model: the matrices
 * are there twice, as stored and as the kernels need them, and the file is in memory too while it is loaded.
 *
 * @param {Job} job
 * @param {boolean} unpack
 */
export function estimateMemory({ request, artifact }, unpack) {
  const stored = artifact.weights.reduce((sum, file) => sum + file.size, 0);
  const weights = unpack ? artifact.unpacked_bytes + stored : stored;
  const longest = Math.max(
    0,
    ...request.tests.map((test) => test.tokens + test.depth),
    ...request.prompts.map((prompt) => prompt.ids.length + request.max_tokens),
  );
  const layers = artifact.graphs.reduce((sum, graph) => sum + graph.kv_layers, 0);
  const width = artifact.kv_dtype === "float16" ? 2 : 4;
  const cache = 2 * longest * layers * 2 * artifact.kv_heads * artifact.head_dim * width; // twice: it grows by doubling
  const scores = 4 * artifact.attention_heads * Math.min(longest, PREFILL_CHUNK) * longest; // attention is not tiled here
  const wasm = (unpack ? 2.3 : 2) * weights + cache + scores + 64e6;
  return { wasm, all: wasm + stored };
}

// Half of the device's memory; a browser that does not report it is assumed to be on a phone with 4 GiB.
const memoryAllowed = () => ((navigator.deviceMemory ?? 4) * 2 ** 30) / 2;

/**
 * Decide whether to unpack int4 weights, and give the reason if memory does not suffice for the job.
 *
 * @param {Job} job
 * @returns {{ unpack: boolean, refusal: string | null }}
 */
export function planMemory(job) {
  const fits = (/** @type {boolean} */ unpack) => {
    const need = estimateMemory(job, unpack);
    return need.wasm <= WASM_LIMIT && need.all <= memoryAllowed();
  };
  const unpack = job.artifact.unpacked_bytes > 0 && job.request.cell.provider === "web" && fits(true);
  if (unpack || fits(false)) return { unpack, refusal: null };
  const need = Math.round(estimateMemory(job, false).all / 1e6);
  const allowed = Math.round(memoryAllowed() / 1e6);
  return {
    unpack,
    refusal: `${job.artifact.name} needs about ${need} MB; the limit for this browser is ${allowed} MB`,
  };
}
