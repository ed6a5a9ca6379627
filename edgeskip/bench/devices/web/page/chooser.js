// Chooses, round by round, which exit drafts and how many tokens, or a plain step. What comes out is the same for any
// choice; what it costs is not.
//
// Costs are measured once: a plain step p, a draft step d of each exit, and v(n), the whole model over n rows after
// drafting. If each drafted token is accepted with chance a, γ of them give E(γ) = 1 + a + … + a^γ tokens in γ·d + v(γ+1)
// seconds. The pair of exit and γ with the most tokens a second is taken where that beats 1/p; else a plain step is made,
// and every TRIAL_EVERY of these the best pair is tried once, so that an exit which starts badly gets another chance.
// a is the share accepted so far, older rounds counting less; at first what calibration measured. (The Python runtime
// also looks at the draft's confidence and may copy n-grams: its acceptance is not comparable token by token.)

const MOST = 8; // tokens a round
const ROWS = [1, 2, 4, 8]; // verified at once while measuring; straight in between and beyond
const CONTEXT = 32; // tokens in the cache while measuring
const REPEATS = 3;
const BUDGET_MS = 2000;
const TRIAL_EVERY = 24; // plain steps
const PLAIN_EVERY = 12; // rounds, so that p is never old
const FIRST_PLAIN = 3;
const PRIOR_WEIGHT = 4; // tokens that the first guess is worth
const MEMORY = 0.97;

// Runs the engine on tokens of no meaning and empties it again; the least of several times each.
export async function measureCosts(engine, contextLength) {
  const context = Math.min(CONTEXT, contextLength >> 1);
  const rows = ROWS.filter((n) => context + n + 1 <= contextLength);
  const work = new Map([["step", () => engine.step([0], 1)]]);
  for (let which = 0; which < engine.drafts; which++) work.set(`draft ${which}`, () => engine.draft([0], which));
  for (const n of rows) work.set(`verify ${n}`, () => engine.verify([0]));
  const best = new Map();
  engine.truncate(0);
  engine.reserve(context + ROWS.at(-1) + 1);
  await engine.step(new Array(context).fill(0), 1);
  const begin = performance.now();
  for (let repeat = 0; repeat <= REPEATS; repeat++) { // the first one warms up
    if (repeat > 1 && performance.now() - begin > BUDGET_MS) break;
    for (const [name, run] of work) {
      const ahead = name.startsWith("verify") ? Number(name.slice(7)) - 1 : 0;
      for (let i = 0; i < ahead; i++) await engine.draft([0], 0);
      const started = performance.now();
      await run();
      const seconds = (performance.now() - started) / 1e3;
      if (repeat) best.set(name, Math.min(seconds, best.get(name) ?? Infinity));
      engine.truncate(context);
    }
  }
  engine.truncate(0);
  return {
    plain: best.get("step"),
    draft: Array.from({ length: engine.drafts }, (_, which) => best.get(`draft ${which}`)),
    verify: rows.map((n) => [n, best.get(`verify ${n}`)]),
  };
}

export class Chooser {
  // `agreement` by exit: share of tokens it predicted as the whole model when it was calibrated, or null. With a `fixed`
  // depth nothing is chosen: every round drafts that many tokens, and the exits take turns.
  constructor(costs, agreement, fixed = null) {
    this.fixed = fixed;
    this.costs = costs;
    this.plainSeconds = costs.plain;
    this.exits = costs.draft.map((_, which) => ({ accepted: PRIOR_WEIGHT * (agreement[which] ?? 0.5), offered: PRIOR_WEIGHT }));
    this.sinceTrial = 0;
    this.rounds = 0;
    this.plainDue = FIRST_PLAIN;
    this.stats = { rounds: 0, plain_steps: 0, drafted: 0, accepted: 0, draft_s: 0, verify_s: 0, plain_s: 0 };
  }

  // {which, depth} of a round that proposes at most `room` tokens, or null for a plain step.
  choose(room) {
    if (room < 1) return null;
    if (this.fixed !== null) return { which: this.stats.rounds % this.exits.length, depth: Math.min(this.fixed, room), rate: 0 };
    if (this.plainDue > 0) return null;
    const best = this.best(Math.min(room, MOST));
    if (best.rate * this.plainSeconds > 1) return best;
    if (this.sinceTrial < TRIAL_EVERY) return null;
    this.sinceTrial = 0;
    return best;
  }

  best(limit) {
    let best = null;
    this.exits.forEach((exit, which) => {
      const chance = exit.accepted / exit.offered;
      for (let depth = 1, tokens = 1, survival = 1; depth <= limit; depth++) {
        survival *= chance;
        tokens += survival;
        const rate = tokens / (depth * this.costs.draft[which] + this.verifySeconds(depth + 1));
        if (best === null || rate > best.rate) best = { which, depth, rate };
      }
    });
    return best;
  }

  verifySeconds(rows) {
    const points = this.costs.verify;
    if (points.length === 1) return points[0][1];
    const right = Math.max(1, points.findIndex(([n]) => n >= rows));
    const [[n0, s0], [n1, s1]] = rows > points.at(-1)[0] ? points.slice(-2) : [points[right - 1], points[right]];
    return s0 + ((s1 - s0) * (rows - n0)) / (n1 - n0);
  }

  plain(seconds) {
    this.sinceTrial++;
    this.rounds = 0;
    this.plainDue = Math.max(0, this.plainDue - 1);
    if (seconds < 3 * this.plainSeconds) this.plainSeconds += 0.25 * (seconds - this.plainSeconds); // a hiccup is not followed
    this.stats.plain_steps++;
    this.stats.plain_s += seconds;
  }

  round(choice, accepted, draftSeconds, verifySeconds) {
    const exit = this.exits[choice.which];
    for (let i = 0; i < Math.min(accepted + 1, choice.depth); i++) { // those the whole model got to see
      exit.accepted = MEMORY * exit.accepted + (i < accepted ? 1 : 0);
      exit.offered = MEMORY * exit.offered + 1;
    }
    if (++this.rounds % PLAIN_EVERY === 0) this.plainDue = 1;
    this.stats.rounds++;
    this.stats.drafted += choice.depth;
    this.stats.accepted += accepted;
    this.stats.draft_s += draftSeconds;
    this.stats.verify_s += verifySeconds;
  }
}
