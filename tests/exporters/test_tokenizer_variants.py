"""What the runtime reads of a folder, whatever file says it. Oracle: `transformers.AutoTokenizer` on that folder: ids
of many texts, its chat template, and text of ids; through the runtime's own classes, and llama.cpp for GGUF."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from exports import export_gguf
from random_profiles import random_profile
from tiny_models import END
from tokenizer_folders import TEXT, VARIANTS, settings, variant, weights

from edgeskip.core.errors import EdgeSkipError
from edgeskip.exporters.gguf.formats import gguf_format
from edgeskip.exporters.gguf.text_rules import gguf_text
from edgeskip.exporters.options import ExportPolicy
from edgeskip.exporters.tokenizer_check import check_tokenizer, tokenizer_cases
from edgeskip.exporters.tricky_texts import CONVERSATIONS
from edgeskip.models.source import ModelSource, open_model
from edgeskip.runtime.chat import read_chat_template
from edgeskip.runtime.detokenizer import TextTokenizer
from edgeskip.runtime.loader import open_artifact
from edgeskip.runtime.probe import _text_answers

UNCHECKED = ExportPolicy(overwrite=True, check=False)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return weights(tmp_path_factory.mktemp("variants") / "base")


def folder_answers(source: ModelSource, folder: Path, questions: dict[str, Any]) -> dict[str, Any]:
    """What the runtime answers for an ONNX folder, without its graph."""

    class Opened:
        tokenizer: Any
        chat_template: Any
        end_tokens = frozenset[int]()

    folder.mkdir()
    source.write_tokenizer(folder)
    Opened.tokenizer = TextTokenizer(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    Opened.chat_template = read_chat_template(folder, config)
    return dict(_text_answers(Opened, questions))  # type: ignore[arg-type]


def gguf_answers(source: ModelSource, path: Path, questions: dict[str, Any]) -> dict[str, Any]:
    profile, vectors = random_profile(source, path.with_suffix(".json"))
    export_gguf(source, profile, vectors, gguf_format("f16", None), path, policy=UNCHECKED)
    opened = open_artifact(path)
    answers = dict(_text_answers(opened, questions))
    opened.engine.close()
    return answers


def auto(folder: Path) -> Any:
    """transformers itself, by another way than the exporter's where it refuses the folder's own code."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    if str(config.get("tokenizer_class")).startswith("MyOwn"):
        return PreTrainedTokenizerFast.from_pretrained(folder)
    if isinstance(config.get("extra_special_tokens"), list):  # transformers 4.57 has no such list
        settings(folder, extra_special_tokens=None, additional_special_tokens=config["extra_special_tokens"])
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_folder_reads_as_transformers_reads_it(name: str, base: Path, tmp_path: Path) -> None:
    folder = variant(base, tmp_path / "model", VARIANTS[name][0])
    source = open_model(str(folder))
    cases = tokenizer_cases(source)
    check_tokenizer(cases, folder_answers(source, tmp_path / "out", cases.questions()), name, "")
    wanted = auto(folder)
    wanted.backend_tokenizer.no_truncation()
    if name == "dropout":
        wanted.backend_tokenizer.model.dropout = None
    for add in (False, True):
        ids = TextTokenizer(tmp_path / "out").encode(TEXT, add_special_tokens=add)
        assert ids == wanted(TEXT, add_special_tokens=add)["input_ids"]
    # The exported folder in transformers' own hands.
    (tmp_path / "out" / "config.json").write_bytes((folder / "config.json").read_bytes())
    again = auto(tmp_path / "out")
    assert again(TEXT)["input_ids"] == wanted(TEXT)["input_ids"]
    assert again.decode(ids, skip_special_tokens=True) == wanted.decode(ids, skip_special_tokens=True)
    assert (again.bos_token, again.eos_token, again.pad_token) == (wanted.bos_token, wanted.eos_token, wanted.pad_token)
    assert again.chat_template == wanted.chat_template
    assert named(again) == named(wanted)


