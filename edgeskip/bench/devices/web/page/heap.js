// Memory of the WASM module: allocate, look at, make tensors over. Addresses are numbers, 0 is none.

const CPU = 1; // onnxruntime-web's data location
export const TYPES = { float32: [1, 4], bool: [9, 1], int64: [7, 8], float16: [10, 2] }; // [ONNX's number, bytes]

export class Heap {
  constructor(module) {
    this.module = module;
  }

  // Bytes of memory now; it never shrinks.
  get size() {
    this.module.getValue(0, "i8"); // lets the module see what another thread grew
    return this.module.HEAPU8.length;
  }

  allocate(bytes) {
    const address = this.module._malloc(Math.max(bytes, 1)) >>> 0;
    if (address === 0) throw new Error(`not enough memory: the browser gives no ${Math.round(bytes / 1e6)} MB more`);
    return address;
  }

  free(address) {
    this.module._free(address);
  }

  // A typed array over memory; good until something is allocated.
  view(Type, address, length) {
    this.module.getValue(0, "i8");
    return new Type(this.module.HEAPU8.buffer, address, length);
  }

  // A null-terminated name.
  name(text) {
    const bytes = new TextEncoder().encode(text + "\0");
    const address = this.allocate(bytes.length);
    this.view(Uint8Array, address, bytes.length).set(bytes);
    return address;
  }

  // An OrtValue over memory that the caller keeps.
  tensor(type, address, dims) {
    const [number, width] = TYPES[type];
    const stack = this.module.stackSave();
    try {
      const place = this.module.stackAlloc(4 * dims.length);
      dims.forEach((size, i) => this.module.setValue(place + 4 * i, size, "i32"));
      const bytes = dims.reduce((a, b) => a * b, width);
      const tensor = this.module._OrtCreateTensor(number, address, bytes, place, dims.length, CPU);
      if (tensor === 0) throw new Error(`cannot make a tensor of ${dims}: ${this.lastError()}`);
      return tensor;
    } finally {
      this.module.stackRestore(stack);
    }
  }

  release(tensor) {
    this.module._OrtReleaseTensor(tensor);
  }

  // [address, number of elements] of a tensor's data.
  dataOf(tensor) {
    const stack = this.module.stackSave();
    try {
      const place = this.module.stackAlloc(16);
      if (this.module._OrtGetTensorData(tensor, place, place + 4, place + 8, place + 12) !== 0) throw new Error(this.lastError());
      const at = (offset) => this.module.getValue(place + offset, "i32") >>> 0;
      const [address, dims, rank] = [at(4), at(8), at(12)];
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
      const place = this.module.stackAlloc(8);
      this.module._OrtGetLastError(place, place + 4);
      const text = this.module.getValue(place + 4, "i32") >>> 0;
      return text ? this.module.UTF8ToString(text) : "no message";
    } finally {
      this.module.stackRestore(stack);
    }
  }
}

// float32 array of what lies in memory as `dtype`; a view where it is float32 already.
export function asFloats(heap, dtype, address, count) {
  if (dtype === "float32") return heap.view(Float32Array, address, count);
  return halvesToFloats(heap.view(Uint16Array, address, count));
}

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
