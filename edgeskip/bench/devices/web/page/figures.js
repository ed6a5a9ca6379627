// The table of figures at the end.

export class Figures {
  constructor(section, rows) {
    [this.section, this.rows] = [section, rows];
  }

  add(title, { tests, answers, load_s: load }) {
    this.section.hidden = false;
    const row = (measure, value) => {
      const line = this.rows.insertRow();
      for (const text of [title, measure, value]) line.insertCell().textContent = text;
    };
    for (const { test, tokens, depth, seconds } of tests) row(`${test}${tokens}${depth ? ` @ d${depth}` : ""}`, `${(tokens / seconds).toFixed(1)} tokens/s`);
    if (answers.length) {
      const gaps = answers.flatMap((answer) => answer.gaps_s);
      row("first token", `${(1e3 * mean(answers.map((answer) => answer.ttft_s))).toFixed(0)} ms`);
      if (gaps.length) row("answer", `${(1 / mean(gaps)).toFixed(1)} tokens/s`);
      const drafted = answers.reduce((sum, answer) => sum + (answer.speculation?.drafted ?? 0), 0);
      const accepted = answers.reduce((sum, answer) => sum + (answer.speculation?.accepted ?? 0), 0);
      if (drafted) row("accepted", `${((100 * accepted) / drafted).toFixed(0)} %`);
    }
    row("load", `${load.toFixed(2)} s`);
  }
}

const mean = (numbers) => numbers.reduce((a, b) => a + b, 0) / numbers.length;