def named(loaded: Any) -> dict[str, Any]:
    """The special tokens that a template may name."""
    return {name: str(token) for name, token in loaded.special_tokens_map.items() if not isinstance(token, list)}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_gguf_reads_as_transformers_reads_the_folder(name: str, base: Path, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    change, refused = VARIANTS[name]
    source = open_model(str(variant(base, tmp_path / "model", change)))

    def check() -> None:
        text = gguf_text(source)
        cases = tokenizer_cases(source, text.skips)
        answers = gguf_answers(source, tmp_path / "out.gguf", cases.questions())
        check_tokenizer(cases, answers, name, "")
        assert len(cases.texts) > 60
        assert answers["end_tokens"] == sorted(source.end_tokens)

    if refused is None:
        check()
    else:
        with pytest.raises(EdgeSkipError, match=refused):
            check()


def test_named_templates_without_a_default_are_said(base: Path, tmp_path: Path) -> None:
    """Oracle: transformers raises as well unless it is told a name."""
    named = [{"name": "tool_use", "template": "x"}, {"name": "rag", "template": "y"}]
    folder = variant(base, tmp_path / "model", lambda f: settings(f, chat_template=named))
    with pytest.raises(ValueError, match="no default"):
        auto(folder).apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    source = open_model(str(folder))
    source.write_tokenizer(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    template = read_chat_template(tmp_path, config)
    assert template is not None
    with pytest.raises(EdgeSkipError, match=r"chat templates are for (tool_use, rag|rag, tool_use) only.*--raw"):
        template.render([{"role": "user", "content": "a"}])
    assert tokenizer_cases(source).chats == ()
    pytest.importorskip("llama_cpp")
    profile, vectors = random_profile(source, tmp_path / "p.json")
    export_gguf(source, profile, vectors, gguf_format("f16", None), tmp_path / "out.gguf", policy=UNCHECKED)
    opened = open_artifact(tmp_path / "out.gguf")
    assert opened.chat_template is not None
    with pytest.raises(EdgeSkipError, match=r"chat templates are for (tool_use, rag|rag, tool_use) only.*--raw"):
        opened.chat_template.render([{"role": "user", "content": "a"}])
    opened.engine.close()


def test_a_special_tokens_name_is_no_setting(base: Path, tmp_path: Path) -> None:
    """By hand: whatever a folder calls a token, it becomes no key that transformers reads files by."""
    named = {"image_token": END, "vocab_file": "/etc/passwd"}
    folder = variant(base, tmp_path / "model", lambda f: settings(f, extra_special_tokens=named))
    config = json.loads(open_model(str(folder)).checkpoint.tokenizer.files["tokenizer_config.json"])
    assert config["image_token"] == END
    assert "vocab_file" not in config


def test_a_ggufs_own_special_tokens_stay_named(base: Path, tmp_path: Path) -> None:
    """Oracle: AutoTokenizer's template on the folder, for the GGUF as a model of its own; by hand: the note."""
    pytest.importorskip("llama_cpp")
    folder = variant(base, tmp_path / "model", VARIANTS["extra_special_tokens in the template"][0])
    source = open_model(str(folder))
    assert any("give the chat template 'image_token'" in note for note in gguf_text(source).notes)
    profile, vectors = random_profile(source, tmp_path / "p.json")
    export_gguf(source, profile, vectors, gguf_format("f16", None), tmp_path / "out.gguf", policy=UNCHECKED)
    messages = [{"role": "user", "content": "Hi"}]
    again = open_model(str(tmp_path / "out.gguf")).checkpoint.tokenizer.loaded.auto
    wanted = auto(folder).apply_chat_template(messages, tokenize=False)
    assert again.apply_chat_template(messages, tokenize=False) == wanted


def test_text_with_tokens_beyond_the_embedding_is_an_error(base: Path, tmp_path: Path) -> None:
    """By hand: 320 tokens and 300 more, 600 rows: the last 20 have none."""
    from edgeskip.calibration.corpus import check_ids

    folder = variant(base, tmp_path / "model", VARIANTS["a pad beyond the embedding"][0])
    source = open_model(str(folder))
    encoder = source.encoder()
    check_ids(encoder.encode("a <extra0> b <extra279>").ids, 600, encoder)
    with pytest.raises(EdgeSkipError, match=r"the token '<extra280>' with id 600.*ends at 599"):
        check_ids(encoder.encode("a <extra280>").ids, 600, encoder)


def test_a_template_without_end_is_not_given_to_transformers(base: Path, tmp_path: Path) -> None:
    """By hand: 10¹² turns of a loop; transformers would render them all."""
    endless = "{% for i in range(1000000) %}{% for j in range(1000000) %}x{% endfor %}{% endfor %}"
    folder = variant(base, tmp_path / "model", lambda f: settings(f, chat_template=endless))
    assert tokenizer_cases(open_model(str(folder))).chats == ()


def dated(form: str) -> str:
    """A template as Llama 3.2's and SmolLM3's, with a date of this form."""
    return f"{{{{ strftime_now({form!r}) }}}}|{{% for m in messages %}}{{{{ m['content'] }}}}|{{% endfor %}}"


def test_a_template_that_tells_the_date_is_checked(base: Path, tmp_path: Path) -> None:
    """Oracle: transformers, on the same day; on another day nothing can be said."""
    folder = variant(base, tmp_path / "model", lambda f: settings(f, chat_template=dated("%d %b %Y")))
    source = open_model(str(folder))
    cases = tokenizer_cases(source)
    assert len(cases.chats) == len(CONVERSATIONS)
    answers = folder_answers(source, tmp_path / "out", cases.questions())
    check_tokenizer(cases, answers, "x", "")
    wrong = {**answers, "chats": [(None, None)] * len(cases.chats)}
    if cases.day == date.today():  # not at midnight
        with pytest.raises(EdgeSkipError, match="refuses a conversation"):
            check_tokenizer(cases, wrong, "x", "")
    check_tokenizer(replace(cases, day=date(2000, 1, 1)), wrong, "x", "")


@pytest.mark.parametrize("form", ["%H:%M", "%c", "%Y %-I", "%s", "%E", "%"])
def test_a_template_that_tells_the_time_is_not(form: str, base: Path, tmp_path: Path) -> None:
    """By hand: the two renderings are seconds apart."""
    folder = variant(base, tmp_path / "model", lambda f: settings(f, chat_template=dated(form)))
    assert tokenizer_cases(open_model(str(folder))).chats == ()
