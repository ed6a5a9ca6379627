// The loops of the Python runtime (runtime/loops.py, runtime/speculation/rounds.py): prefill in chunks, one token a step,
// and draft, verify, accept, roll back. Greedy, so every way of decoding gives the same tokens.

export const PREFILL_CHUNK = 512; // tokens; as in Python, so that the sums run in the same order

// Runs `tokens` after what the engine holds; logits of the last one.
export async function prefill(engine, tokens, seen = () => {}) {
  let logits = null;
  for (let start = 0; start < tokens.length; start += PREFILL_CHUNK) {
    const end = Math.min(start + PREFILL_CHUNK, tokens.length);
    logits = await engine.step(tokens.slice(start, end), 1);
    seen(end);
  }
  return logits;
}

// Index of the greatest of `columns` numbers from `start`; the first of several.
export function argmax(logits, columns = logits.length, start = 0) {
  let best = 0;
  for (let i = 1; i < columns; i++) if (logits[start + i] > logits[start + best]) best = i;
  return best;
}

// Both loops: `logits` follow `history`, which they extend; `give(token)` is called for each new one. They return why they
// ended, "eos" or "length"; the end token itself is not given out. `limits`: {maxTokens, endTokens, context}.

export async function decode(engine, logits, history, limits, give) {
  for (let count = 1; ; count++) {
    const token = argmax(logits);
    if (limits.endTokens.has(token)) return "eos";
    history.push(token);
    give(token);
    if (count === limits.maxTokens || engine.length === limits.context) return "length";
    logits = await engine.step([token], 1);
  }
}

export async function decodeSpeculatively(engine, logits, history, limits, give, chooser, vocabulary) {
  let left = limits.maxTokens;
  let fresh = [argmax(logits)];
  for (;;) {
    for (const token of fresh) {
      if (limits.endTokens.has(token)) return "eos";
      history.push(token);
      give(token);
      if (--left === 0 || history.length > limits.context) return "length";
    }
    const held = engine.length; // all of `history` but its last token
    const last = history.at(-1);
    const choice = chooser.choose(Math.min(left - 1, limits.context - held - 1));
    let begin = performance.now();
    if (choice === null) {
      fresh = [argmax(await engine.step([last], 1))];
      chooser.plain((performance.now() - begin) / 1e3);
      continue;
    }
    const proposal = [];
    let feed = last;
    while (proposal.length < choice.depth) {
      const column = argmax(await engine.draft([feed], choice.which));
      feed = engine.draftTokens === null ? column : engine.draftTokens[column];
      proposal.push(feed);
    }
    const drafted = performance.now();
    const rows = await engine.verify([last, ...proposal].slice(engine.drafted));
    let accepted = 0;
    let token = argmax(rows, vocabulary, 0);
    while (accepted < proposal.length && token === proposal[accepted]) token = argmax(rows, vocabulary, ++accepted * vocabulary);
    engine.truncate(held + 1 + accepted);
    fresh = [...proposal.slice(0, accepted), token];
    chooser.round(choice, accepted, (drafted - begin) / 1e3, (performance.now() - drafted) / 1e3);
  }
}
