// Opens an artifact's graphs with onnxruntime-web: on WASM with the caches in place, or on WebGPU.

import { GpuGraph } from "./gpu_graph.js";
import { Heap } from "./heap.js";
import { HeapGraph } from "./heap_graph.js";

/** @param {string} name */
const url = (name) => new URL(name, import.meta.url).href;

/**
 * @param {Artifact} artifact
 * @param {Map<string, Uint8Array>} files - By sha256; emptied when the weights are loaded.
 * @param {RunSettings} settings
 * @returns {Promise<{ graphs: Graph[], seconds: number, ran: ExecutionInfo, notes: () => string[] }>} The graphs, the
 *   seconds from the bytes to a model that can run, what ran, and notes for the record.
 */
export async function loadGraphs(artifact, files, settings) {
  const begin = performance.now();
  const gpu = settings.provider === "webgpu";
  const ort = await (gpu ? import("../lib/ort.webgpu.min.mjs") : import("../lib/ort.wasm.min.mjs"));
  const build = gpu ? "ort-wasm-simd-threaded.asyncify" : "ort-wasm-simd-threaded";
  ort.env.wasm.numThreads = settings.threads;
  ort.env.wasm.wasmPaths = {
    mjs: gpu ? url(`../lib/${build}.mjs`) : url("./wasm_module.js"),
    wasm: url(`../lib/${build}.wasm`),
  };
  ort.env.logLevel = "error";
  const bytesOf = (/** @type {StoredFile} */ file) => {
    const data = files.get(file.sha256);
    if (data === undefined) throw new Error(`${file.name} was not downloaded`);
    return data;
  };
  const externalData = artifact.weights.map((file) => ({ path: file.name, data: bytesOf(file) }));
  /** @type {Graph[]} */
  const graphs = [];
  for (const spec of artifact.graphs) {
    const unpacked = settings.unpack ? spec.unpacked : null;
    const session = /** @type {OrtSession} */ (
      await ort.InferenceSession.create(bytesOf(unpacked ?? spec.packed), {
        executionProviders: [gpu ? "webgpu" : "wasm"],
        externalData,
        graphOptimizationLevel: "all",
        logSeverityLevel: 3,
        extra: { session: { disable_quant_qdq: unpacked ? "1" : "0" } }, // only with "1" are the matrices folded
        ...(gpu ? { preferredOutputLocation: GpuGraph.locations(spec) } : {}),
      })
    );
    graphs.push(
      gpu
        ? new GpuGraph(session, ort, spec, artifact)
        : new HeapGraph(session, new Heap(globalThis.ortModule), spec, artifact),
    );
  }
  files.clear();
  const notes = () => {
    const found = [];
    if (settings.unpack) {
      found.push("int4 weights unpacked to float32 on load: onnxruntime-web has no int4 kernels for WASM");
    }
    if (gpu) found.push("onnxruntime-web does not report which nodes ran on the GPU");
    else {
      const megabytes = Math.round(new Heap(globalThis.ortModule).size / 1e6);
      found.push(`WASM memory ${megabytes} MB; KV cache updated in place`);
    }
    return found;
  };
  return {
    graphs,
    seconds: (performance.now() - begin) / 1e3,
    ran: {
      engine: "onnxruntime-web",
      version: ort.env.versions.web ?? "unknown",
      provider: gpu ? "webgpu" : "web",
      nodes: {},
      threads: settings.threads,
    },
    notes,
  };
}
