// Opens an artifact's graphs with onnxruntime-web, on WASM with the caches in place or on WebGPU.

import { GpuGraph } from "./gpu_graph.js";
import { HeapGraph } from "./heap_graph.js";
import { Heap } from "./heap.js";

const here = (name) => new URL(name, import.meta.url).href;

// `files` by sha256, emptied when the weights are loaded. `settings`: {provider, threads, unpack}. Gives the graphs, the
// seconds from the bytes to a model that can run, what ran, and notes for the record.
export async function openGraphs(artifact, files, settings) {
  const begin = performance.now();
  const gpu = settings.provider === "webgpu";
  const ort = await import(gpu ? "../lib/ort.webgpu.min.mjs" : "../lib/ort.wasm.min.mjs");
  const build = gpu ? "ort-wasm-simd-threaded.asyncify" : "ort-wasm-simd-threaded";
  ort.env.wasm.numThreads = settings.threads;
  ort.env.wasm.wasmPaths = { mjs: gpu ? here(`../lib/${build}.mjs`) : here("./capture.js"), wasm: here(`../lib/${build}.wasm`) };
  ort.env.logLevel = "error";
  const weights = artifact.weights.map((file) => ({ path: file.name, data: files.get(file.sha256) }));
  const graphs = [];
  for (const spec of artifact.graphs) {
    const unpack = settings.unpack && spec.unpacked !== null;
    const session = await ort.InferenceSession.create(files.get((unpack ? spec.unpacked : spec.packed).sha256), {
      executionProviders: [gpu ? "webgpu" : "wasm"],
      externalData: weights,
      graphOptimizationLevel: "all",
      logSeverityLevel: 3,
      extra: { session: { disable_quant_qdq: unpack ? "1" : "0" } }, // only then the matrices are folded
      ...(gpu ? { preferredOutputLocation: GpuGraph.locations(spec) } : {}),
    });
    graphs.push(gpu ? new GpuGraph(session, ort, spec, artifact) : new HeapGraph(session, new Heap(globalThis.ortModule), spec, artifact));
  }
  files.clear();
  const notes = () => {
    const found = [];
    if (settings.unpack) found.push("int4 weights unpacked to float32 when loaded: onnxruntime-web has no int4 kernels for WASM");
    if (!gpu) found.push(`WASM memory ${Math.round(new Heap(globalThis.ortModule).size / 1e6)} MB; KV cache updated in place`);
    else found.push("onnxruntime-web does not tell which nodes ran on the GPU");
    return found;
  };
  return {
    graphs,
    seconds: (performance.now() - begin) / 1e3,
    ran: { engine: "onnxruntime-web", version: ort.env.versions.web ?? "unknown", provider: gpu ? "webgpu" : "web", nodes: {}, threads: settings.threads },
    notes,
  };
}
