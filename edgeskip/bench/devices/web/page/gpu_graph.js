// One ONNX graph and the sequence it has run, on WebGPU: its KV cache stays in GPU buffers. The interface is heap_graph's.

import { halvesToFloats } from "./heap.js";

const NO_LOGITS = -(2 ** 31);

class ArrayRows {
  constructor(width, Type) {
    this.width = width;
    this.data = new Type(0);
  }

  reserve(rows, used) {
    if (rows * this.width <= this.data.length) return;
    const grown = new this.data.constructor(Math.max(rows * this.width, 2 * this.data.length));
    grown.set(this.data.subarray(0, used * this.width));
    this.data = grown;
  }
}

export class GpuGraph {
  constructor(session, ort, spec, model) {
    this.session = session;
    this.ort = ort;
    this.spec = spec;
    this.model = model;
    this.length = 0;
    this.runSeconds = 0;
    this.skip = false;
    this.caches = new Map();
    this.empty();
  }

  // What a session must be opened with: presents stay where they are made.
  static locations(spec) {
    const places = { logits: "cpu" };
    for (let layer = 0; layer < spec.kv_layers; layer++) for (const part of ["key", "value"]) places[`present.${layer}.${part}`] = "gpu-buffer";
    if (spec.states_out) places.exit_states = "cpu";
    return places;
  }

  makeRows(width) {
    return new ArrayRows(width, this.model.kv_dtype === "float16" ? Uint16Array : Float32Array);
  }

  // Caches grow with what runs: there is nothing to make ahead.
  reserve() {}

  switchSkip(on) {
    this.skip = on;
  }

  async appendTokens(tokens, kept, into) {
    const ids = new this.ort.Tensor("int64", BigInt64Array.from(tokens, BigInt), [1, tokens.length]);
    return this.run(tokens.length, kept, { input_ids: ids }, into);
  }

  async appendRows(rows, count, kept, into) {
    const width = this.model.hidden_size;
    const states = new this.ort.Tensor(this.model.kv_dtype, rows.data.slice(0, count * width), [1, count, width]);
    return this.run(count, kept, { hidden_states: states }, into);
  }

  // A cache may be longer than what counts of it: the mask says how much does.
  truncate(length) {
    this.length = Math.min(this.length, length);
    if (this.length === 0) this.empty();
  }

  empty() {
    for (const tensor of this.caches.values()) tensor.dispose();
    const { kv_heads: heads, head_dim: width, kv_dtype: dtype } = this.model;
    for (let layer = 0; layer < this.spec.kv_layers; layer++) {
      for (const part of ["key", "value"]) {
        const nothing = dtype === "float16" ? new Uint16Array(0) : new Float32Array(0);
        this.caches.set(`${layer}.${part}`, new this.ort.Tensor(dtype, nothing, [1, heads, 0, width]));
      }
    }
  }

  async run(count, kept, feeds, into) {
    const { Tensor } = this.ort;
    const total = this.length + count;
    feeds.attention_mask = new Tensor("int64", new BigInt64Array(total).fill(1n), [1, total]);
    for (const name of this.spec.switches) {
      feeds[name] = name === "skip" ? new Tensor("bool", [this.skip], [1]) : new Tensor("int64", [BigInt(kept || NO_LOGITS)], [1]);
    }
    for (const [name, tensor] of this.caches) feeds[`past_key_values.${name}`] = tensor;
    const wanted = this.session.outputNames.filter((name) => kept || name !== "logits");
    const begin = performance.now();
    const made = await this.session.run(feeds, wanted);
    this.runSeconds += (performance.now() - begin) / 1e3;
    for (const [name, tensor] of this.caches) {
      const present = made[`present.${name}`];
      if (present !== tensor) tensor.dispose();
      this.caches.set(name, present);
    }
    if (this.spec.states_out) into.rows.data.set(rawOf(made.exit_states), into.at * this.model.hidden_size);
    this.length = total;
    if (!kept) return null;
    return this.model.logits_dtype === "float16" ? halvesToFloats(rawOf(made.logits)) : made.logits.data;
  }
}

// The numbers as they are stored: browsers with a Float16Array get one for float16.
function rawOf(tensor) {
  const data = tensor.data;
  return tensor.type === "float16" ? new Uint16Array(data.buffer, data.byteOffset, data.length) : data;
}
