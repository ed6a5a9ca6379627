// The WebAssembly module that the roofline is measured with: read all of its memory, multiply and add in registers.
// Put together here from the binary format (WebAssembly core specification 2.0, section 5), 128-bit SIMD.

export const PAGE_BYTES = 65536;
export const BLOCK_BYTES = 64; // that one turn of `read` takes
export const CHAINS = 12; // of `multiply`: fewer would wait for their own results, more do not fit registers
export const FLOPS_PER_TURN = CHAINS * 4 * 2;

const I32 = 0x7f;
const F32 = 0x7d;
const V128 = 0x7b;
const LOOP = [0x03, 0x40]; // without a result
const END = [0x0b];
const AGAIN_IF = [0x0d, 0]; // br_if of the innermost loop
const I32_ADD = [0x6a];
const I32_SUB = [0x6b];
const I32_LT_U = [0x49];
const F32_CONVERT = [0xb2];
const simd = (code) => [0xfd, ...unsigned(code)];
const F32X4_SPLAT = simd(0x13);
const I32X4_LANE_0 = [...simd(0x1b), 0];
const F32X4_LANE_0 = [...simd(0x1f), 0];
const I32X4_ADD = simd(0xae);
const F32X4_ADD = simd(0xe4);
const F32X4_MUL = simd(0xe6);
const get = (local) => [0x20, ...unsigned(local)];
const set = (local) => [0x21, ...unsigned(local)];
const tee = (local) => [0x22, ...unsigned(local)];
const i32 = (value) => [0x41, ...signed(value)];
const f32 = (value) => [0x43, ...new Uint8Array(Float32Array.of(value).buffer)];
const load = (offset) => [...simd(0x00), 4, ...unsigned(offset)]; // v128.load, aligned to 2⁴ bytes

// Exports `memory`; `read(bytes)`, the sum of the first of every four int32 of that many bytes, a multiple of
// BLOCK_BYTES; `multiply(turns)`, each of FLOPS_PER_TURN float32 operations.
export function kernels(pages) {
  const types = vector([function_([I32], I32), function_([I32], F32)]);
  const exported = vector([[...name("memory"), 2, 0], [...name("read"), 0, 0], [...name("multiply"), 0, 1]]);
  return Uint8Array.of(
    0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0,
    ...section(1, types),
    ...section(3, vector([[0], [1]])),
    ...section(5, vector([[0x01, ...unsigned(pages), ...unsigned(pages)]])),
    ...section(7, exported),
    ...section(10, vector([sized(readBody()), sized(multiplyBody())])),
  );
}

// Locals: 0 the bytes, 1 where it is, 2 … 5 the sums.
function readBody() {
  const sums = [2, 3, 4, 5];
  return [
    ...vector([[1, I32], [sums.length, V128]]),
    ...LOOP,
    ...sums.flatMap((sum, i) => [...get(sum), ...get(1), ...load(16 * i), ...I32X4_ADD, ...set(sum)]),
    ...get(1), ...i32(BLOCK_BYTES), ...I32_ADD, ...tee(1), ...get(0), ...I32_LT_U, ...AGAIN_IF,
    ...END,
    ...total(sums, I32X4_ADD), ...I32X4_LANE_0,
    ...END,
  ];
}

// Locals: 0 the turns left, 1 a half, 2 one, 3 … the chains x ← x/2 + 1, which end at 2 and never at a denormal number.
function multiplyBody() {
  const chains = Array.from({ length: CHAINS }, (_, i) => 3 + i);
  return [
    ...vector([[2 + CHAINS, V128]]),
    ...f32(0.5), ...F32X4_SPLAT, ...set(1),
    ...f32(1), ...F32X4_SPLAT, ...set(2),
    // Each from a number of its own, so that no compiler takes them for one.
    ...chains.flatMap((chain, i) => [...get(0), ...i32(i), ...I32_ADD, ...F32_CONVERT, ...F32X4_SPLAT, ...set(chain)]),
    ...LOOP,
    ...chains.flatMap((chain) => [...get(chain), ...get(1), ...F32X4_MUL, ...get(2), ...F32X4_ADD, ...set(chain)]),
    ...get(0), ...i32(1), ...I32_SUB, ...tee(0), ...AGAIN_IF,
    ...END,
    ...total(chains, F32X4_ADD), ...F32X4_LANE_0,
    ...END,
  ];
}

const total = ([first, ...others], add) => [...get(first), ...others.flatMap((local) => [...get(local), ...add])];
const function_ = (takes, gives) => [0x60, ...vector(takes.map((type) => [type])), ...vector([[gives]])];
const name = (text) => sized([...new TextEncoder().encode(text)]);
const section = (id, bytes) => [id, ...sized(bytes)];
const sized = (bytes) => [...unsigned(bytes.length), ...bytes];
const vector = (items) => [...unsigned(items.length), ...items.flat()];

// LEB128.
function unsigned(value) {
  const bytes = [];
  for (; value > 0x7f; value >>>= 7) bytes.push((value & 0x7f) | 0x80);
  return [...bytes, value];
}

function signed(value) {
  const bytes = [];
  for (; value < -64 || value > 63; value >>= 7) bytes.push((value & 0x7f) | 0x80);
  return [...bytes, value & 0x7f];
}
