// One round of one cell, like the Python runner (bench/runner/measure.py): open the artifact, warm up, answer the prompts,
// run the tests on random tokens.

import { decode, decodeSpeculatively, prefill } from "./decoding.js";
import { DraftScheduler, measureCosts } from "./draft_scheduler.js";
import { canDraft, createEngine, totalRunSeconds } from "./engines.js";
import { loadGraphs } from "./loader.js";
import { testName } from "./results_table.js";

const WARM_TOKENS = 4;
const WARM_PASSES = { least: 4, most: 10, prompt: 64, steps: 8 };
const WARM_MS = { least: 1000, most: 20000 }; // the optimizing compiler needs time; slow devices stop at `most`
const WARM_SEED = 1; // a separate one: the number of warm-up passes must not change the tests' tokens
const STRATEGIES = ["plain", "self-speculative"];

/**
 * Return the measured part of a Sample record.
 *
 * @param {Job} job
 * @param {Map<string, Uint8Array>} files
 * @param {RunSettings} settings
 * @param {(progress: Progress) => void} report
 * @returns {Promise<Measurement>}
 */
export async function measureRound({ request, artifact }, files, settings, report) {
  const strategy = request.cell.strategy;
  if (!STRATEGIES.includes(strategy)) throw new Error(`the page supports ${STRATEGIES.join(" and ")}, not ${strategy}`);
  report({ step: "loading the model" });
  const loaded = await loadGraphs(artifact, files, settings);
  const engine = createEngine(artifact, loaded.graphs);
  const drafting = strategy === "self-speculative";
  if (drafting && !canDraft(engine)) throw new Error("this artifact has no draft of its own: use --strategy plain");
  const random = randomTokens(request.seed, artifact.vocab_size);
  const context = artifact.context_length;
  const limits = { maxTokens: request.max_tokens, endTokens: new Set(artifact.end_tokens), context };

  report({ step: "warming up" });
  const warming = randomTokens(WARM_SEED, artifact.vocab_size);
  await repeatUntilSteady(() => runOnce(engine, warming, context));
  let speculation = null;
  if (drafting && canDraft(engine) && request.prompts.length) {
    const scheduler = new DraftScheduler(await measureCosts(engine, context), artifact.agreement, settings.depth);
    speculation = { engine, scheduler };
  }
  const decoder = { engine, speculation, graphs: loaded.graphs, vocabulary: artifact.vocab_size };
  if (request.prompts.length)
    await answer(decoder, request.prompts[0], { ...limits, maxTokens: WARM_TOKENS }, () => {});

  const answers = [];
  for (const prompt of request.prompts) {
    report({ step: `answering ${prompt.name}`, prompt: prompt.name });
    answers.push(await answer(decoder, prompt, limits, report));
    report({ step: `answered ${prompt.name}`, share: 1 });
  }
  // The tests follow the answers, which cells of every strategy have: tests and their warm-up would change the state of the
  // machine and the buffers.
  if (request.tests.length) {
    report({ step: "warming up for the tests" });
    const longest = Math.max(0, ...request.tests.filter((test) => test.test === "pp").map((test) => test.tokens));
    if (longest) await prefill(engine, warming(Math.min(longest, 512, context)));
    engine.truncate(0);
    await engine.step(warming(1), 1);
    engine.truncate(0);
  }
  const tests = [];
  for (const test of request.tests) tests.push(await runTest(engine, test, random, context, report));
  return {
    ran: loaded.ran,
    load_s: loaded.seconds,
    tests,
    answers,
    device_peak_bytes: null,
    notes: loaded.notes(),
  };
}

/**
 * Repeat until it gets no faster. Browsers compile WASM twice, the second time in the background once the code has run for
 * a while: the first two passes of a 135M model take 1.3 to 2.5 times as long as all later ones.
 *
 * @param {() => Promise<void>} run
 */
async function repeatUntilSteady(run) {
  let best = Infinity;
  const start = performance.now();
  for (let number = 1; ; number++) {
    const begin = performance.now();
    await run();
    const taken = performance.now() - begin;
    const spent = performance.now() - start;
    if (spent > WARM_MS.most) return;
    const enough = number >= WARM_PASSES.least && spent > WARM_MS.least;
    if (enough && (taken > 0.95 * best || number >= WARM_PASSES.most)) return;
    best = Math.min(best, taken);
  }
}

