// One ONNX graph and the sequence it has run, on the CPU: its KV cache is in WASM memory and is updated in place.
//
// onnxruntime-web's own `run` copies every input into WASM memory and every output out of it: the whole KV cache at each
// step. Here the past and present of a layer are one buffer that never leaves WASM memory, as in the Python runtime. To do
// so, this file calls the functions of the WASM module below `run`. They are not a public interface, which is why the
// package is pinned by its checksum.

/** @import { Heap } from "./heap.js" */
import { readFloats, TYPES } from "./heap.js";

const NO_LOGITS = -(2 ** 31); // logits_to_keep: the slice starts past the end, so the head computes no rows
const MIN_CAPACITY = 256; // tokens

/**
 * Exit states between two graphs: rows in WASM memory that one graph writes and the next reads in place.
 *
 * @implements {Rows}
 */
class HeapRows {
  capacity = 0;
  address = 0;

  /** @param {Heap} heap @param {number} width @param {FloatType} dtype */
  constructor(heap, width, dtype) {
    this.heap = heap;
    this.rowBytes = width * TYPES[dtype][1];
  }

  /**
   * Make room for `rows` rows and keep the first `used`.
   *
   * @param {number} rows
   * @param {number} used
   */
  reserve(rows, used) {
    if (rows <= this.capacity) return;
    const capacity = Math.max(rows, 2 * this.capacity, 64);
    const address = this.heap.allocate(capacity * this.rowBytes);
    if (this.address) {
      const old = this.heap.view(Uint8Array, this.address, used * this.rowBytes);
      this.heap.view(Uint8Array, address, old.length).set(old);
      this.heap.free(this.address);
    }
    this.address = address;
    this.capacity = capacity;
  }

  /** @param {number} row */
  at(row) {
    return this.address + row * this.rowBytes;
  }
}

/** @implements {Graph} */
export class HeapGraph {
  length = 0; // tokens in the cache
  capacity = 0;
  runSeconds = 0;
  ids = { address: 0, capacity: 0 };
  mask = 0;
  logits = 0; // the last run's tensor
  /** @type {Record<string, { address: number, tensor: number }>} */
  switches = {};

  /** @param {OrtSession} session @param {Heap} heap @param {GraphSpec} spec @param {Artifact} model */
  constructor(session, heap, spec, model) {
    this.handle = session.handler.sessionId;
    this.session = session;
    this.heap = heap;
    this.spec = spec;
    this.model = model;
    const layers = Array.from({ length: spec.kv_layers }, (_, layer) => layer);
    const caches = layers.flatMap((layer) => [`${layer}.key`, `${layer}.value`]);
    this.inputs = [
      spec.states_in ? "hidden_states" : "input_ids",
      "attention_mask",
      ...spec.switches,
      ...caches.map((cache) => `past_key_values.${cache}`),
    ];
    this.outputs = [
      ...(spec.states_out ? ["exit_states"] : []),
      ...caches.map((cache) => `present.${cache}`),
      "logits", // last, so that a run can leave it out
    ];
    const unknown = session.inputNames.filter((name) => !this.inputs.includes(name));
    if (unknown.length || this.inputs.length !== session.inputNames.length) {
      throw new Error(`the graph's inputs are not those in its manifest (${unknown}): export the artifact again`);
    }
    this.inputNames = this.storePointers(this.inputs.map((name) => heap.storeString(name)));
    this.outputNames = this.storePointers(this.outputs.map((name) => heap.storeString(name)));
    this.inputValues = heap.allocate(4 * this.inputs.length);
    this.outputValues = heap.allocate(4 * this.outputs.length);
    this.caches = caches.map(() => ({ address: 0, tensor: 0 }));
    for (const name of spec.switches) {
      const type = name === "skip" ? "bool" : "int64";
      const address = heap.allocate(8);
      heap.view(Uint8Array, address, 8).fill(0);
      this.switches[name] = { address, tensor: heap.createTensor(type, address, [1]) };
    }
  }

  /** @param {number[]} addresses */
  storePointers(addresses) {
    const table = this.heap.allocate(4 * addresses.length);
    this.heap.view(Uint32Array, table, addresses.length).set(addresses);
    return table;
  }

  /** @param {number} width */
  makeRows(width) {
    return new HeapRows(this.heap, width, this.model.kv_dtype);
  }

