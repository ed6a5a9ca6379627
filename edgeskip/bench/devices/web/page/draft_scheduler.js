// Decides for each round which exit drafts and how many tokens, or whether to take a plain step. The output is the same
// for every choice; only the time differs.
//
// Costs are measured once: a plain step p, a draft step d of each exit, and v(n), the whole model over n rows after
// drafting. If each drafted token is accepted with probability a, drafting γ tokens yields E(γ) = 1 + a + … + a^γ tokens in
// γ·d + v(γ+1) seconds. The pair of exit and γ with the most tokens per second is used if it beats 1/p. Otherwise plain
// steps are taken, and after every TRIAL_EVERY of them the best pair is tried once, so that an exit with a bad start gets
// another chance. a is the share accepted so far, with older rounds weighted less; it starts at the agreement measured
// during calibration. (The Python runtime also uses the draft's confidence and may copy n-grams, so its acceptance is not
// comparable token by token.)

const MAX_DRAFT_TOKENS = 8; // per round
const VERIFY_ROWS = [1, 2, 4, 8]; // measured row counts; costs are linear between and beyond them
const CONTEXT = 32; // tokens in the cache while measuring
const REPEATS = 3;
const BUDGET_MS = 2000;
const TRIAL_EVERY = 24; // plain steps
const PLAIN_EVERY = 12; // rounds, so that p stays current
const FIRST_PLAIN = 3;
const PRIOR_WEIGHT = 4; // tokens that the first estimate counts for
const DECAY = 0.97;

/** @returns {SpeculationStats} */
const emptyStats = () => ({
  rounds: 0,
  plain_steps: 0,
  drafted: 0,
  accepted: 0,
  draft_s: 0,
  verify_s: 0,
  plain_s: 0,
});

/**
 * Measure the engine's costs on arbitrary tokens and empty it again; each cost is the minimum of several runs.
 *
 * @param {DraftingEngine} engine
 * @param {number} contextLength
 * @returns {Promise<DecodingCosts>}
 */
export async function measureCosts(engine, contextLength) {
  const context = Math.min(CONTEXT, contextLength >> 1);
  const rows = VERIFY_ROWS.filter((n) => context + n + 1 <= contextLength);
  const drafts = Array.from({ length: engine.drafts }, (_, exit) => exit);
  const plain = { seconds: Infinity, before: 0, run: () => engine.step([0], 1) };
  const draft = drafts.map((exit) => ({ seconds: Infinity, before: 0, run: () => engine.draft([0], exit) }));
  const verify = rows.map((n) => ({ seconds: Infinity, before: n - 1, run: () => engine.verify([0]) }));
  engine.truncate(0);
  engine.reserve(context + Math.max(...rows) + 1);
  await engine.step(new Array(context).fill(0), 1);
  const begin = performance.now();
  // The first repetition warms up.
  for (let repeat = 0; repeat <= REPEATS; repeat++) {
    if (repeat > 1 && performance.now() - begin > BUDGET_MS) break;
    for (const cost of [plain, ...draft, ...verify]) {
      for (let i = 0; i < cost.before; i++) await engine.draft([0], 0);
      const started = performance.now();
      await cost.run();
      const seconds = (performance.now() - started) / 1e3;
      if (repeat) cost.seconds = Math.min(seconds, cost.seconds);
      engine.truncate(context);
    }
  }
  engine.truncate(0);
  return {
    plain: plain.seconds,
    draft: draft.map(({ seconds }) => seconds),
    verify: verify.map(({ before, seconds }) => [before + 1, seconds]),
  };
}

export class DraftScheduler {
  /**
   * @param {DecodingCosts} costs
   * @param {(number | null)[]} agreement - Per exit, the share of tokens that it predicted like the whole model during
   *   calibration, or null.
   * @param {number | null} fixed - Tokens to draft in every round, with the exits taking turns; null = choose.
   */
  constructor(costs, agreement, fixed = null) {
    this.fixed = fixed;
    this.costs = costs;
    this.plainSeconds = costs.plain;
    this.exits = costs.draft.map((_, exit) => ({
      accepted: PRIOR_WEIGHT * (agreement[exit] ?? 0.5),
      offered: PRIOR_WEIGHT,
    }));
    this.sinceTrial = 0;
    this.rounds = 0;
    this.plainDue = FIRST_PLAIN;
    this.stats = emptyStats();
  }

  resetStats() {
    this.stats = emptyStats();
  }

  /**
   * Return the exit and depth of a round that drafts at most `room` tokens, or null for a plain step.
   *
   * @param {number} room
   * @returns {DraftChoice | null}
   */
  choose(room) {
    if (room < 1) return null;
    if (this.fixed !== null) {
      return { exit: this.stats.rounds % this.exits.length, depth: Math.min(this.fixed, room), rate: 0 };
    }
    if (this.plainDue > 0) return null;
    const best = this.findBest(Math.min(room, MAX_DRAFT_TOKENS));
    if (best.rate * this.plainSeconds > 1) return best;
    if (this.sinceTrial < TRIAL_EVERY) return null;
    this.sinceTrial = 0;
    return best;
  }

  /** @param {number} limit - tokens @returns {DraftChoice} */
  findBest(limit) {
    let best = { exit: 0, depth: 1, rate: -Infinity };
    this.exits.forEach(({ accepted, offered }, exit) => {
      const chance = accepted / offered;
      for (let depth = 1, tokens = 1, survival = 1; depth <= limit; depth++) {
        survival *= chance;
        tokens += survival;
        const rate = tokens / (depth * this.costs.draft[exit] + this.verifySeconds(depth + 1));
        if (rate > best.rate) best = { exit, depth, rate };
      }
    });
    return best;
  }

  /** @param {number} rows */
  verifySeconds(rows) {
    const points = this.costs.verify;
    if (points.length === 1) return points[0][1];
    const above = points.findIndex(([n]) => n >= rows);
    const right = above === -1 ? points.length - 1 : Math.max(1, above);
    const [[n0, s0], [n1, s1]] = [points[right - 1], points[right]];
    return s0 + ((s1 - s0) * (rows - n0)) / (n1 - n0);
  }

  /** @param {number} seconds */
  recordPlainStep(seconds) {
    this.sinceTrial++;
    this.rounds = 0;
    this.plainDue = Math.max(0, this.plainDue - 1);
    if (seconds < 3 * this.plainSeconds) this.plainSeconds += 0.25 * (seconds - this.plainSeconds); // ignore outliers
    this.stats.plain_steps++;
    this.stats.plain_s += seconds;
  }

  /**
   * @param {DraftChoice} choice
   * @param {number} accepted - tokens
   * @param {number} draftSeconds
   * @param {number} verifySeconds
   */
  recordRound(choice, accepted, draftSeconds, verifySeconds) {
    const exit = this.exits[choice.exit];
    // Count only the tokens that verification reached: the accepted ones and the first rejected one.
    for (let i = 0; i < Math.min(accepted + 1, choice.depth); i++) {
      exit.accepted = DECAY * exit.accepted + (i < accepted ? 1 : 0);
      exit.offered = DECAY * exit.offered + 1;
    }
    if (++this.rounds % PLAIN_EVERY === 0) this.plainDue = 1;
    this.stats.rounds++;
    this.stats.drafted += choice.depth;
    this.stats.accepted += accepted;
    this.stats.draft_s += draftSeconds;
    this.stats.verify_s += verifySeconds;
  }
}
