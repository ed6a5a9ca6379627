// What this browser is and can do.

import { PREFILL_CHUNK } from "./loops.js";

// A module of one SIMD instruction: a browser that takes it has WASM SIMD.
const SIMD = new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11]);

// Why onnxruntime-web cannot run here, or null.
export function lacks() {
  if (typeof WebAssembly !== "object") return "it has no WebAssembly";
  if (!WebAssembly.validate(SIMD)) return "its WebAssembly has no SIMD";
  if (typeof Worker !== "function") return "it has no web workers";
  if (typeof BigInt64Array !== "function") return "it has no BigInt64Array";
  return null;
}

// Threads that WASM may use: one where the page is not isolated, so that there is no shared memory.
export const mostThreads = () => (globalThis.crossOriginIsolated ? navigator.hardwareConcurrency || 1 : 1);

// A Device record; the id is the one the server gave before, or "new".
export async function describe(id) {
  const hints = await navigator.userAgentData?.getHighEntropyValues?.(["model", "platform", "platformVersion", "architecture"]).catch(() => null);
  const adapter = await gpuAdapter();
  const facts = {
    user_agent: navigator.userAgent,
    cores: navigator.hardwareConcurrency ?? null,
    memory_gib: navigator.deviceMemory ?? null, // rounded and capped by the browser
    secure: globalThis.isSecureContext === true,
    cross_origin_isolated: globalThis.crossOriginIsolated === true,
    threads: mostThreads(),
    screen: `${screen.width}x${screen.height}@${devicePixelRatio}`,
    platform: hints ? `${hints.platform} ${hints.platformVersion} ${hints.architecture}`.trim() : null,
    model: hints?.model || null,
    webgpu: adapter,
  };
  return { kind: "device", id, type: "browser", name: nameOf(facts), facts, versions: {} };
}

async function gpuAdapter() {
  try {
    const adapter = await navigator.gpu?.requestAdapter();
    if (!adapter) return null;
    const { vendor, architecture, device, description } = adapter.info ?? {};
    return { vendor, architecture, device, description, fp16: adapter.features.has("shader-f16") };
  } catch {
    return null;
  }
}

function nameOf({ user_agent: agent, model, platform }) {
  const browser = /(Edg|OPR|SamsungBrowser|Firefox|FxiOS|CriOS|Chrome|Version)\/(\d+)/.exec(agent);
  const names = { Edg: "Edge", OPR: "Opera", SamsungBrowser: "Samsung Internet", FxiOS: "Firefox", CriOS: "Chrome", Version: "Safari" };
  const program = browser ? `${names[browser[1]] ?? browser[1]} ${browser[2]}` : "a browser";
  const machine = model || /(iPhone|iPad|Android [^;)]*|Macintosh|Windows|Linux)/.exec(agent)?.[1] || platform || "unknown device";
  return `${machine}, ${program}`;
}

// Bytes that a job needs at most, and in WASM memory alone. Measured on a 135M model: the matrices lie there twice, as
// they are and as the kernels want them; the file lies beside while it is loaded.
export function memoryNeeded({ request, artifact }, unpack) {
  const stored = artifact.weights.reduce((sum, file) => sum + file.size, 0);
  const weights = unpack ? artifact.unpacked_bytes + stored : stored;
  const longest = Math.max(0, ...request.tests.map((test) => test.tokens + test.depth), ...request.prompts.map((prompt) => prompt.ids.length + request.max_tokens));
  const layers = artifact.graphs.reduce((sum, graph) => sum + graph.kv_layers, 0);
  const width = artifact.kv_dtype === "float16" ? 2 : 4;
  const cache = 2 * longest * layers * 2 * artifact.kv_heads * artifact.head_dim * width; // twice: it grows by doubling
  const scores = 4 * artifact.attention_heads * Math.min(longest, PREFILL_CHUNK) * longest; // attention has no tiles here
  const wasm = (unpack ? 2.3 : 2) * weights + cache + scores + 64e6;
  return { wasm, all: wasm + stored };
}

const WASM_LIMIT = 4 * 2 ** 30 * 0.95;

// Half of what the device has; browsers that do not say are taken for a phone of 4 GiB.
export const memoryAllowed = () => ((navigator.deviceMemory ?? 4) * 2 ** 30) / 2;

// Whether to unpack int4 weights, and why the job should not be tried, or null.
export function plan(job) {
  const fits = (unpack) => {
    const need = memoryNeeded(job, unpack);
    return need.wasm <= WASM_LIMIT && need.all <= memoryAllowed();
  };
  const unpack = job.artifact.unpacked_bytes > 0 && job.request.cell.provider === "web" && fits(true);
  if (unpack || fits(false)) return { unpack, refusal: null };
  const need = Math.round(memoryNeeded(job, false).all / 1e6);
  return { unpack, refusal: `${job.artifact.name} needs about ${need} MB; this browser should not be asked for more than ${Math.round(memoryAllowed() / 1e6)} MB` };
}