  /** @param {number} tokens */
  reserve(tokens) {
    if (tokens <= this.capacity) return;
    const capacity = Math.min(this.model.context_length, Math.max(tokens, 2 * this.capacity, MIN_CAPACITY));
    const { kv_heads: heads, head_dim: width, kv_dtype: dtype } = this.model;
    const row = width * TYPES[dtype][1];
    for (const cache of this.caches) {
      const address = this.heap.allocate(heads * capacity * row);
      const bytes = this.heap.view(Uint8Array, address, heads * capacity * row).fill(0);
      if (cache.address) {
        const old = this.heap.view(Uint8Array, cache.address, heads * this.capacity * row);
        for (let head = 0; head < heads; head++) {
          const start = head * this.capacity * row;
          bytes.set(old.subarray(start, start + this.length * row), head * capacity * row);
        }
        this.heap.release(cache.tensor);
        this.heap.free(cache.address);
      }
      cache.address = address;
      cache.tensor = this.heap.createTensor(dtype, address, [1, heads, capacity, width]);
    }
    if (this.mask) this.heap.free(this.mask);
    this.mask = this.heap.allocate(8 * capacity);
    this.heap.view(BigInt64Array, this.mask, capacity).fill(1n);
    this.capacity = capacity;
  }

  /** @param {boolean} on */
  switchSkip(on) {
    this.heap.view(Uint8Array, this.switches.skip.address, 1)[0] = on ? 1 : 0;
  }

  /**
   * Append tokens and return the logits of the last `kept` positions, float32 [kept · columns], valid until the next call.
   *
   * @param {number[]} tokens
   * @param {number} kept
   * @param {RowTarget<HeapRows>} [target] - Where a graph with exit states writes them.
   */
  async appendTokens(tokens, kept, target) {
    const count = tokens.length;
    if (count > this.ids.capacity) {
      if (this.ids.address) this.heap.free(this.ids.address);
      this.ids = { address: this.heap.allocate(8 * count), capacity: count };
    }
    const ids = this.heap.view(BigInt64Array, this.ids.address, count);
    for (let i = 0; i < count; i++) ids[i] = BigInt(tokens[i]);
    return this.run(count, kept, this.heap.createTensor("int64", this.ids.address, [1, count]), target);
  }

  /**
   * Append one position for each of the first `count` rows of exit states.
   *
   * @param {HeapRows} rows
   * @param {number} count
   * @param {number} kept
   * @param {RowTarget<HeapRows>} [target]
   */
  async appendRows(rows, count, kept, target) {
    const source = this.heap.createTensor(this.model.kv_dtype, rows.at(0), [1, count, this.model.hidden_size]);
    return this.run(count, kept, source, target);
  }

  /** @param {number} length */
  truncate(length) {
    this.length = Math.min(this.length, length);
  }

  /**
   * @param {number} count
   * @param {number} kept
   * @param {number} source - tensor
   * @param {RowTarget<HeapRows>} [target]
   */
  async run(count, kept, source, target) {
    const heap = this.heap;
    const total = this.length + count;
    const temporary = [source];
    try {
      this.reserve(total);
      const mask = heap.createTensor("int64", this.mask, [1, total]);
      temporary.push(mask);
      const states = [];
      if (target) {
        const shape = [1, count, this.model.hidden_size];
        states.push(heap.createTensor(this.model.kv_dtype, target.rows.at(target.at), shape));
        temporary.push(states[0]);
      }
      if (this.switches.logits_to_keep) {
        heap.view(BigInt64Array, this.switches.logits_to_keep.address, 1)[0] = BigInt(kept || NO_LOGITS);
      } else if (kept !== 1) {
        throw new Error("the graph has no input logits_to_keep: export the artifact again");
      }
      const switches = this.spec.switches.map((name) => this.switches[name].tensor);
      const caches = this.caches.map((cache) => cache.tensor);
      heap.view(Uint32Array, this.inputValues, this.inputs.length).set([source, mask, ...switches, ...caches]);
      heap.view(Uint32Array, this.outputValues, this.outputs.length).set([...states, ...caches, 0]);
      const outputs = this.outputs.length - (kept ? 0 : 1);
      const begin = performance.now();
      const failed = await heap.module._OrtRun(
        this.handle,
        this.inputNames,
        this.inputValues,
        this.inputs.length,
        this.outputNames,
        outputs,
        this.outputValues,
        0,
      );
      this.runSeconds += (performance.now() - begin) / 1e3;
      if (failed) throw new Error(`onnxruntime-web: ${heap.lastError()}`);
    } finally {
      for (const tensor of temporary) heap.release(tensor);
    }
    this.length = total;
    return kept ? this.readLogits() : new Float32Array(0);
  }

  readLogits() {
    if (this.logits) this.heap.release(this.logits);
    this.logits = this.heap.view(Uint32Array, this.outputValues, this.outputs.length)[this.outputs.length - 1];
    const [address, count] = this.heap.tensorData(this.logits);
    return readFloats(this.heap, this.model.logits_dtype, address, count);
  }
}
