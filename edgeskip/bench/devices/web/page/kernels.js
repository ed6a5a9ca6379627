// The WebAssembly module that measures the roofline: it reads all of its memory, and multiplies and adds in registers.
// Assembled from the binary format (WebAssembly core specification 2.0, section 5) with 128-bit SIMD.

export const PAGE_BYTES = 65536;
export const BLOCK_BYTES = 64; // per iteration of `read`
export const CHAINS = 12; // of `multiply`: fewer would wait for their own results, more do not fit into registers
export const FLOPS_PER_ITERATION = CHAINS * 4 * 2;

const I32 = 0x7f;
const F32 = 0x7d;
const V128 = 0x7b;
const LOOP = [0x03, 0x40]; // block type: no result
const END = [0x0b];
const CONTINUE_IF = [0x0d, 0]; // br_if of the innermost loop
const I32_ADD = [0x6a];
const I32_SUB = [0x6b];
const I32_LT_U = [0x49];
const F32_CONVERT = [0xb2];
/** @typedef {number[]} Bytes */
/** @typedef {(value: number) => Bytes} Encode */

/** @type {Encode} */
const simd = (code) => [0xfd, ...unsigned(code)];
const F32X4_SPLAT = simd(0x13);
const I32X4_LANE_0 = [...simd(0x1b), 0];
const F32X4_LANE_0 = [...simd(0x1f), 0];
const I32X4_ADD = simd(0xae);
const F32X4_ADD = simd(0xe4);
const F32X4_MUL = simd(0xe6);
/** @type {Encode} */
const get = (local) => [0x20, ...unsigned(local)];
/** @type {Encode} */
const set = (local) => [0x21, ...unsigned(local)];
/** @type {Encode} */
const tee = (local) => [0x22, ...unsigned(local)];
/** @type {Encode} */
const i32 = (value) => [0x41, ...signed(value)];
/** @type {Encode} */
const f32 = (value) => [0x43, ...new Uint8Array(Float32Array.of(value).buffer)];
/** @type {Encode} */
const load = (offset) => [...simd(0x00), 4, ...unsigned(offset)]; // v128.load, aligned to 2⁴ bytes

/**
 * Return the bytes of a module with `memory`, with `read(bytes)`, the sum of the first of every four int32 of that many
 * bytes (a multiple of BLOCK_BYTES), and with `multiply(iterations)`, each of FLOPS_PER_ITERATION float32 operations.
 *
 * @param {number} pages - of memory
 * @returns {Uint8Array<ArrayBuffer>}
 */
export function buildKernels(pages) {
  const types = vector([functionType([I32], I32), functionType([I32], F32)]);
  const exported = vector([
    [...name("memory"), 2, 0],
    [...name("read"), 0, 0],
    [...name("multiply"), 0, 1],
  ]);
  // biome-ignore format: a line per section
  return Uint8Array.of(
    0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0,
    ...section(1, types),
    ...section(3, vector([[0], [1]])),
    ...section(5, vector([[0x01, ...unsigned(pages), ...unsigned(pages)]])),
    ...section(7, exported),
    ...section(10, vector([sized(readBody()), sized(multiplyBody())])),
  );
}

// Locals: 0 the number of bytes, 1 the offset, 2 … 5 the sums.
function readBody() {
  const sums = [2, 3, 4, 5];
  // biome-ignore format: a line per statement
  return [
    ...vector([[1, I32], [sums.length, V128]]),
    ...LOOP,
    ...sums.flatMap((sum, i) => [...get(sum), ...get(1), ...load(16 * i), ...I32X4_ADD, ...set(sum)]),
    ...get(1), ...i32(BLOCK_BYTES), ...I32_ADD, ...tee(1), ...get(0), ...I32_LT_U, ...CONTINUE_IF,
    ...END,
    ...total(sums, I32X4_ADD), ...I32X4_LANE_0,
    ...END,
  ];
}

// Locals: 0 the iterations left, 1 a half, 2 one, 3 … the chains x ← x/2 + 1, which converge to 2 and never to a denormal.
function multiplyBody() {
  const chains = Array.from({ length: CHAINS }, (_, i) => 3 + i);
  // biome-ignore format: a line per statement
  return [
    ...vector([[2 + CHAINS, V128]]),
    ...f32(0.5), ...F32X4_SPLAT, ...set(1),
    ...f32(1), ...F32X4_SPLAT, ...set(2),
    // Each chain starts at a different number, so that no compiler merges them.
    ...chains.flatMap((chain, i) => [...get(0), ...i32(i), ...I32_ADD, ...F32_CONVERT, ...F32X4_SPLAT, ...set(chain)]),
    ...LOOP,
    ...chains.flatMap((chain) => [...get(chain), ...get(1), ...F32X4_MUL, ...get(2), ...F32X4_ADD, ...set(chain)]),
    ...get(0), ...i32(1), ...I32_SUB, ...tee(0), ...CONTINUE_IF,
    ...END,
    ...total(chains, F32X4_ADD), ...F32X4_LANE_0,
    ...END,
  ];
}

/** @type {(locals: number[], add: Bytes) => Bytes} */
const total = ([first, ...others], add) => [...get(first), ...others.flatMap((local) => [...get(local), ...add])];
/** @type {(takes: number[], gives: number) => Bytes} */
const functionType = (takes, gives) => [0x60, ...vector(takes.map((type) => [type])), ...vector([[gives]])];
/** @type {(text: string) => Bytes} */
const name = (text) => sized([...new TextEncoder().encode(text)]);
/** @type {(id: number, bytes: Bytes) => Bytes} */
const section = (id, bytes) => [id, ...sized(bytes)];
/** @type {(bytes: Bytes) => Bytes} */
const sized = (bytes) => [...unsigned(bytes.length), ...bytes];
/** @type {(items: Bytes[]) => Bytes} */
const vector = (items) => [...unsigned(items.length), ...items.flat()];

/**
 * Encode as unsigned LEB128.
 *
 * @param {number} value
 * @returns {Bytes}
 */
function unsigned(value) {
  const bytes = [];
  for (; value > 0x7f; value >>>= 7) bytes.push((value & 0x7f) | 0x80);
  return [...bytes, value];
}

/**
 * Encode as signed LEB128.
 *
 * @param {number} value
 * @returns {Bytes}
 */
function signed(value) {
  const bytes = [];
  for (; value < -64 || value > 63; value >>= 7) bytes.push((value & 0x7f) | 0x80);
  return [...bytes, value & 0x7f];
}
