// One ONNX graph and the sequence it has run, on WebGPU: its KV cache stays in GPU buffers. Same interface as HeapGraph.

import { halvesToFloats } from "./heap.js";

const NO_LOGITS = -(2 ** 31);

/** @implements {Rows} */
class ArrayRows {
  /** @param {number} width @param {FloatType} dtype */
  constructor(width, dtype) {
    this.width = width;
    this.data = emptyArray(dtype);
  }

  /**
   * Make room for `rows` rows and keep the first `used`.
   *
   * @param {number} rows
   * @param {number} used
   */
  reserve(rows, used) {
    if (rows * this.width <= this.data.length) return;
    const size = Math.max(rows * this.width, 2 * this.data.length);
    const grown = this.data instanceof Uint16Array ? new Uint16Array(size) : new Float32Array(size);
    grown.set(this.data.subarray(0, used * this.width));
    this.data = grown;
  }
}

/** @implements {Graph} */
export class GpuGraph {
  length = 0; // tokens in the cache
  runSeconds = 0;
  skip = false;
  /** @type {Map<string, OrtTensor>} */
  caches = new Map();

  /** @param {OrtSession} session @param {Ort} ort @param {GraphSpec} spec @param {Artifact} model */
  constructor(session, ort, spec, model) {
    this.session = session;
    this.ort = ort;
    this.spec = spec;
    this.model = model;
    this.empty();
  }

  /**
   * Return the output locations to open a session with: presents stay on the GPU.
   *
   * @param {GraphSpec} spec
   */
  static locations(spec) {
    /** @type {Record<string, "cpu" | "gpu-buffer">} */
    const locations = { logits: "cpu" };
    for (let layer = 0; layer < spec.kv_layers; layer++) {
      for (const part of ["key", "value"]) locations[`present.${layer}.${part}`] = "gpu-buffer";
    }
    if (spec.states_out) locations.exit_states = "cpu";
    return locations;
  }

  /** @param {number} width */
  makeRows(width) {
    return new ArrayRows(width, this.model.kv_dtype);
  }

  // Caches grow with each run: there is nothing to reserve.
  reserve() {}

  /** @param {boolean} on */
  switchSkip(on) {
    this.skip = on;
  }

  /** @param {number[]} tokens @param {number} kept @param {RowTarget<ArrayRows>} [target] */
  async appendTokens(tokens, kept, target) {
    const ids = new this.ort.Tensor("int64", BigInt64Array.from(tokens, BigInt), [1, tokens.length]);
    return this.run(tokens.length, kept, { input_ids: ids }, target);
  }

  /** @param {ArrayRows} rows @param {number} count @param {number} kept @param {RowTarget<ArrayRows>} [target] */
  async appendRows(rows, count, kept, target) {
    const width = this.model.hidden_size;
    const states = new this.ort.Tensor(this.model.kv_dtype, rows.data.slice(0, count * width), [1, count, width]);
    return this.run(count, kept, { hidden_states: states }, target);
  }

  /**
   * A cache may be longer than its valid part: the mask says how long that is.
   *
   * @param {number} length
   */
  truncate(length) {
    this.length = Math.min(this.length, length);
    if (this.length === 0) this.empty();
  }

  empty() {
    for (const tensor of this.caches.values()) tensor.dispose();
    const { kv_heads: heads, head_dim: width, kv_dtype: dtype } = this.model;
    for (let layer = 0; layer < this.spec.kv_layers; layer++) {
      for (const part of ["key", "value"]) {
        this.caches.set(`${layer}.${part}`, new this.ort.Tensor(dtype, emptyArray(dtype), [1, heads, 0, width]));
      }
    }
  }

  /**
   * @param {number} count
   * @param {number} kept
   * @param {Record<string, OrtTensor>} feeds
   * @param {RowTarget<ArrayRows>} [target]
   */
  async run(count, kept, feeds, target) {
    const { Tensor } = this.ort;
    const total = this.length + count;
    feeds.attention_mask = new Tensor("int64", new BigInt64Array(total).fill(1n), [1, total]);
    for (const name of this.spec.switches) {
      feeds[name] =
        name === "skip" ? new Tensor("bool", [this.skip], [1]) : new Tensor("int64", [BigInt(kept || NO_LOGITS)], [1]);
    }
    for (const [name, tensor] of this.caches) feeds[`past_key_values.${name}`] = tensor;
    const wanted = this.session.outputNames.filter((name) => kept || name !== "logits");
    const begin = performance.now();
    const outputs = await this.session.run(feeds, wanted);
    this.runSeconds += (performance.now() - begin) / 1e3;
    for (const [name, tensor] of this.caches) {
      const present = outputs[`present.${name}`];
      if (present !== tensor) tensor.dispose();
      this.caches.set(name, present);
    }
    if (target) target.rows.data.set(rawData(outputs.exit_states), target.at * this.model.hidden_size);
    this.length = total;
    if (!kept) return new Float32Array(0);
    const logits = rawData(outputs.logits);
    return logits instanceof Uint16Array ? halvesToFloats(logits) : logits;
  }
}

/**
 * Return the numbers as stored: some browsers represent float16 as a Float16Array.
 *
 * @param {OrtTensor} tensor
 */
function rawData(tensor) {
  const data = /** @type {Float32Array<ArrayBuffer>} */ (tensor.data);
  return tensor.type === "float16" ? new Uint16Array(data.buffer, data.byteOffset, data.length) : data;
}

/** @param {FloatType} dtype */
const emptyArray = (dtype) => (dtype === "float16" ? new Uint16Array(0) : new Float32Array(0));
