// Memory of the WASM module: allocate it, view it, make tensors over it. Addresses are numbers; 0 is null.

const CPU = 1; // onnxruntime-web's data location

/** @type {Record<TensorType, [onnxType: number, bytes: number]>} */
export const TYPES = { float32: [1, 4], bool: [9, 1], int64: [7, 8], float16: [10, 2] };

export class Heap {
  /** @param {WasmModule} module */
  constructor(module) {
    this.module = module;
  }

  // The current size in bytes; it never shrinks.
  get size() {
    return this.buffer.byteLength;
  }

  get buffer() {
    this.module.getValue(0, "i8"); // makes the module notice if another thread has grown the memory
    return this.module.HEAPU8.buffer;
  }

  /** @param {number} bytes */
  allocate(bytes) {
    const address = this.module._malloc(Math.max(bytes, 1)) >>> 0;
    if (address === 0) throw new Error(`not enough memory: cannot allocate ${Math.round(bytes / 1e6)} MB more`);
    return address;
  }

  /** @param {number} address */
  free(address) {
    this.module._free(address);
  }

  /**
   * Return a typed array over memory, valid until the next allocation.
   *
   * @template T
   * @param {new (buffer: ArrayBufferLike, address: number, length: number) => T} Type
   * @param {number} address
   * @param {number} length
   */
  view(Type, address, length) {
    return new Type(this.buffer, address, length);
  }

  /**
   * Store a null-terminated string.
   *
   * @param {string} text
   */
  storeString(text) {
    const bytes = new TextEncoder().encode(`${text}\0`);
    const address = this.allocate(bytes.length);
    this.view(Uint8Array, address, bytes.length).set(bytes);
    return address;
  }

  /**
   * Create an OrtValue over memory that the caller owns.
   *
   * @param {TensorType} type
   * @param {number} address
   * @param {number[]} dims
   */
  createTensor(type, address, dims) {
    const [onnxType, width] = TYPES[type];
    const stack = this.module.stackSave();
    try {
      const shape = this.module.stackAlloc(4 * dims.length);
      dims.forEach((size, i) => {
        this.module.setValue(shape + 4 * i, size, "i32");
      });
      const bytes = dims.reduce((a, b) => a * b, width);
      const tensor = this.module._OrtCreateTensor(onnxType, address, bytes, shape, dims.length, CPU);
      if (tensor === 0) throw new Error(`cannot create a tensor of shape ${dims}: ${this.lastError()}`);
      return tensor;
    } finally {
      this.module.stackRestore(stack);
    }
  }

  /** @param {number} tensor */
  release(tensor) {
    this.module._OrtReleaseTensor(tensor);
  }

  /**
   * Return the address of a tensor's data and its number of elements.
   *
   * @param {number} tensor
   * @returns {[address: number, count: number]}
   */
  tensorData(tensor) {
    const stack = this.module.stackSave();
    try {
      const out = this.module.stackAlloc(16);
      if (this.module._OrtGetTensorData(tensor, out, out + 4, out + 8, out + 12) !== 0)
        throw new Error(this.lastError());
      const [address, dims, rank] = [this.readPointer(out + 4), this.readPointer(out + 8), this.readPointer(out + 12)];
      let count = 1;
      for (let i = 0; i < rank; i++) count *= this.module.getValue(dims + 4 * i, "i32");
      this.module._OrtFree(dims);
      return [address, count];
    } finally {
      this.module.stackRestore(stack);
    }
  }

  lastError() {
    const stack = this.module.stackSave();
    try {
      const out = this.module.stackAlloc(8);
      this.module._OrtGetLastError(out, out + 4);
      const text = this.readPointer(out + 4);
      return text ? this.module.UTF8ToString(text) : "no message";
    } finally {
      this.module.stackRestore(stack);
    }
  }

  /** @param {number} address */
  readPointer(address) {
    return this.module.getValue(address, "i32") >>> 0;
  }
}

/**
 * Return floats in memory as a float32 array: a view if they are float32 already.
 *
 * @param {Heap} heap
 * @param {FloatType} dtype
 * @param {number} address
 * @param {number} count
 */
export function readFloats(heap, dtype, address, count) {
  if (dtype === "float32") return heap.view(Float32Array, address, count);
  return halvesToFloats(heap.view(Uint16Array, address, count));
}

/** @param {Uint16Array} halves */
export function halvesToFloats(halves) {
  const floats = new Float32Array(halves.length);
  for (let i = 0; i < halves.length; i++) {
    const half = halves[i];
    const sign = half & 0x8000 ? -1 : 1;
    const exponent = (half >> 10) & 31;
    const fraction = half & 1023;
    if (exponent === 31) floats[i] = fraction ? NaN : sign * Infinity;
    else if (exponent === 0) floats[i] = sign * fraction * 2 ** -24;
    else floats[i] = sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  }
  return floats;
}
