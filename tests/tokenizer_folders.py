"""Model folders whose tokenizer says something in a place where transformers looks and tokenizer.json alone does not
say it. One set of tiny weights serves them all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tiny_models import BOS, CHAT_TEMPLATE, END, tiny_checkpoint, tiny_tokenizer

ROWS = 600  # of the embedding; the vocabulary has 320 tokens and what a variant adds
NEW = ("<|user|>", "<|stop|>", "<|bot|>")
_NEW_TEMPLATE = "{% for m in messages %}<|user|>{{ m['content'] }}<|stop|>{% endfor %}<|bot|>"
TEXT = "the mill <|user|>Hi  there<|stop|> 12 é<|bot|>\n"


def weights(folder: Path) -> Path:
    """A checkpoint whose folder `variant` copies."""
    return tiny_checkpoint("llama", folder, vocab_size=ROWS)


def settings(folder: Path, **changes: Any) -> None:
    """Change keys of tokenizer_config.json; None takes one out."""
    path = folder / "tokenizer_config.json"
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    content = {key: value for key, value in content.items() if value is not None}
    path.write_text(json.dumps(content), encoding="utf-8")


def spec(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change tokenizer.json in place."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def tokenizer(folder: Path, change: Callable[[Any], Any]) -> None:
    """Change the tokenizers library's object and save it again."""
    from tokenizers import Tokenizer

    loaded = Tokenizer.from_file(str(folder / "tokenizer.json"))
    change(loaded)
    loaded.save(str(folder / "tokenizer.json"))


def variant(base: Path, folder: Path, change: Callable[[Path], None]) -> Path:
    """A folder with the weights of `base`, a plain tokenizer, and `change` applied to it."""
    shutil.copytree(base, folder)
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    change(folder)
    return folder


def _added(content: str, *, special: bool = True, **flags: bool) -> dict[str, Any]:
    usual = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    return {"content": content, "special": special, **usual, **flags}


def _decoder(folder: Path, *tokens: dict[str, Any]) -> None:
    old = {str(index): _added(token) for index, token in enumerate((BOS, END))}
    new = {str(tiny_tokenizer().get_vocab_size() + index): token for index, token in enumerate(tokens)}
    settings(folder, added_tokens_decoder=old | new, chat_template=_NEW_TEMPLATE)


def _added_tokens_json(folder: Path) -> None:
    count = tiny_tokenizer().get_vocab_size()
    (folder / "added_tokens.json").write_text(json.dumps({token: count + n for n, token in enumerate(NEW)}))
    settings(folder, chat_template=_NEW_TEMPLATE)


def _map(folder: Path, **names: Any) -> None:
    settings(folder, bos_token=None, eos_token=None, pad_token=None, chat_template="{{ bos_token }}" + CHAT_TEMPLATE)
    (folder / "special_tokens_map.json").write_text(json.dumps(names), encoding="utf-8")


def _padding(loaded: Any, **options: Any) -> None:
    loaded.enable_padding(pad_id=1, pad_token=END, **options)


def _normalizer(folder: Path, name: str, *arguments: Any) -> None:
    from tokenizers import normalizers

    tokenizer(folder, lambda t: setattr(t, "normalizer", getattr(normalizers, name)(*arguments)))


def _add_tokens(folder: Path, *tokens: dict[str, Any]) -> None:
    from tokenizers import AddedToken

    tokenizer(folder, lambda t: t.add_tokens([AddedToken(**token) for token in tokens]))
    settings(folder, chat_template=_NEW_TEMPLATE)


