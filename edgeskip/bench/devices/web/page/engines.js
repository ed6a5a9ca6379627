// The engines of the Python runtime (runtime/engines), over graphs that append: the whole model, the graph whose planned
// sublayers can be switched off, and the chain that was cut at its exits. Tokens are arrays of numbers; logits are
// float32 rows one after the other.

// Runs `model.onnx` alone; it cannot draft.
export class WholeEngine {
  constructor(graphs) {
    this.graph = graphs[0];
    this.drafts = 0;
    this.drafted = 0;
    this.draftTokens = null;
  }

  get length() {
    return this.graph.length;
  }

  reserve(tokens) {
    this.graph.reserve(tokens);
  }

  // The whole model's logits of the last `kept` of `tokens`.
  async step(tokens, kept) {
    return this.graph.appendTokens(tokens, kept);
  }

  truncate(length) {
    this.graph.truncate(length);
  }
}

// One graph, one cache: the skip plan drafts, the whole model verifies and overwrites the same positions.
export class GatedEngine {
  constructor(graphs) {
    this.graph = graphs[0];
    this.drafts = 1;
    this.draftTokens = null;
    this.verified = 0; // tokens at the start that the whole model has run
    this.tokens = []; // by position: what was drafted is run again
  }

  get length() {
    return this.graph.length;
  }

  get drafted() {
    return this.graph.length - this.verified;
  }

  reserve(tokens) {
    this.graph.reserve(tokens);
  }

  async step(tokens, kept) {
    return this.runWhole(tokens, kept);
  }

  async draft(tokens) {
    this.remember(tokens);
    this.graph.switchSkip(true);
    return this.graph.appendTokens(tokens, 1);
  }

  // Logits of everything that was drafted and of `tokens`.
  async verify(tokens) {
    return this.runWhole(tokens, this.drafted + tokens.length);
  }

  truncate(length) {
    this.verified = Math.min(length, this.verified);
    this.graph.truncate(length);
  }

  remember(tokens) {
    this.tokens.length = this.length;
    for (const token of tokens) this.tokens.push(token);
  }

  async runWhole(tokens, kept) {
    this.remember(tokens);
    this.graph.switchSkip(false);
    this.graph.truncate(this.verified);
    const logits = await this.graph.appendTokens(this.tokens.slice(this.verified), kept);
    this.verified = this.graph.length;
    return logits;
  }
}

// The chain: each graph goes on from the exit states of the one before; the last one verifies. Nothing runs twice.
export class ChainEngine {
  constructor(graphs, model) {
    this.graphs = graphs;
    this.drafts = graphs.length - 1;
    this.draftTokens = model.draft_tokens;
    this.rows = graphs.slice(0, -1).map((graph) => graph.makeRows(model.hidden_size));
  }

  get length() {
    return this.graphs[0].length;
  }

  get drafted() {
    return this.graphs[0].length - this.graphs.at(-1).length;
  }

  reserve(tokens) {
    for (const graph of this.graphs) graph.reserve(tokens);
  }

  async step(tokens, kept) {
    return this.run(tokens, this.graphs.length - 1, kept);
  }

  async draft(tokens, which = 0) {
    return this.run(tokens, which, 1);
  }

  async verify(tokens) {
    return this.run(tokens, this.graphs.length - 1, this.drafted + tokens.length);
  }

  truncate(length) {
    for (const graph of this.graphs) graph.truncate(length);
  }

  async run(tokens, last, kept) {
    let logits = null;
    for (let i = 0; i <= last; i++) {
      const graph = this.graphs[i];
      const count = i === 0 ? tokens.length : this.graphs[i - 1].length - graph.length;
      if (count === 0) continue;
      let into;
      if (i < this.rows.length) {
        const waiting = graph.length - this.graphs[i + 1].length;
        this.rows[i].reserve(waiting + count, waiting);
        into = { rows: this.rows[i], at: waiting };
      }
      const wanted = i === last ? kept : 0;
      logits = await (i === 0 ? graph.appendTokens(tokens, wanted, into) : graph.appendRows(this.rows[i - 1], count, wanted, into));
    }
    return logits;
  }
}

export function engineOf(model, graphs) {
  const Engine = { whole: WholeEngine, gated: GatedEngine, chain: ChainEngine }[model.kind];
  return new Engine(graphs, model);
}

export const runSeconds = (graphs) => graphs.reduce((sum, graph) => sum + graph.runSeconds, 0);
