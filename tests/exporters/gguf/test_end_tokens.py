"""End tokens in a GGUF. Oracles: llama.cpp's own list of them (`llama_vocab_is_eog`), and generation_config.json."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from exports import export_gguf
from random_profiles import random_profile
from tiny_models import tiny_checkpoint, tiny_tokenizer

from edgeskip.exporters.gguf.formats import gguf_format
from edgeskip.exporters.options import ExportPolicy
from edgeskip.models.source import open_model
from edgeskip.runtime.loader import open_artifact

pytest.importorskip("llama_cpp")
NAMES = ("<|turn|>", "<|halt|>", "<|stop|>", "<|eot_id|>", "<|more|>")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokens 320 … 324 are NAMES; the tokenizer's eos is 1."""
    folder = tiny_checkpoint("llama", tmp_path_factory.mktemp("ends") / "base", vocab_size=400)
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens(list(NAMES))
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def exported(base: Path, tmp_path: Path, ends: Any, **settings: Any) -> tuple[Any, Any, frozenset[int]]:
    """(the file's record, the runtime's end tokens, llama.cpp's own)."""
    folder = Path(shutil.copytree(base, tmp_path / "model"))
    generation = folder / "generation_config.json"
    generation.write_text(json.dumps(json.loads(generation.read_text()) | {"eos_token_id": ends}))
    source = open_model(str(folder))
    profile, vectors = random_profile(source, tmp_path / "p.json")
    policy = ExportPolicy(check=False)
    (file,) = export_gguf(source, profile, vectors, gguf_format("f16", None), tmp_path / "out.gguf", policy=policy)
    opened = open_artifact(tmp_path / "out.gguf")
    tokenizer: Any = opened.tokenizer
    ours = opened.end_tokens
    tokenizer.rules = None
    del tokenizer.end_tokens  # cached
    theirs = tokenizer.end_tokens
    opened.engine.close()
    return file, ours, theirs


@pytest.mark.parametrize(
    ("ends", "unstopped"),
    [
        (1, ()),
        (321, ()),
        ([320], ()),
        ([1, 320, 321], ()),
        ([320, 321, 1, 323], ()),  # llama.cpp knows <|eot_id|> by its text
        ([1, 320, 321, 322, 324], ("<|stop|>", "<|more|>")),
        ([1, 399], ()),  # an unused row of the embedding
        ([1, 5000], ()),  # beyond it
    ],
)
def test_every_end_token_is_kept(ends: Any, unstopped: tuple[str, ...], base: Path, tmp_path: Path) -> None:
    wanted = {1, *(ends if isinstance(ends, list) else [ends])} - {5000}
    file, ours, theirs = exported(base, tmp_path, ends)
    assert ours == wanted
    named = {320 + NAMES.index(token) for token in unstopped}
    assert wanted - theirs == named
    notes = [note for note in file.manifest.notes if "do not stop at" in note]
    assert bool(notes) == bool(unstopped)
    assert all(token in notes[0] for token in unstopped)


def test_a_gguf_as_a_model_keeps_its_end_tokens(base: Path, tmp_path: Path) -> None:
    """The list of a file of EdgeSkip, and the keys of a file of others."""
    file, ours, _ = exported(base, tmp_path, [1, 320, 321, 322, 324])
    source = open_model(str(file.path))
    assert set(source.end_tokens) == ours
    profile, vectors = random_profile(source, tmp_path / "q.json")
    policy = ExportPolicy(check=False)
    (again,) = export_gguf(source, profile, vectors, gguf_format("f16", None), tmp_path / "again.gguf", policy=policy)
    opened = open_artifact(again.path)
    assert opened.end_tokens == ours
    opened.engine.close()