/** @param {Engine} engine @param {(count: number) => number[]} random @param {number} context */
async function runOnce(engine, random, context) {
  await prefill(engine, random(Math.min(WARM_PASSES.prompt, context)));
  const steps = Math.min(WARM_PASSES.steps, context - engine.length);
  for (let step = 0; step < steps; step++) await engine.step(random(1), 1);
  engine.truncate(0);
}

/**
 * Time a test like llama-bench: random tokens, logits of the last position only, without the prefill of the depth.
 *
 * @param {Engine} engine
 * @param {SyntheticTest} test
 * @param {(count: number) => number[]} random
 * @param {number} context
 * @param {(progress: Progress) => void} report
 * @returns {Promise<SyntheticResult>}
 */
async function runTest(engine, test, random, context, report) {
  const name = testName(test);
  const total = test.depth + test.tokens;
  if (total > context) {
    throw new Error(
      `${name} needs a context of ${total} tokens, but the model has ${context}: use a smaller -p, -n or -d`,
    );
  }
  report({ step: name, share: 0 });
  engine.truncate(0);
  engine.reserve(total);
  if (test.depth) await prefill(engine, random(test.depth));
  const tokens = random(test.tokens);
  const begin = performance.now();
  if (test.test === "pp") await prefill(engine, tokens);
  else for (const token of tokens) await engine.step([token], 1);
  const seconds = (performance.now() - begin) / 1e3;
  engine.truncate(0);
  report({ step: name, share: 1 });
  return { test: test.test, tokens: test.tokens, depth: test.depth, seconds };
}

/**
 * @param {Decoder} decoder
 * @param {PromptTokens} prompt
 * @param {DecodingLimits} limits
 * @param {(progress: Progress) => void} report
 * @returns {Promise<PromptResult>}
 */
async function answer({ engine, speculation, graphs, vocabulary }, prompt, limits, report) {
  if (prompt.ids.length > limits.context) {
    const { length } = prompt.ids;
    throw new Error(`prompt ${prompt.name} has ${length} tokens, but the context holds ${limits.context}: shorten it`);
  }
  const history = [...prompt.ids];
  /** @type {number[]} */
  const arrivals = [];
  engine.truncate(0);
  engine.reserve(Math.min(limits.context, history.length + limits.maxTokens));
  const emit = (/** @type {number} */ token) => {
    arrivals.push(performance.now());
    report({ token, share: arrivals.length / limits.maxTokens });
  };
  speculation?.scheduler.resetStats();
  const begin = performance.now();
  const logits = await prefill(engine, prompt.ids);
  const prefilled = performance.now();
  const before = totalRunSeconds(graphs);
  let reason;
  if (speculation === null) reason = await decode(engine, logits, history, limits, emit);
  else {
    const { engine: drafting, scheduler } = speculation;
    reason = await decodeSpeculatively(drafting, logits, history, limits, emit, scheduler, vocabulary);
  }
  engine.truncate(0);
  return {
    prompt: prompt.name,
    prompt_tokens: prompt.ids.length,
    prefill_s: (prefilled - begin) / 1e3,
    ttft_s: ((arrivals[0] ?? prefilled) - begin) / 1e3,
    gaps_s: arrivals.slice(1).map((time, i) => Math.max(0, time - arrivals[i]) / 1e3),
    tokens: history.slice(prompt.ids.length),
    finish_reason: reason,
    runtime_s: totalRunSeconds(graphs) - before,
    speculation: speculation === null ? null : { ...speculation.scheduler.stats },
  };
}

/**
 * Return a generator of tokens 0 … size − 1 that gives the same ones for a seed everywhere (mulberry32).
 *
 * @param {number} seed
 * @param {number} size
 */
function randomTokens(seed, size) {
  let state = seed >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  return (/** @type {number} */ count) => Array.from({ length: count }, () => Math.floor(next() * size));
}
