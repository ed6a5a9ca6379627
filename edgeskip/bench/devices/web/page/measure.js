// One round of one cell, as edgeskip/bench/measure.py does it: opens the artifact, warms up, answers the prompts, runs the
// tests on random tokens. Returns a Sample's measured part.

import { Chooser, measureCosts } from "./chooser.js";
import { engineOf, runSeconds } from "./engines.js";
import { decode, decodeSpeculatively, prefill } from "./loops.js";
import { openGraphs } from "./open.js";

const WARM_TOKENS = 4;
const WARM_PASSES = { least: 4, most: 10, prompt: 64, steps: 8 };
const WARM_MS = { least: 1000, most: 20000 }; // the second compiler needs time, whatever the model; slow devices end earlier
const WARM_SEED = 1; // of its own: how many passes there are must not change the tests' tokens
const STRATEGIES = ["plain", "self-speculative"];

// `tell` takes {step, share} and {prompt}, {token} as they come.
export async function measure({ request, artifact }, files, settings, tell) {
  const strategy = request.cell.strategy;
  if (!STRATEGIES.includes(strategy)) throw new Error(`the page decodes ${STRATEGIES.join(" and ")}, not ${strategy}`);
  tell({ step: "loading the model" });
  const opened = await openGraphs(artifact, files, settings);
  const engine = engineOf(artifact, opened.graphs);
  if (strategy === "self-speculative" && !engine.drafts) throw new Error("this artifact has no draft of its own: measure it with plain");
  const random = tokensFrom(request.seed, artifact.vocab_size);
  const limits = { maxTokens: request.max_tokens, endTokens: new Set(artifact.end_tokens), context: artifact.context_length };

  tell({ step: "warming up" });
  const warming = tokensFrom(WARM_SEED, artifact.vocab_size);
  await untilSteady(() => pass(engine, warming, artifact.context_length));
  let chooser = null;
  if (strategy === "self-speculative" && request.prompts.length) {
    chooser = new Chooser(await measureCosts(engine, artifact.context_length), artifact.agreement, settings.depth);
  }
  const fresh = () => {
    if (chooser !== null) chooser.stats = { rounds: 0, plain_steps: 0, drafted: 0, accepted: 0, draft_s: 0, verify_s: 0, plain_s: 0 };
    return chooser;
  };
  if (request.prompts.length) await answer(engine, opened.graphs, request.prompts[0], { ...limits, maxTokens: WARM_TOKENS }, fresh(), artifact, () => {});

  const answers = [];
  for (const prompt of request.prompts) {
    tell({ step: `answering ${prompt.name}`, prompt: prompt.name });
    answers.push(await answer(engine, opened.graphs, prompt, limits, fresh(), artifact, tell));
    tell({ step: `answered ${prompt.name}`, share: 1 });
  }
  // After the answers, which cells of every strategy have: tests, or warming up for them, would leave them another machine
  // and other buffers.
  if (request.tests.length) {
    tell({ step: "warming up for the tests" });
    const longest = Math.max(0, ...request.tests.filter((test) => test.test === "pp").map((test) => test.tokens));
    if (longest) await prefill(engine, warming(Math.min(longest, 512, artifact.context_length)));
    engine.truncate(0);
    await engine.step(warming(1), 1);
    engine.truncate(0);
  }
  const tests = [];
  for (const test of request.tests) tests.push(await time(engine, test, random, artifact.context_length, tell));
  return { ran: opened.ran, load_s: opened.seconds, tests, answers, device_peak_bytes: null, notes: opened.notes() };
}

// Browsers compile WASM twice, the second time in the background once it has run for a while: the first two passes of a
// 135M model take 1.3 to 2.5 times as long as all later ones. So as many as it takes until they get no faster.
async function untilSteady(work) {
  let best = Infinity;
  const start = performance.now();
  for (let number = 1; ; number++) {
    const begin = performance.now();
    await work();
    const taken = performance.now() - begin;
    const spent = performance.now() - start;
    if (spent > WARM_MS.most) return;
    const enough = number >= WARM_PASSES.least && spent > WARM_MS.least;
    if (enough && (taken > 0.95 * best || number >= WARM_PASSES.most)) return;
    best = Math.min(best, taken);
  }
}

async function pass(engine, random, context) {
  await prefill(engine, random(Math.min(WARM_PASSES.prompt, context)));
  const steps = Math.min(WARM_PASSES.steps, context - engine.length);
  for (let step = 0; step < steps; step++) await engine.step(random(1), 1);
  engine.truncate(0);
}

// As llama-bench: random tokens, logits of the last position only, the depth's own prefill not counted.
async function time(engine, test, random, context, tell) {
  const name = `${test.test}${test.tokens}${test.depth ? ` @ d${test.depth}` : ""}`;
  const total = test.depth + test.tokens;
  if (total > context) throw new Error(`${name} needs a context of ${total} tokens, the model has ${context}: give a smaller -p, -n or -d`);
  tell({ step: name, share: 0 });
  engine.truncate(0);
  engine.reserve(total);
  if (test.depth) await prefill(engine, random(test.depth));
  const tokens = random(test.tokens);
  const begin = performance.now();
  if (test.test === "pp") await prefill(engine, tokens);
  else for (const token of tokens) await engine.step([token], 1);
  const seconds = (performance.now() - begin) / 1e3;
  engine.truncate(0);
  tell({ step: name, share: 1 });
  return { test: test.test, tokens: test.tokens, depth: test.depth, seconds };
}

async function answer(engine, graphs, prompt, limits, chooser, model, tell) {
  if (prompt.ids.length > limits.context) throw new Error(`prompt ${prompt.name} has ${prompt.ids.length} tokens and the context holds ${limits.context}: shorten it`);
  const history = [...prompt.ids];
  const arrivals = [];
  engine.truncate(0);
  engine.reserve(Math.min(limits.context, history.length + limits.maxTokens));
  const give = (token) => {
    arrivals.push(performance.now());
    tell({ token, share: arrivals.length / limits.maxTokens });
  };
  const begin = performance.now();
  const logits = await prefill(engine, prompt.ids);
  const prefilled = performance.now();
  const before = runSeconds(graphs);
  const reason = chooser === null
    ? await decode(engine, logits, history, limits, give)
    : await decodeSpeculatively(engine, logits, history, limits, give, chooser, model.vocab_size);
  engine.truncate(0);
  return {
    prompt: prompt.name,
    prompt_tokens: prompt.ids.length,
    prefill_s: (prefilled - begin) / 1e3,
    ttft_s: ((arrivals[0] ?? prefilled) - begin) / 1e3,
    gaps_s: arrivals.slice(1).map((time, i) => Math.max(0, time - arrivals[i]) / 1e3),
    tokens: history.slice(prompt.ids.length),
    finish_reason: reason,
    runtime_s: runSeconds(graphs) - before,
    speculation: chooser === null ? null : { ...chooser.stats },
  };
}

// Tokens 0 … size − 1, the same for a seed everywhere (mulberry32).
function tokensFrom(seed, size) {
  let state = seed >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  return (count) => Array.from({ length: count }, () => Math.floor(next() * size));
}
