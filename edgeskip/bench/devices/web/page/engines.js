// The engines of the Python runtime (runtime/engines), over graphs that append to their KV cache: the whole model, the
// graph whose planned sublayers can be switched off, and the chain that is split at its exits. Tokens are arrays of
// numbers; logits are float32 rows, one after the other.

/**
 * Runs `model.onnx` alone; it cannot draft.
 *
 * @implements {Engine}
 */
export class WholeEngine {
  drafts = 0;

  /** @param {Graph[]} graphs */
  constructor(graphs) {
    this.graph = graphs[0];
  }

  get length() {
    return this.graph.length;
  }

  /** @param {number} tokens */
  reserve(tokens) {
    this.graph.reserve(tokens);
  }

  /**
   * Return the whole model's logits of the last `kept` of `tokens`.
   *
   * @param {number[]} tokens
   * @param {number} kept
   */
  async step(tokens, kept) {
    return this.graph.appendTokens(tokens, kept);
  }

  /** @param {number} length */
  truncate(length) {
    this.graph.truncate(length);
  }
}

/**
 * One graph with one cache: the skip plan drafts, then the whole model verifies and overwrites the same positions.
 *
 * @implements {DraftingEngine}
 */
export class GatedEngine {
  drafts = 1;
  draftTokens = null;
  verified = 0; // leading tokens that the whole model has run
  /** @type {number[]} */
  tokens = []; // by position: drafted tokens are run again

  /** @param {Graph[]} graphs */
  constructor(graphs) {
    this.graph = graphs[0];
  }

  get length() {
    return this.graph.length;
  }

  get drafted() {
    return this.graph.length - this.verified;
  }

  /** @param {number} tokens */
  reserve(tokens) {
    this.graph.reserve(tokens);
  }

  /** @param {number[]} tokens @param {number} kept */
  async step(tokens, kept) {
    return this.runWhole(tokens, kept);
  }

  /** @param {number[]} tokens */
  async draft(tokens) {
    this.remember(tokens);
    this.graph.switchSkip(true);
    return this.graph.appendTokens(tokens, 1);
  }

  /**
   * Return the logits of all drafted tokens and of `tokens`.
   *
   * @param {number[]} tokens
   */
  async verify(tokens) {
    return this.runWhole(tokens, this.drafted + tokens.length);
  }

  /** @param {number} length */
  truncate(length) {
    this.verified = Math.min(length, this.verified);
    this.graph.truncate(length);
  }

  /** @param {number[]} tokens */
  remember(tokens) {
    this.tokens.length = this.length;
    for (const token of tokens) this.tokens.push(token);
  }

  /** @param {number[]} tokens @param {number} kept */
  async runWhole(tokens, kept) {
    this.remember(tokens);
    this.graph.switchSkip(false);
    this.graph.truncate(this.verified);
    const logits = await this.graph.appendTokens(this.tokens.slice(this.verified), kept);
    this.verified = this.graph.length;
    return logits;
  }
}

/**
 * The chain: each graph continues from the exit states of the one before, and the last one verifies. Nothing runs twice.
 *
 * @implements {DraftingEngine}
 */
export class ChainEngine {
  /** @param {Graph[]} graphs @param {Artifact} model */
  constructor(graphs, model) {
    this.graphs = graphs;
    this.last = graphs[graphs.length - 1];
    this.drafts = graphs.length - 1;
    this.draftTokens = model.draft_tokens;
    this.rows = graphs.slice(0, -1).map((graph) => graph.makeRows(model.hidden_size));
  }

  get length() {
    return this.graphs[0].length;
  }

  get drafted() {
    return this.graphs[0].length - this.last.length;
  }

  /** @param {number} tokens */
  reserve(tokens) {
    for (const graph of this.graphs) graph.reserve(tokens);
  }

  /** @param {number[]} tokens @param {number} kept */
  async step(tokens, kept) {
    return this.run(tokens, this.drafts, kept);
  }

  /** @param {number[]} tokens @param {number} exit */
  async draft(tokens, exit = 0) {
    return this.run(tokens, exit, 1);
  }

  /** @param {number[]} tokens */
  async verify(tokens) {
    return this.run(tokens, this.drafts, this.drafted + tokens.length);
  }

  /** @param {number} length */
  truncate(length) {
    for (const graph of this.graphs) graph.truncate(length);
  }

  /** @param {number[]} tokens @param {number} last - index of the graph to stop after @param {number} kept */
  async run(tokens, last, kept) {
    let logits = new Float32Array(0);
    for (let i = 0; i <= last; i++) {
      const graph = this.graphs[i];
      const count = i === 0 ? tokens.length : this.graphs[i - 1].length - graph.length;
      if (count === 0) continue;
      let target;
      if (i < this.rows.length) {
        const waiting = graph.length - this.graphs[i + 1].length;
        this.rows[i].reserve(waiting + count, waiting);
        target = { rows: this.rows[i], at: waiting };
      }
      const wanted = i === last ? kept : 0;
      logits =
        i === 0
          ? await graph.appendTokens(tokens, wanted, target)
          : await graph.appendRows(this.rows[i - 1], count, wanted, target);
    }
    return logits;
  }
}

/** @param {Artifact} model @param {Graph[]} graphs @returns {Engine | DraftingEngine} */
export function createEngine(model, graphs) {
  if (model.kind === "chain") return new ChainEngine(graphs, model);
  return model.kind === "gated" ? new GatedEngine(graphs) : new WholeEngine(graphs);
}

/** @param {Engine | DraftingEngine} engine @returns {engine is DraftingEngine} */
export const canDraft = (engine) => engine.drafts > 0;

/** @param {Graph[]} graphs */
export const totalRunSeconds = (graphs) => graphs.reduce((sum, graph) => sum + graph.runSeconds, 0);
