// One thread of the roofline: takes {pages} once, then {read: bytes} and {multiply: turns}, and answers when each is done.

import { kernels } from "./kernels.js";

let code = null;

onmessage = async ({ data }) => {
  try {
    if (data.pages !== undefined) {
      code = (await WebAssembly.instantiate(kernels(data.pages))).instance.exports;
      new Uint8Array(code.memory.buffer).fill(1); // untouched pages are one page of zeros, which a cache holds
    } else if (data.read !== undefined) code.read(data.read);
    else code.multiply(data.multiply);
    postMessage({});
  } catch (error) {
    postMessage({ error: String(error?.message ?? error) });
  }
};