def _unigram(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    pieces = [("<unk>", 0.0), (BOS, 0.0), (END, 0.0), ("▁", -2.0), ("▁the", -3.0), ("▁mill", -4.0), ("th", -5.0)]
    pieces += [(chr(code), -8.0) for code in range(33, 127)]
    model = Tokenizer(models.Unigram(pieces, unk_id=0))
    model.pre_tokenizer = pre_tokenizers.Metaspace()
    model.decoder = decoders.Metaspace()
    model.add_special_tokens(["<unk>", BOS, END])
    model.save(str(folder / "tokenizer.json"))
    settings(folder, unk_token="<unk>")


def _wordlevel_holes(content: dict[str, Any]) -> None:
    """The last two ids of the vocabulary moved up, with nobody between."""
    vocab = content["model"]["vocab"]
    last = max(vocab, key=vocab.__getitem__)
    vocab[last] += 7


def _extra_after_bos(loaded: Any) -> None:
    from tokenizers import processors

    loaded.post_processor = processors.TemplateProcessing(f"{BOS} $A {END}", None, [(BOS, 0), (END, 1)])


_CUTS = "cuts text into words in a way that no"
OLD = int(version("transformers").split(".")[0]) < 5  # it sets `add_prefix_space` to what tokenizer_config.json says

# Name → (what is changed, why GGUF refuses it or None if it works there too)
VARIANTS: dict[str, tuple[Callable[[Path], None], str | None]] = {
    "plain": (lambda f: None, None),
    "truncation": (lambda f: tokenizer(f, lambda t: t.enable_truncation(5)), None),
    "truncation, left, stride, first": (
        lambda f: tokenizer(f, lambda t: t.enable_truncation(6, stride=2, strategy="only_first", direction="left")),
        None,
    ),
    "padding to a length": (lambda f: tokenizer(f, lambda t: _padding(t, length=64)), None),
    "padding to a multiple": (lambda f: tokenizer(f, lambda t: _padding(t, pad_to_multiple_of=8)), None),
    "padding left": (lambda f: tokenizer(f, lambda t: _padding(t, length=32, direction="left")), None),
    "both": (lambda f: tokenizer(f, lambda t: (t.enable_truncation(9), _padding(t, length=9))), None),
    "added_tokens_decoder": (lambda f: _decoder(f, *map(_added, NEW)), None),
    "added_tokens_decoder, not special": (
        lambda f: _decoder(f, *(_added(token, special=False) for token in NEW)),
        None,
    ),
    "additional_special_tokens": (
        lambda f: settings(f, additional_special_tokens=list(NEW), chat_template=_NEW_TEMPLATE),
        None,
    ),
    "extra_special_tokens, a list": (
        lambda f: settings(f, extra_special_tokens=list(NEW), chat_template=_NEW_TEMPLATE),
        None,
    ),
    "extra_special_tokens, a dict": (
        lambda f: settings(
            f, extra_special_tokens={f"n{i}_token": t for i, t in enumerate(NEW)}, chat_template=_NEW_TEMPLATE
        ),
        None,
    ),
    "model_specific_special_tokens": (
        lambda f: settings(f, model_specific_special_tokens={"image_token": NEW[0]}, image_token=NEW[1]),
        None,
    ),
    "extra_special_tokens in the template": (
        lambda f: settings(
            f, extra_special_tokens={"image_token": NEW[0]}, chat_template="{{ image_token }}" + CHAT_TEMPLATE
        ),
        None,
    ),
    "model_specific_special_tokens in the template": (
        lambda f: settings(
            f, model_specific_special_tokens={"image_token": NEW[0]}, chat_template="{{ image_token }}" + CHAT_TEMPLATE
        ),
        None,
    ),
    "added_tokens.json": (_added_tokens_json, None),
    "special_tokens_map.json, strings": (lambda f: _map(f, bos_token=BOS, eos_token=END, pad_token="<pad>"), None),
    "special_tokens_map.json, objects": (
        lambda f: _map(f, bos_token=_added(BOS), eos_token=_added(END), additional_special_tokens=list(NEW)),
        None,
    ),
    "special_tokens_map.json beside tokenizer_config.json": (
        lambda f: (f / "special_tokens_map.json").write_text(json.dumps({"eos_token": BOS, "unk_token": "<unk>"})),
        None,
    ),
    "split_special_tokens": (lambda f: settings(f, split_special_tokens=True), "split_special_tokens"),
    "add_prefix_space": (lambda f: settings(f, add_prefix_space=True), _CUTS if OLD else None),
    "add_prefix_space of the words": (
        lambda f: spec(f, lambda s: s["pre_tokenizer"].update(add_prefix_space=True)),
        None if OLD else _CUTS,
    ),
    "bos and eos around": (lambda f: tokenizer(f, _extra_after_bos), None),
    "add_bos_token": (lambda f: settings(f, add_bos_token=True, add_eos_token=True), None),
    "clean_up_tokenization_spaces": (lambda f: settings(f, clean_up_tokenization_spaces=True), None),
    "dropout": (lambda f: spec(f, lambda s: s["model"].update(dropout=0.9)), None),
    "ignore_merges": (lambda f: spec(f, lambda s: s["model"].update(ignore_merges=True)), None),
    "GPT2Tokenizer": (lambda f: settings(f, tokenizer_class="GPT2Tokenizer"), None),
    "LlamaTokenizerFast": (lambda f: settings(f, tokenizer_class="LlamaTokenizerFast", legacy=False), None),
    "a class nobody knows": (lambda f: settings(f, tokenizer_class="MyOwnTokenizer"), None),
    "code of its own": (
        lambda f: settings(f, tokenizer_class="MyOwn", auto_map={"AutoTokenizer": ["own.MyOwn", None]}),
        None,
    ),
    "no tokenizer_class": (lambda f: settings(f, tokenizer_class=None), None),
    "NFC": (lambda f: _normalizer(f, "NFC"), None),
    "lower case": (lambda f: _normalizer(f, "Lowercase"), "neither byte-level"),
    "prepended": (lambda f: _normalizer(f, "Prepend", "x"), "neither byte-level"),
    "replaced": (lambda f: _normalizer(f, "Replace", "a", "b"), "neither byte-level"),
    "lstrip": (lambda f: _add_tokens(f, *(_added(token, lstrip=True) for token in NEW)), "is lstrip"),
    "rstrip": (lambda f: _add_tokens(f, *(_added(token, rstrip=True) for token in NEW)), "is rstrip"),
    "single_word": (lambda f: _add_tokens(f, *(_added(token, single_word=True) for token in NEW)), "is single_word"),
    "normalized": (lambda f: _add_tokens(f, *(_added(token, normalized=True) for token in NEW)), None),
    "one token inside another": (
        lambda f: _add_tokens(f, _added("<|user"), _added("<|user|>"), _added("|>x", special=False)),
        None,
    ),
    "spaces in a token": (lambda f: _add_tokens(f, _added("  ", special=False), _added("a b", special=False)), None),
    "what llama.cpp takes for control": (
        lambda f: _add_tokens(f, _added("<|fim_pad|>", special=False), _added("<|end|>", special=False)),
        None,
    ),
    "unigram": (_unigram, "Unigram"),
    "a hole in the ids": (lambda f: spec(f, _wordlevel_holes), None),
    "a pad beyond the embedding": (
        lambda f: tokenizer(f, lambda t: t.add_special_tokens([f"<extra{n}>" for n in range(300)])),
        None,
    ),
    "template in a file": (
        lambda f: (
            settings(f, chat_template=None),
            (f / "chat_template.jinja").write_text("<|im_start|>" + CHAT_TEMPLATE),
        ),
        None,
    ),
    "templates by name": (
        lambda f: settings(
            f,
            chat_template=[{"name": "tool_use", "template": "x"}, {"name": "default", "template": CHAT_TEMPLATE}],
        ),
        None,
    ),
    "more templates in files": (
        lambda f: (
            settings(f, chat_template=None),
            (f / "chat_template.jinja").write_text(CHAT_TEMPLATE),
            (f / "additional_chat_templates").mkdir(),
            (f / "additional_chat_templates" / "rag.jinja").write_text("rag"),
        ),
        None,
    ),
}
