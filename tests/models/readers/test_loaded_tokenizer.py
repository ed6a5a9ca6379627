"""Tokenizers that transformers opens and that cannot be used. Oracle: the one line; what the libraries do without it is
a TypeError, and a panic that is no Exception."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import decoders

from edgeskip.core.errors import EdgeSkipError
from edgeskip.models.readers.loaded_tokenizer import load_tokenizer
from edgeskip.runtime.detokenizer import TextTokenizer


@pytest.fixture
def folder(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "model"))


@pytest.mark.parametrize("template", [5, {"a": 1}])
def test_a_template_that_is_no_text(folder: Path, template: object) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))
    with pytest.raises(EdgeSkipError, match=r"chat_template is not text|cannot open its tokenizer"):
        load_tokenizer(folder)


def test_a_decoder_on_which_the_library_panics(folder: Path) -> None:
    path = folder / "tokenizer.json"
    strip = decoders.Strip(content=" ", left=2, right=1)  # two of a text of one
    decoder = json.loads(decoders.Sequence([decoders.Replace("Ġ", " "), decoders.Fuse(), strip]).__getstate__())
    path.write_text(json.dumps(json.loads(path.read_text()) | {"decoder": decoder}))
    loaded = load_tokenizer(folder)
    ids = [loaded.auto.convert_tokens_to_ids("Ġ")]
    with pytest.raises(EdgeSkipError, match=r"^transformers cannot decode .* with the model's tokenizer"):
        loaded.decode(ids)
    with pytest.raises(EdgeSkipError, match=r"^the tokenizer cannot decode this text"):
        TextTokenizer(folder).decode(ids)
