"""Tokenizers of every kind through a GGUF and the runtime. Oracle: transformers on the folder that was exported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from exports import export_gguf
from random_profiles import random_profile
from test_vocabulary import BOS, EOS, KINDS, write_folder
from tiny_models import tiny_checkpoint

from edgeskip.exporters.gguf.formats import gguf_format
from edgeskip.exporters.gguf.text_rules import gguf_text
from edgeskip.exporters.options import ExportPolicy
from edgeskip.exporters.tokenizer_check import check_tokenizer, tokenizer_cases
from edgeskip.models.source import open_model
from edgeskip.runtime.loader import open_artifact
from edgeskip.runtime.probe import _text_answers

pytest.importorskip("llama_cpp")

TEMPLATE = f"{BOS}{{% for m in messages %}}[{{{{ m['role'] }}}}] {{{{ m['content'] }}}}{EOS}{{% endfor %}}"
NOTES = {
    "qwen2": ["Unicode NFC"],
    "tekken": ["capitals or marks outside ASCII"],
    "llama, Metaspace": ["puts a space after every special token"],
    "llama, Metaspace, chat": ["no space in front of a text without a chat template"],
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("llama", tmp_path_factory.mktemp("kinds") / "base", vocab_size=1400)


def again_unlike(text: str) -> bool:
    """Whether a GGUF does not say how its tokenizer reads this: `</s>` may be a plain token or an end."""
    return "</s>" in text or "<unk>" in text


@pytest.mark.parametrize("chat", [False, True], ids=["text", "chat"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_tokenizer_reads_as_transformers_reads_it(kind: str, chat: bool, base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "model"))
    (folder / "special_tokens_map.json").unlink()
    extra: dict[str, Any] = {"chat_template": TEMPLATE} if chat else {}
    write_folder(KINDS[kind](), folder, tokenizer_class="PreTrainedTokenizerFast", **extra)
    source = open_model(str(folder))
    text = gguf_text(source)
    cases = tokenizer_cases(source, text.skips)
    profile, vectors = random_profile(source, tmp_path / "p.json")
    policy = ExportPolicy(check=False)
    (file,) = export_gguf(source, profile, vectors, gguf_format("f16", None), tmp_path / "out.gguf", policy=policy)
    opened = open_artifact(tmp_path / "out.gguf")
    answers = json.loads(json.dumps(_text_answers(opened, cases.questions())))
    opened.engine.close()
    check_tokenizer(cases, answers, kind, "")
    # The file as a model of its own: it reads the same, and so does what is made of it.
    again = open_model(str(tmp_path / "out.gguf"))
    assert again.end_tokens == source.end_tokens
    plain = [case for case in cases.texts if not again_unlike(case.text)]
    encoder = again.encoder()
    for case in plain:
        found = encoder.encode(case.text, add_special_tokens=case.add_special_tokens).ids
        assert tuple(found) == case.ids, case.text
    wanted = NOTES.get(f"{kind}, chat" if chat else kind, NOTES.get(kind, []))
    assert len(file.manifest.notes) == len(wanted)
    assert all(part in note for part, note in zip(wanted, file.manifest.notes, strict=True))
