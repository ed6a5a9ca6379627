// Types of the benchmark page (edgeskip/bench/devices/web/page): the data it exchanges with the server, the interfaces that
// its modules share, and what it uses of its libraries and of new browser APIs. For tsc only.

// Data from the server: bench/devices/web/artifact.py, bench/runner/request.py, bench/schema.py.

type FloatType = "float32" | "float16";
type TensorType = FloatType | "bool" | "int64";

interface StoredFile {
  name: string;
  sha256: string;
  size: number;
}

interface GraphSpec {
  kv_layers: number;
  columns: number;
  states_in: boolean;
  states_out: boolean;
  switches: string[];
  packed: StoredFile;
  unpacked: StoredFile | null;
}

interface Artifact {
  name: string;
  kind: "whole" | "gated" | "chain";
  graphs: GraphSpec[];
  weights: StoredFile[];
  unpacked_bytes: number;
  tokenizer: StoredFile[];
  attention_heads: number;
  kv_heads: number;
  head_dim: number;
  kv_dtype: FloatType;
  logits_dtype: FloatType;
  vocab_size: number;
  context_length: number;
  hidden_size: number;
  draft_tokens: number[] | null;
  agreement: (number | null)[];
  end_tokens: number[];
}

interface Cell {
  target: string;
  device: string;
  provider: string;
  threads: number;
  strategy: string;
}

interface SyntheticTest {
  test: "pp" | "tg";
  tokens: number;
  depth: number;
}

interface PromptTokens {
  name: string;
  ids: number[];
}

interface Job {
  request: {
    cell: Cell;
    round: number;
    tests: SyntheticTest[];
    prompts: PromptTokens[];
    max_tokens: number;
    seed: number;
  };
  artifact: Artifact;
}

// Records for the server: bench/schema.py.

interface Roofline {
  provider: string;
  threads: number;
  bytes_per_s: number | null;
  flops_per_s: number | null;
  how: string;
}

interface DeviceRecord {
  kind: "device";
  id: string;
  type: "browser";
  name: string;
  facts: { threads: number; cores: number | null; webgpu: object | null; cross_origin_isolated: boolean };
  versions: Record<string, string>;
  rooflines?: Roofline[];
}

interface SyntheticResult extends SyntheticTest {
  seconds: number;
}

interface SpeculationStats {
  rounds: number;
  plain_steps: number;
  drafted: number;
  accepted: number;
  draft_s: number;
  verify_s: number;
  plain_s: number;
}

interface PromptResult {
  prompt: string;
  prompt_tokens: number;
  prefill_s: number;
  ttft_s: number;
  gaps_s: number[];
  tokens: number[];
  finish_reason: string;
  runtime_s: number;
  speculation: SpeculationStats | null;
}

interface ExecutionInfo {
  engine: "onnxruntime-web";
  version: string;
  provider: string;
  nodes: Record<string, number>;
  threads: number;
}

interface Measurement {
  ran: ExecutionInfo;
  load_s: number;
  tests: SyntheticResult[];
  answers: PromptResult[];
  device_peak_bytes: null;
  notes: string[];
}

// Between the page and its workers.

interface RunSettings {
  provider: string;
  threads: number;
  unpack: boolean;
  depth: number | null;
}

interface Progress {
  step?: string;
  share?: number;
  prompt?: string;
  token?: number;
}

interface WorkerProgress extends Omit<Progress, "token"> {
  tokens?: number[];
}

type WorkerMessage = WorkerProgress | { result: Measurement } | { error: string };
type DownloadProgress = (have: number, size: number, from: "stored" | "network") => void;
type RooflineOrder = { pages: number } | { read: number } | { multiply: number };

interface Kernels {
  memory: WebAssembly.Memory;
  read(bytes: number): number;
  multiply(iterations: number): number;
}

// Graphs and engines. Methods that return logits give float32 rows, none if `kept` is 0.

interface Rows {
  reserve(rows: number, used: number): void;
}

interface RowTarget<R extends Rows = Rows> {
  rows: R;
  at: number;
}

interface Graph {
  readonly length: number;
  readonly runSeconds: number;
  makeRows(width: number): Rows;
  reserve(tokens: number): void;
  switchSkip(on: boolean): void;
  truncate(length: number): void;
  appendTokens(tokens: number[], kept: number, target?: RowTarget): Promise<Float32Array<ArrayBuffer>>;
  appendRows(rows: Rows, count: number, kept: number, target?: RowTarget): Promise<Float32Array<ArrayBuffer>>;
}

