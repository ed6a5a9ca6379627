// The table of results at the end.

export class ResultsTable {
  /** @param {HTMLElement} section @param {HTMLTableSectionElement} rows */
  constructor(section, rows) {
    this.section = section;
    this.rows = rows;
  }

  /** @param {string} title @param {Measurement} measurement */
  add(title, { tests, answers, load_s: load }) {
    this.section.hidden = false;
    const addRow = (/** @type {string} */ measure, /** @type {string} */ value) => {
      const row = this.rows.insertRow();
      for (const text of [title, measure, value]) row.insertCell().textContent = text;
    };
    for (const test of tests) addRow(testName(test), `${(test.tokens / test.seconds).toFixed(1)} tokens/s`);
    if (answers.length) {
      const gaps = answers.flatMap((answer) => answer.gaps_s);
      addRow("time to first token", `${(1e3 * mean(answers.map((answer) => answer.ttft_s))).toFixed(0)} ms`);
      if (gaps.length) addRow("decoding", `${(1 / mean(gaps)).toFixed(1)} tokens/s`);
      const drafted = answers.reduce((sum, answer) => sum + (answer.speculation?.drafted ?? 0), 0);
      const accepted = answers.reduce((sum, answer) => sum + (answer.speculation?.accepted ?? 0), 0);
      if (drafted) addRow("accepted drafts", `${((100 * accepted) / drafted).toFixed(0)} %`);
    }
    addRow("load", `${load.toFixed(2)} s`);
  }
}

/**
 * Name a test like llama-bench does: pp512, tg128 @ d2048.
 *
 * @param {SyntheticTest} test
 */
export const testName = ({ test, tokens, depth }) => `${test}${tokens}${depth ? ` @ d${depth}` : ""}`;

/** @param {number[]} numbers */
const mean = (numbers) => numbers.reduce((a, b) => a + b, 0) / numbers.length;
