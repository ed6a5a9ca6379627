// Generated tokens as text, on the page as they come. Purely for the eye: what counts are the tokens.

import { Tokenizer } from "../lib/tokenizers.min.mjs";

const loaded = new Map(); // by sha256 of tokenizer.json

export class Text {
  constructor(files, section, title, output) {
    [this.section, this.title, this.output] = [section, title, output];
    this.tokens = [];
    this.tokenizer = load(files).catch((error) => (console.warn("no text is shown:", error), null));
  }

  begin(name) {
    this.tokens = [];
    this.section.hidden = false;
    this.title.textContent = name;
    this.output.textContent = "";
  }

  async add(tokens) {
    this.tokens.push(...tokens);
    const tokenizer = await this.tokenizer;
    if (tokenizer !== null) this.output.textContent = tokenizer.decode(this.tokens, { skip_special_tokens: true });
  }
}

function load(files) {
  const key = files[0].sha256;
  if (!loaded.has(key)) {
    const fetched = files.map((file) => fetch(`files/${file.sha256}`).then((response) => response.json()));
    loaded.set(key, Promise.all(fetched).then(([tokenizer, config]) => new Tokenizer(tokenizer, config ?? {})));
  }
  return loaded.get(key);
}
