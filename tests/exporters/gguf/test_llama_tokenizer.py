"""SentencePiece models that transformers converts when it loads them (`LlamaTokenizer`), in the runtime and a GGUF.
Oracle: `transformers.AutoTokenizer` on the folder."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from exports import export_gguf
from random_profiles import random_profile
from sentencepiece_models import bpe_model
from test_vocabulary import TEXTS
from tiny_models import tiny_checkpoint

from edgeskip.exporters.gguf.formats import gguf_format
from edgeskip.exporters.gguf.text_rules import gguf_text
from edgeskip.exporters.options import ExportPolicy
from edgeskip.exporters.tokenizer_check import check_tokenizer, tokenizer_cases
from edgeskip.models.source import open_model
from edgeskip.runtime.detokenizer import TextTokenizer
from edgeskip.runtime.loader import open_artifact
from edgeskip.runtime.probe import _text_answers

pytest.importorskip("sentencepiece")
pytest.importorskip("llama_cpp")
TEMPLATE = "{{ bos_token }}{% for m in messages %}[INST] {{ m['content'] }} [/INST]{{ eos_token }}{% endfor %}"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_checkpoint("llama", tmp_path_factory.mktemp("spm") / "base", vocab_size=940, eos_token_id=2)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink()
    (folder / "tokenizer.model").write_bytes(bpe_model(TEXTS))
    return folder


@pytest.mark.parametrize("form", ["slow", "fast"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"legacy": False},
        {"legacy": True, "add_bos_token": True, "add_eos_token": True},
        {"legacy": False, "add_bos_token": False, "chat_template": TEMPLATE},
        {"legacy": True, "chat_template": TEMPLATE},
        {"add_prefix_space": False, "legacy": False},
        {"additional_special_tokens": ["[INST]", "[/INST]"], "legacy": False, "chat_template": TEMPLATE},
    ],
    ids=lambda settings: ", ".join(settings) or "none",
)
def test_a_sentencepiece_folder_reads_as_transformers_reads_it(
    settings: dict[str, Any], form: str, base: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    if form == "fast" and "add_prefix_space" in settings and version("transformers").startswith("4."):
        pytest.skip("transformers 4.57 wants the slow tokenizer's file for it")
    folder = Path(shutil.copytree(base, tmp_path / "model"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "tokenizer_class": "LlamaTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names | settings))
    if form == "fast":  # as transformers itself saves it
        AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
        (folder / "tokenizer.model").unlink()
    wanted = AutoTokenizer.from_pretrained(folder)
    source = open_model(str(folder))
    source.write_tokenizer(tmp_path)
    ours = TextTokenizer(tmp_path)
    for text in TEXTS[:12]:
        for add in (False, True):
            assert ours.encode(text, add_special_tokens=add) == wanted(text, add_special_tokens=add)["input_ids"]
    cases = tokenizer_cases(source, gguf_text(source).skips)
    profile, vectors = random_profile(source, tmp_path / "p.json")
    policy = ExportPolicy(check=False)
    export_gguf(source, profile, vectors, gguf_format("f16", None), tmp_path / "out.gguf", policy=policy)
    opened = open_artifact(tmp_path / "out.gguf")
    answers = json.loads(json.dumps(_text_answers(opened, cases.questions())))
    opened.engine.close()
    check_tokenizer(cases, answers, "GGUF", "")
