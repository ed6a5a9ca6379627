// The decoding loops of the Python runtime (runtime/decoding, runtime/speculation): prefill in chunks, one token per step,
// and draft, verify, accept, roll back. Decoding is greedy, so every strategy gives the same tokens.

export const PREFILL_CHUNK = 512; // tokens; as in Python, so that sums run in the same order

/**
 * Run `tokens` after the engine's current sequence and return the logits of the last one.
 *
 * @param {Engine} engine
 * @param {number[]} tokens
 */
export async function prefill(engine, tokens) {
  let logits = new Float32Array(0);
  for (let start = 0; start < tokens.length; start += PREFILL_CHUNK) {
    logits = await engine.step(tokens.slice(start, start + PREFILL_CHUNK), 1);
  }
  return logits;
}

/**
 * Return the index of the greatest of `columns` numbers from `start`; the first one if several are equal.
 *
 * @param {Float32Array} logits
 * @param {number} columns
 * @param {number} start
 */
export function argmax(logits, columns = logits.length, start = 0) {
  let best = 0;
  for (let i = 1; i < columns; i++) if (logits[start + i] > logits[start + best]) best = i;
  return best;
}

// Both loops: `logits` follow `history`, which the loop extends; `emit(token)` is called for each new token. They return
// why they ended. The end token itself is not emitted.

/**
 * @param {Engine} engine
 * @param {Float32Array} logits
 * @param {number[]} history
 * @param {DecodingLimits} limits
 * @param {(token: number) => void} emit
 * @returns {Promise<"eos" | "length">}
 */
export async function decode(engine, logits, history, limits, emit) {
  for (let count = 1; ; count++) {
    const token = argmax(logits);
    if (limits.endTokens.has(token)) return "eos";
    history.push(token);
    emit(token);
    if (count === limits.maxTokens || engine.length === limits.context) return "length";
    logits = await engine.step([token], 1);
  }
}

/**
 * @param {DraftingEngine} engine
 * @param {Float32Array} logits
 * @param {number[]} history
 * @param {DecodingLimits} limits
 * @param {(token: number) => void} emit
 * @param {DraftScheduler} scheduler
 * @param {number} vocabulary - columns of the whole model's logits
 * @returns {Promise<"eos" | "length">}
 */
export async function decodeSpeculatively(engine, logits, history, limits, emit, scheduler, vocabulary) {
  let left = limits.maxTokens;
  let fresh = [argmax(logits)];
  for (;;) {
    for (const token of fresh) {
      if (limits.endTokens.has(token)) return "eos";
      history.push(token);
      emit(token);
      if (--left === 0 || history.length > limits.context) return "length";
    }
    const held = engine.length; // all of `history` but its last token
    const last = history[history.length - 1];
    const choice = scheduler.choose(Math.min(left - 1, limits.context - held - 1));
    const begin = performance.now();
    if (choice === null) {
      fresh = [argmax(await engine.step([last], 1))];
      scheduler.recordPlainStep((performance.now() - begin) / 1e3);
      continue;
    }
    const proposal = [];
    let input = last;
    while (proposal.length < choice.depth) {
      const column = argmax(await engine.draft([input], choice.exit));
      input = engine.draftTokens === null ? column : engine.draftTokens[column];
      proposal.push(input);
    }
    const drafted = performance.now();
    const rows = await engine.verify([last, ...proposal].slice(engine.drafted));
    let accepted = 0;
    let token = argmax(rows, vocabulary, 0);
    while (accepted < proposal.length && token === proposal[accepted]) {
      token = argmax(rows, vocabulary, ++accepted * vocabulary);
    }
    engine.truncate(held + 1 + accepted);
    fresh = [...proposal.slice(0, accepted), token];
    scheduler.recordRound(choice, accepted, (drafted - begin) / 1e3, (performance.now() - drafted) / 1e3);
  }
}
