// One thread of the roofline: takes {pages} once, then {read: bytes} and {multiply: iterations}; answers after each one.

import { messageOf } from "./errors.js";
import { buildKernels } from "./kernels.js";

/** @type {Kernels | null} */
let kernels = null;

addEventListener("message", async (/** @type {MessageEvent<RooflineOrder>} */ { data }) => {
  try {
    if ("pages" in data) {
      const { instance } = await WebAssembly.instantiate(buildKernels(data.pages));
      kernels = /** @type {Kernels} */ (/** @type {unknown} */ (instance.exports));
      new Uint8Array(kernels.memory.buffer).fill(1); // untouched pages are all one page of zeros, which fits in a cache
    } else if (kernels === null) throw new Error("no memory yet");
    else if ("read" in data) kernels.read(data.read);
    else kernels.multiply(data.multiply);
    postMessage({});
  } catch (error) {
    postMessage({ error: messageOf(error) });
  }
});
