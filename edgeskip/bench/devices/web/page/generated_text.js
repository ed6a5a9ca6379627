// Shows generated tokens as text while they arrive. For the reader only: results consist of tokens.

import { Tokenizer } from "../lib/tokenizers.min.mjs";

/** @type {Map<string, Promise<Tokenizer>>} */
const tokenizers = new Map(); // by sha256 of tokenizer.json

export class GeneratedText {
  /** @type {number[]} */
  tokens = [];

  /**
   * @param {StoredFile[]} files - tokenizer.json and, if there is one, tokenizer_config.json
   * @param {HTMLElement} section
   * @param {HTMLElement} title
   * @param {HTMLElement} output
   */
  constructor(files, section, title, output) {
    this.section = section;
    this.title = title;
    this.output = output;
    this.tokenizer = loadTokenizer(files).catch((error) => {
      console.warn("cannot show the text:", error);
      return null;
    });
  }

  /** @param {string} name - of the prompt */
  begin(name) {
    this.tokens = [];
    this.section.hidden = false;
    this.title.textContent = name;
    this.output.textContent = "";
  }

  /** @param {number[]} tokens */
  async add(tokens) {
    this.tokens.push(...tokens);
    const tokenizer = await this.tokenizer;
    if (tokenizer !== null) this.output.textContent = tokenizer.decode(this.tokens, { skip_special_tokens: true });
  }
}

/** @param {StoredFile[]} files */
function loadTokenizer(files) {
  const key = files[0].sha256;
  const known = tokenizers.get(key);
  if (known) return known;
  const fetched = files.map((file) => fetch(`files/${file.sha256}`).then((response) => response.json()));
  const loaded = Promise.all(fetched).then(([tokenizer, config]) => new Tokenizer(tokenizer, config ?? {}));
  tokenizers.set(key, loaded);
  return loaded;
}
