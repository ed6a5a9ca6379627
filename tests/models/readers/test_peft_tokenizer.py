"""The tokenizer, chat template and end tokens of a PEFT folder. Oracle: `transformers.AutoTokenizer` on that folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from random_profiles import random_profile
from test_lora import adapted
from tiny_models import BOS, CHAT_TEMPLATE, END, tiny_checkpoint, write_tiny_tokenizer

from edgeskip.core.errors import EdgeSkipError
from edgeskip.exporters.tokenizer_check import tokenizer_cases
from edgeskip.models.profile_source import source_of
from edgeskip.models.readers.tokenizer_source import FolderTokenizer, peft_tokenizer, write_files
from edgeskip.models.source import ModelSource, open_model
from edgeskip.profiles.schema import write_profile
from edgeskip.runtime.detokenizer import TextTokenizer

pytest.importorskip("peft")
OWN = "{% for m in messages %}<|im_start|>own {{ m['content'] }}{% endfor %}"
TEXT = "<|im_start|>user\nHi <|new|> there<|im_end|>"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model without a chat template, that ends at its BOS."""
    folder = tiny_checkpoint(
        "llama", tmp_path_factory.mktemp("peft") / "base", tie_word_embeddings=False, vocab_size=400
    )
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"eos_token": BOS}))
    (folder / "special_tokens_map.json").unlink()
    return folder


