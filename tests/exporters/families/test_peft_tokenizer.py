"""The tokenizer, chat template and end tokens of a PEFT folder. Oracle: `transformers.AutoTokenizer` on that folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from random_profiles import random_profile
from test_lora import adapted
from tiny_models import BOS, CHAT_TEMPLATE, END, tiny_checkpoint

from edgeskip.errors import EdgeSkipError
from edgeskip.exporters.families.source import ModelSource, open_model
from edgeskip.exporters.families.tokenizer_source import FolderTokenizer, peft_tokenizer
from edgeskip.exporters.tokenizer_check import tokenizer_cases
from edgeskip.profile import write_profile
from edgeskip.profile_source import source_of
from edgeskip.runtime.text import TextTokenizer

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