interface Engine {
  readonly drafts: number;
  readonly length: number;
  reserve(tokens: number): void;
  truncate(length: number): void;
  step(tokens: number[], kept: number): Promise<Float32Array<ArrayBuffer>>;
}

interface DraftingEngine extends Engine {
  readonly drafted: number;
  readonly draftTokens: number[] | null;
  draft(tokens: number[], exit: number): Promise<Float32Array<ArrayBuffer>>;
  verify(tokens: number[]): Promise<Float32Array<ArrayBuffer>>;
}

interface DecodingLimits {
  maxTokens: number;
  endTokens: Set<number>;
  context: number;
}

interface DecodingCosts {
  plain: number;
  draft: number[];
  verify: [rows: number, seconds: number][];
}

interface DraftChoice {
  exit: number;
  depth: number;
  rate: number;
}

type DraftScheduler = import("../../edgeskip/bench/devices/web/page/draft_scheduler.js").DraftScheduler;

interface Decoder {
  engine: Engine;
  speculation: { engine: DraftingEngine; scheduler: DraftScheduler } | null;
  graphs: Graph[];
  vocabulary: number;
}

// Libraries that the server gives out below ../lib (bench/devices/web/packages.py).

type Ort = typeof import("onnxruntime-common");
type OrtTensor = import("onnxruntime-common").Tensor;
type OrtSession = import("onnxruntime-common").InferenceSession & { handler: { sessionId: number } };

interface WasmModule {
  HEAPU8: Uint8Array<ArrayBuffer>;
  _malloc(bytes: number): number;
  _free(address: number): void;
  _OrtCreateTensor(type: number, data: number, bytes: number, dims: number, rank: number, location: number): number;
  _OrtReleaseTensor(tensor: number): void;
  _OrtGetTensorData(tensor: number, type: number, data: number, dims: number, rank: number): number;
  _OrtGetLastError(code: number, message: number): void;
  _OrtFree(address: number): void;
  _OrtRun(
    session: number,
    inputNames: number,
    inputs: number,
    inputCount: number,
    outputNames: number,
    outputCount: number,
    outputs: number,
    options: number,
  ): Promise<number> | number;
  stackSave(): number;
  stackRestore(stack: number): void;
  stackAlloc(bytes: number): number;
  getValue(address: number, type: "i8" | "i32"): number;
  setValue(address: number, value: number, type: "i32"): void;
  UTF8ToString(address: number): string;
}

declare var ortModule: WasmModule; // set by wasm_module.js

declare module "*/lib/ort.wasm.min.mjs" {
  export * from "onnxruntime-common";
}

declare module "*/lib/ort.webgpu.min.mjs" {
  export * from "onnxruntime-common";
}

declare module "*/lib/ort-wasm-simd-threaded.mjs" {
  const createModule: (settings: object) => Promise<WasmModule>;
  export default createModule;
}

declare module "*/lib/index.esm.min.js" {
  export * from "hash-wasm";
}

declare module "*/lib/tokenizers.min.mjs" {
  export * from "@huggingface/tokenizers";
}

// Browser APIs that are not in TypeScript's DOM library, because only some browsers or only workers have them.

interface Navigator {
  readonly deviceMemory?: number;
  readonly userAgentData?: {
    getHighEntropyValues(
      hints: string[],
    ): Promise<Record<"model" | "platform" | "platformVersion" | "architecture", string>>;
  };
}

declare var GPUBufferUsage: Readonly<Record<"COPY_SRC" | "COPY_DST", number>>;

interface Performance {
  measureUserAgentSpecificMemory?(): Promise<{ bytes: number }>;
}

interface FileSystemFileHandle {
  createSyncAccessHandle(): Promise<FileSystemSyncAccessHandle>;
}

interface FileSystemSyncAccessHandle {
  close(): void;
  flush(): void;
  getSize(): number;
  read(buffer: Uint8Array<ArrayBuffer>, options: { at: number }): number;
  truncate(size: number): void;
  write(buffer: Uint8Array<ArrayBuffer>, options: { at: number }): number;
}
