// Loads onnxruntime's WASM module as onnxruntime-web asks for it, and keeps it: its memory is where the caches live.

import factory from "../lib/ort-wasm-simd-threaded.mjs";

export default async function capture(settings) {
  const module = await factory(settings);
  globalThis.ortModule = module;
  return module;
}
