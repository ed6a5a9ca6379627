"""Texts and conversations on which tokenizers part, for the check after export."""

from __future__ import annotations

from collections.abc import Sequence

TEXTS: tuple[str, ...] = (
    "",
    " ",
    "  ",
    "a",
    " a",
    "a ",
    "  two leading, two trailing  ",
    "a  b   c    d     e                f",
    "The quick brown fox jumps over the lazy dog. It's 9 o'clock; they'll DON'T 'tis I'M",
    "line one\nline two\n\nline four\n\n\n\nend\n",
    "\nstarts with a newline",
    "dos\r\nlines\r\n\r\nand\rmac",
    "\ttab\t\tand \t mixed \t\n\t x",
    "0 1 12 123 1234 12345 1234567890 3.14159 1,234,567.89 -5 1e-9 0x1F ½ ² Ⅷ ٣٤٥ १२३",
    "snake_case camelCase PascalCase SCREAMING_CASE HTTPServer kebab-case x2y a1b22c333",
    "def f(x):\n    return {k: v**2 for k, v in x.items()}  # ok\n\n\tif a != b && c <= d || !e: g()//2;\n",
    "SELECT * FROM t WHERE a='b' -- c\n<div class=\"x\">&amp;</div> {{ y }} [z](http://u.v/w?q=1#r)",
    "... !!! ?!?! --- *** ### $$$ (a)[b]{c} <d> \"e\" 'f' `g` @h #i %j ^k &l ~m |n \\o /p",
    "你好，世界。漢字かなカナ交じり文。한국어 문장 ภาษาไทย हिन्दी বাংলা",
    "مرحبا بالعالم שלום עולם العَرَبِيَّة",
    "Привет, мир! Γειά σου Κόσμε ÜBERMUT naïveCafé ß ẞ ı İ ǅ ſ",
    "🙂 👩\u200d👩\u200d👧\u200d👦 👍🏽 🇫🇷🇩🇪 ❤️ 1️⃣ 🏴\U000e0067\U000e0062\U000e007f",
    "zero\u200bwidth\u200djoiner\ufeffbom\u2060word\u00adsoft",
    "\u00a0nbsp\u2003em\u3000wide\u2028line\u2029paragraph\u0085nel",
    "controls \x01\x02\x07\x0b\x0c\x1b[0m\x7f end",
    "\ufffd replacement \ufffd\ufffd and \ufffc",
    "caf\u00e9 \u00c5 \ufb01 \u2126 \u1e9b\u0323",
    "\U0001d518\U0001f900\U00020000\U0010ffff rare \ue000 private",
    "▁ ▁▁ Ġ Ċ <0x0A> <0x00> ## </w>",
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft" * 3,
    "a" * 300,
    "<s>[INST] <<SYS>> x </s> <|im_start|>user <|endoftext|> <unk> <pad> <bos> [UNK] [MASK]",
)
# Written with combining marks: what a tokenizer that composes text (Unicode NFC) reads otherwise.
DECOMPOSED: tuple[str, ...] = (
    "e\u0301 A\u030a n\u0303 o\u0302\u0323",
    "cafe\u0301 na\u0131\u0308ve \u1112\u1161\u11ab",
    "\u0301 starts with a mark",
)

Conversation = Sequence[dict[str, str]]
_SYSTEM = {"role": "system", "content": "Answer briefly."}
_USER = {"role": "user", "content": "  What is 2 + 2?\nSay é 你好 🙂. "}
_ANSWER = {"role": "assistant", "content": " It is 4. "}
_NEXT = {"role": "user", "content": "Thanks!"}
# With whether the template should open the assistant's turn. Templates refuse some of them, which is not their fault.
CONVERSATIONS: tuple[tuple[Conversation, bool], ...] = (
    ((_NEXT,), True),
    ((_USER,), True),
    ((_SYSTEM, _USER), True),
    ((_USER, _ANSWER, _NEXT), True),
    ((_SYSTEM, _USER, _ANSWER, _NEXT), True),
    ((_USER, _ANSWER), False),
    ((_SYSTEM, _USER, _ANSWER), False),
)


def around(token: str) -> tuple[str, ...]:
    """Return texts with a special or added token: alone, inside, beside spaces and letters, twice, cut short."""
    return (
        token,
        f"a{token}b",
        f"a {token} b",
        f" {token} ",
        f"a  {token}  b",
        f"\n{token}\n",
        f"{token}{token}",
        f"x{token} {token}y é你{token}🙂",
        token[:-1],
        token.upper() + token.lower(),
    )
