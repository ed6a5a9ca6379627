// Loads onnxruntime's WASM module when onnxruntime-web asks for it and keeps a reference: the KV caches live in its memory.

import createModule from "../lib/ort-wasm-simd-threaded.mjs";

/** @param {object} settings @returns {Promise<WasmModule>} */
export default async function loadModule(settings) {
  const module = await createModule(settings);
  globalThis.ortModule = module;
  return module;
}
