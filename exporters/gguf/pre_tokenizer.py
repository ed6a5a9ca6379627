"""The name under which llama.cpp knows a byte-level tokenizer's way of cutting text into words.

A GGUF file holds only the name; the rules behind it are in llama.cpp (src/llama-vocab.cpp), and those this project
can vouch for in `families/gguf_tokenizer.py`. A name is found by what the tokenizer does, not by how its JSON
spells it: the name is right if both cut every probe into the same words.
"""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer

from edgeskip.models.readers.gguf_tokenizer import RULES, build_tokenizer

# Of names that stand for the same rule, the first wins. `smollm` before its equals: under it llama.cpp does not
# "clean up" spaces before punctuation when it turns tokens back into text.
_PREFERRED = ("llama-bpe", "qwen2", "smollm", "gpt-2", "tekken", "smaug-bpe")

# What rules differ in: how digits group, contractions, case, what a newline or a slash sticks to, runs of blanks,
# scripts without spaces, marks that combine, numerals that are not digits.
PROBES: tuple[str, ...] = (
    "Hello, world! It's a test; they'll say we've DON'T I'M YOU'RE it'D 'tis 'S o'clock x'Son y'TOY z'REad v'llAma",
    "1 12 123 1234 12345678 3.14159 1,234,567.89 a1b22c333d4444 0x1F ½ ²³ Ⅷ ٣٤٥٦ १२३४ 二〇二六",
    "camelCase PascalCase HTTPServer XMLHttpRequest snake_case SCREAMING_CASE naïveCafé ÜBERMUT ПриветМир Dž",
    "e\u0301 A\u030a n\u0303 हिन्दी ภาษาไทย العَرَبِيَّة עִבְרִית 漢字かなカナ交じり文。한국어 中文，标点！",
    "Привет, как дела? Γειά σου Κόσμε مرحبا بالعالم שלום",
    "👩\u200d👩\u200d👧\u200d👦 👍🏽 🇫🇷 ❤️🔥✨ 🚀🚀 \u200b\ufeff\u00ad",
    "a  b   c    d     e      f       g        h",
    "\n\nx \n y  \n\n  z\t\tq \t \r\n\r\nw\u00a0\u00a0v\u2003u\u3000t\x0bs\x0cr   ",
    "def f(x):\n\treturn {k: v**2 for k, v in x.items()}  # ok\n\n\nif a!=b && c<=d || !e:\n    g()//2;\n",
    "... !!! ?!?! --- *** ### $$$ (a)[b]{c} <d> \"e\" 'f' `g` @h #i %j ^k &l ~m |n \\o /p :q ;r =s +t -u _v .w ,x",
    "http://a.b/c?d=e&f=%20#g /usr/bin/env\n//\n/\n.\n\n)\n\n;\r\n«guillemets» “quotes” ‘x’ – — … € £ © ®",
    "<|im_start|>user\n<s>[INST] x [/INST]</s> <0x0A> ▁▁ ĠĊ",
    " leading and trailing ",
)


def pre_tokenizer_name(tokenizer: Tokenizer) -> tuple[str, bool] | None:
    """Return (name, whether llama.cpp takes whole words from the vocabulary under it); None if no known name fits.

    Of names whose words agree, one that treats whole words as the tokenizer does (`ignore_merges`) goes before the
    others, then the usual one for its kind.
    """
    ours = [_words(tokenizer.pre_tokenizer, text) for text in PROBES]
    names = sorted(RULES, key=lambda name: _PREFERRED.index(name) if name in _PREFERRED else len(_PREFERRED))
    fitting = [
        (name, RULES[name].ignore_merges)
        for name in names
        if all(_words(_rule(name), text) == words for text, words in zip(PROBES, ours, strict=True))
    ]
    wanted = bool(tokenizer.model.ignore_merges)
    return next((fit for fit in fitting if fit[1] == wanted), fitting[0] if fitting else None)


def _rule(name: str) -> Any:
    """Return the pre-tokenizer that stands behind a name."""
    keys: dict[str, Any] = {"model": "gpt2", "pre": name, "tokens": ["a", "b", "ab"], "merges": ["a b"]}
    keys["add_bos_token"] = False
    return build_tokenizer({f"tokenizer.ggml.{key}": value for key, value in keys.items()}).pre_tokenizer


def _words(pre_tokenizer: Any, text: str) -> list[str]:
    return [word for word, _ in pre_tokenizer.pre_tokenize_str(text)]
