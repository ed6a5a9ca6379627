// One ONNX graph and the sequence it has run, on the CPU: its KV cache lies in WASM memory and is updated in place.
//
// onnxruntime-web's own `run` copies every input into WASM memory and every output out of it, the whole KV cache at each
// step. Here past and present of a layer are one buffer that never leaves it, as in the Python runtime. That calls the
// functions of the WASM module below `run`, which are no public interface: the package is pinned by its checksum.

import { TYPES, asFloats } from "./heap.js";

const NO_LOGITS = -(2 ** 31); // logits_to_keep: the slice starts past the end, so the head computes no rows
const SMALLEST_CAPACITY = 256; // tokens

// Exit states between two graphs: rows in WASM memory that one writes and the next one reads in place.
export class HeapRows {
  constructor(heap, width, dtype) {
    this.heap = heap;
    this.rowBytes = width * TYPES[dtype][1];
    this.capacity = 0;
    this.address = 0;
  }

  // Room for `rows` rows; keeps the first `used`.
  reserve(rows, used) {
    if (rows <= this.capacity) return;
    const capacity = Math.max(rows, 2 * this.capacity, 64);
    const address = this.heap.allocate(capacity * this.rowBytes);
    if (this.address) {
      const old = this.heap.view(Uint8Array, this.address, used * this.rowBytes);
      this.heap.view(Uint8Array, address, old.length).set(old);
      this.heap.free(this.address);
    }
    [this.address, this.capacity] = [address, capacity];
  }

  at(row) {
    return this.address + row * this.rowBytes;
  }
}

export class HeapGraph {
  // `session` of onnxruntime-web; `spec` is the graph's entry in the description, `model` the description.
  constructor(session, heap, spec, model) {
    this.handle = session.handler.sessionId;
    this.session = session;
    this.heap = heap;
    this.spec = spec;
    this.model = model;
    this.length = 0; // tokens in the cache
    this.capacity = 0;
    this.runSeconds = 0;
    const caches = [];
    for (let layer = 0; layer < spec.kv_layers; layer++) for (const part of ["key", "value"]) caches.push(`${layer}.${part}`);
    const fixed = [spec.states_in ? "hidden_states" : "input_ids", "attention_mask", ...spec.switches];
    this.inputs = [...fixed, ...caches.map((cache) => `past_key_values.${cache}`)];
    this.outputs = [...(spec.states_out ? ["exit_states"] : []), ...caches.map((cache) => `present.${cache}`), "logits"];
    const missing = session.inputNames.filter((name) => !this.inputs.includes(name));
    if (missing.length || this.inputs.length !== session.inputNames.length) {
      throw new Error(`the graph has other inputs than its manifest describes (${missing}): export again`);
    }
    this.inputNames = this.table(this.inputs.map((name) => heap.name(name)));
    this.outputNames = this.table(this.outputs.map((name) => heap.name(name)));
    this.inputValues = heap.allocate(4 * this.inputs.length);
    this.outputValues = heap.allocate(4 * this.outputs.length);
    this.caches = caches.map(() => ({ address: 0, tensor: 0 }));
    this.ids = { address: 0, capacity: 0 };
    this.mask = 0;
    this.switches = {};
    for (const name of spec.switches) {
      const type = name === "skip" ? "bool" : "int64";
      const address = heap.allocate(8);
      heap.view(Uint8Array, address, 8).fill(0);
      this.switches[name] = { address, tensor: heap.tensor(type, address, [1]) };
    }
  }

  table(addresses) {
    const place = this.heap.allocate(4 * addresses.length);
    this.heap.view(Uint32Array, place, addresses.length).set(addresses);
    return place;
  }

  makeRows(width) {
    return new HeapRows(this.heap, width, this.model.kv_dtype);
  }

  reserve(tokens) {
    if (tokens <= this.capacity) return;
    const capacity = Math.min(this.model.context_length, Math.max(tokens, 2 * this.capacity, SMALLEST_CAPACITY));
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
      cache.tensor = this.heap.tensor(dtype, address, [1, heads, capacity, width]);
    }
    if (this.mask) this.heap.free(this.mask);
    this.mask = this.heap.allocate(8 * capacity);
    this.heap.view(BigInt64Array, this.mask, capacity).fill(1n);
    this.capacity = capacity;
  }

  // bool
  switchSkip(on) {
    this.heap.view(Uint8Array, this.switches.skip.address, 1)[0] = on ? 1 : 0;
  }

  // Appends tokens; logits float32 [kept · columns] of the last `kept` positions, null where kept is 0. A graph that
  // gives exit states writes them into `into.rows` from row `into.at`. The logits are good until the next call.
  async appendTokens(tokens, kept, into) {
    const count = tokens.length;
    if (count > this.ids.capacity) {
      if (this.ids.address) this.heap.free(this.ids.address);
      this.ids = { address: this.heap.allocate(8 * count), capacity: count };
    }
    const ids = this.heap.view(BigInt64Array, this.ids.address, count);
    for (let i = 0; i < count; i++) ids[i] = BigInt(tokens[i]);
    return this.run(count, kept, this.heap.tensor("int64", this.ids.address, [1, count]), into);
  }

  // Appends one position for each of `count` rows of exit states, from the first.
  async appendRows(rows, count, kept, into) {
    const source = this.heap.tensor(this.model.kv_dtype, rows.at(0), [1, count, this.model.hidden_size]);
    return this.run(count, kept, source, into);
  }

  truncate(length) {
    this.length = Math.min(this.length, length);
  }

  async run(count, kept, source, into) {
    const heap = this.heap;
    const total = this.length + count;
    const temporary = [source];
    try {
      this.reserve(total);
      const mask = heap.tensor("int64", this.mask, [1, total]);
      temporary.push(mask);
      const states = [];
      if (this.spec.states_out) {
        states.push(heap.tensor(this.model.kv_dtype, into.rows.at(into.at), [1, count, this.model.hidden_size]));
        temporary.push(states[0]);
      }
      if (this.switches.logits_to_keep) {
        heap.view(BigInt64Array, this.switches.logits_to_keep.address, 1)[0] = BigInt(kept || NO_LOGITS);
      } else if (kept !== 1) {
        throw new Error("the graph has no logits_to_keep: export again");
      }
      const switches = this.spec.switches.map((name) => this.switches[name].tensor);
      const caches = this.caches.map((cache) => cache.tensor);
      heap.view(Uint32Array, this.inputValues, this.inputs.length).set([source, mask, ...switches, ...caches]);
      heap.view(Uint32Array, this.outputValues, this.outputs.length).set([...states, ...caches, 0]);
      const outputs = this.outputs.length - (kept ? 0 : 1); // the logits come last
      const begin = performance.now();
      const failed = await heap.module._OrtRun(
        this.handle, this.inputNames, this.inputValues, this.inputs.length, this.outputNames, outputs, this.outputValues, 0,
      );
      this.runSeconds += (performance.now() - begin) / 1e3;
      if (failed) throw new Error(`onnxruntime-web: ${heap.lastError()}`);
    } finally {
      for (const tensor of temporary) heap.release(tensor);
    }
    this.length = total;
    return kept ? this.logitsOf(heap.view(Uint32Array, this.outputValues, this.outputs.length).at(-1)) : null;
  }

  logitsOf(tensor) {
    if (this.last) this.heap.release(this.last);
    this.last = tensor;
    const [address, count] = this.heap.dataOf(tensor);
    return asFloats(this.heap, this.model.logits_dtype, address, count);
  }
}