@pytest.fixture(scope="module")
def lora(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("peft") / "lora"
    adapted(base, folder)
    return folder


def own_tokenizer(base: Path, folder: Path, **save: Any) -> None:
    """What an SFT trainer leaves: a tokenizer with a template, another end token and a new token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.eos_token, tokenizer.chat_template = END, OWN
    tokenizer.add_tokens(["<|new|>"], special_tokens=True)
    tokenizer.save_pretrained(folder, **save)


def written(source: ModelSource, folder: Path) -> tuple[list[int], dict[str, Any]]:
    folder.mkdir()
    source.write_tokenizer(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    return TextTokenizer(folder).encode(TEXT, add_special_tokens=True), config


@pytest.mark.parametrize("jinja", [True, False], ids=["template in a file", "template in tokenizer_config.json"])
def test_the_folders_own_tokenizer_is_used(base: Path, lora: Path, tmp_path: Path, jinja: bool) -> None:
    from transformers import AutoTokenizer

    folder = Path(shutil.copytree(lora, tmp_path / "lora"))
    own_tokenizer(base, folder, save_jinja_files=jinja)
    theirs = AutoTokenizer.from_pretrained(folder)
    source = open_model(str(folder))
    ids, config = written(source, tmp_path / "out")
    assert ids == theirs(TEXT)["input_ids"]
    assert config["chat_template"] == OWN
    assert config["eos_token"] == END
    assert source.end_tokens == (1,)  # config.json says 1 as well
    assert tokenizer_cases(source).chats


def test_a_profile_keeps_the_folders_tokenizer_and_end_tokens(base: Path, lora: Path, tmp_path: Path) -> None:
    """A profile names the base and stores the LoRA: all that the PEFT folder says of text is stored with it."""
    folder = Path(shutil.copytree(lora, tmp_path / "lora"))
    own_tokenizer(base, folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 1]}))
    source = open_model(str(folder))
    expected = written(source, tmp_path / "direct")
    profile, _ = random_profile(source, tmp_path / "p.json")
    write_profile(profile, tmp_path / "p.json", None, source.stored_lora)
    shutil.rmtree(folder)
    again = source_of(profile, tmp_path / "p.json")
    assert written(again, tmp_path / "again") == expected
    assert again.end_tokens == source.end_tokens == (7, 1)
    assert again.fingerprint == source.fingerprint
    assert again.stored_lora == source.stored_lora


def test_a_template_alone_goes_with_the_bases_vocabulary(base: Path, lora: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(lora, tmp_path / "lora"))
    (folder / "chat_template.jinja").write_text(OWN)
    _, config = written(open_model(str(folder)), tmp_path / "out")
    assert config["chat_template"] == OWN
    assert config["eos_token"] == BOS


def overlaid(base: Path, tmp_path: Path, files: dict[str, Any]) -> tuple[Any, Any]:
    """transformers on what is written for a PEFT folder with `files`, and on the base's files merged with them by hand:
    keys of tokenizer_config.json one by one, roles of special_tokens_map.json into them."""
    from transformers import AutoTokenizer

    folder = tmp_path / "peft"
    merged = Path(shutil.copytree(base, tmp_path / "merged"))
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        for place in (folder,) if name.endswith(".json") else (folder, merged):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(text, encoding="utf-8")
    settings = merged / "tokenizer_config.json"
    config = json.loads(settings.read_text(encoding="utf-8"))
    config |= files.get("tokenizer_config.json", {}) | files.get("special_tokens_map.json", {})
    if "additional_chat_templates/rag.jinja" in files and "chat_template.jinja" not in files:
        (merged / "chat_template.jinja").write_text(config["chat_template"])  # where transformers 5 writes it
    settings.write_text(json.dumps(config), encoding="utf-8")
    (merged / "special_tokens_map.json").unlink(missing_ok=True)  # in the settings
    if "added_tokens.json" in files:
        (merged / "added_tokens.json").write_text(json.dumps(files["added_tokens.json"]))
    out = tmp_path / "out"
    out.mkdir()
    write_files(peft_tokenizer(folder, FolderTokenizer(base)).files, out)
    for place in (out, merged):
        (place / "config.json").write_bytes((base / "config.json").read_bytes())
    return AutoTokenizer.from_pretrained(out), AutoTokenizer.from_pretrained(merged)


OVERLAYS: dict[str, dict[str, Any]] = {
    "an end token": {
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "padding_side": "left",
            "eos_token": BOS,
        }
    },
    "roles alone": {"special_tokens_map.json": {"eos_token": BOS, "pad_token": "<|new|>"}},
    "the map before the settings": {
        "tokenizer_config.json": {"eos_token": END, "model_max_length": 77},
        "special_tokens_map.json": {"eos_token": BOS},
    },
    "a template of the settings": {"tokenizer_config.json": {"chat_template": OWN}},
    "a template": {"chat_template.jinja": OWN},
    "named templates": {"additional_chat_templates/rag.jinja": "rag"},
    "a template and named ones": {"chat_template.jinja": OWN, "additional_chat_templates/rag.jinja": "rag"},
    "a token": {"added_tokens.json": {"<|new|>": 320}, "tokenizer_config.json": {"pad_token": "<|new|>"}},
    "a token of the settings": {
        "tokenizer_config.json": {
            "added_tokens_decoder": {
                str(index): {"content": token, "special": True, "normalized": False}
                for index, token in ((0, BOS), (1, END), (320, "<|new|>"))
            },
            "eos_token": "<|new|>",
        }
    },
    "another name for a token": {"tokenizer_config.json": {"extra_special_tokens": {"image_token": END}}},
}


@pytest.mark.parametrize("name", OVERLAYS)
def test_a_folder_changes_what_it_names_and_no_more(name: str, tmp_path: Path) -> None:
    """Oracle: AutoTokenizer on the base's files with the folder's keys merged in by hand."""
    base = tmp_path / "base"
    base.mkdir()
    write_tiny_tokenizer(base)
    (base / "config.json").write_text(json.dumps({"model_type": "llama"}))
    config = json.loads((base / "tokenizer_config.json").read_text())
    (base / "tokenizer_config.json").write_text(json.dumps(config | {"extra_special_tokens": {"image_token": BOS}}))
    ours, theirs = overlaid(base, tmp_path, OVERLAYS[name])
    assert ours.chat_template == theirs.chat_template
    for role in ("bos", "eos", "pad", "unk", "image"):
        assert getattr(ours, f"{role}_token", None) == getattr(theirs, f"{role}_token", None), role
    assert ours(TEXT)["input_ids"] == theirs(TEXT)["input_ids"]
    assert (ours.padding_side, ours.model_max_length) == (theirs.padding_side, theirs.model_max_length)
    messages = [{"role": "user", "content": "Hi"}]
    assert ours.apply_chat_template(messages, tokenize=False) == theirs.apply_chat_template(messages, tokenize=False)


def test_a_folders_end_token_ends_a_text(base: Path, lora: Path, tmp_path: Path) -> None:
    """By hand: config.json says 1, the base's tokenizer 0, the folder's settings a token that is neither."""
    folder = Path(shutil.copytree(lora, tmp_path / "lora"))
    settings = {"added_tokens.json": {"<|new|>": 320}, "special_tokens_map.json": {"eos_token": "<|new|>"}}
    for name, content in settings.items():
        (folder / name).write_text(json.dumps(content))
    assert open_model(str(folder)).end_tokens == (1, 320)


def test_special_tokens_may_be_objects(base: Path, tmp_path: Path) -> None:
    """By hand: a map as transformers 4 writes it, with a list that transformers 5 refuses."""
    new = {"content": "<|new|>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    (tmp_path / "special_tokens_map.json").write_text(
        json.dumps({"eos_token": new | {"content": END}, "additional_special_tokens": [new]})
    )
    files = peft_tokenizer(tmp_path, FolderTokenizer(base)).files
    config = json.loads(files["tokenizer_config.json"])
    assert config["eos_token"] == END
    assert config["additional_special_tokens"] == ["<|new|>"]


@pytest.mark.parametrize("content", ["{", '{"added_tokens_decoder": 5}'])
def test_damaged_settings_are_called_by_the_folder(base: Path, tmp_path: Path, content: str) -> None:
    """By hand: not by the temporary folder in which they lie over the base's vocabulary."""
    folder = tmp_path / "peft"
    folder.mkdir()
    (folder / "tokenizer_config.json").write_text(content)
    with pytest.raises(EdgeSkipError) as caught:
        _ = peft_tokenizer(folder, FolderTokenizer(base)).loaded
    assert str(folder) in str(caught.value)
    assert "edgeskip-tokenizer-" not in str(caught.value)


def test_a_folder_without_a_tokenizer_has_the_bases(base: Path, lora: Path, tmp_path: Path) -> None:
    source = open_model(str(lora))
    assert source.adaptation is not None
    assert source.checkpoint.tokenizer is source.adaptation.base.checkpoint.tokenizer
    assert b"edgeskip.file/" not in (source.stored_lora or b"")


def test_tokens_of_the_template_beyond_the_embedding_are_an_error(base: Path, lora: Path, tmp_path: Path) -> None:
    """By hand: 100 new tokens end at id 419 of 400, and the template uses the last."""
    from transformers import AutoTokenizer

    folder = Path(shutil.copytree(lora, tmp_path / "lora"))
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens([f"<|t{n}|>" for n in range(100)], special_tokens=True)
    tokenizer.chat_template = CHAT_TEMPLATE + "<|t99|>"
    tokenizer.save_pretrained(folder)
    with pytest.raises(EdgeSkipError, match=r"its chat template uses the token '<\|t99\|>' with id 419.*at 399"):
        tokenizer_cases(open_model(str(folder)))
