"""References, names, fingerprints, records and tokenizer files. Oracles: hashlib, and transformers' own tokenizer."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
from tiny_models import CHAT_TEMPLATE, tiny_tokenizer

from edgeskip.core.errors import EdgeSkipError
from edgeskip.models.locate import short_name
from edgeskip.models.source import open_model


@pytest.fixture
def llama(tiny_llama: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(tiny_llama, tmp_path / "my-llama"))


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct"),
        ("Llama-3.2-1B-Instruct-Q4_K_M.gguf", "Llama-3.2-1B-Instruct"),
        ("qwen2.5-0.5b-instruct-fp16.gguf", "qwen2.5-0.5b-instruct-fp16"),
        ("model-F16.gguf", "model"),
        ("x.bf16.gguf", "x"),
        ("x-IQ4_NL.gguf", "x"),
        ("plain.gguf", "plain"),
        (".gguf", ".gguf"),
    ],
)
def test_short_name_of_a_gguf(file: str, name: str) -> None:
    assert short_name(Path("/models") / file) == name


def test_record(tiny_llama: Path) -> None:
    source = open_model(str(tiny_llama))
    record = source.record()
    assert source.path == tiny_llama
    assert (record.source, record.name, record.family) == (str(tiny_llama), tiny_llama.name, "llama")
    assert (record.num_blocks, record.hidden_size, record.vocab_size) == (4, 64, 320)
    assert record.fingerprint == source.fingerprint


def test_fingerprint_of_a_folder(llama: Path) -> None:
    """Oracle: the rule worked by hand; files that do not change the numbers do not change it."""
    lines = [
        f"{name} {hashlib.sha256((llama / name).read_bytes()).hexdigest()}\n"
        for name in ("config.json", "model.safetensors")
    ]
    expected = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert open_model(str(llama)).fingerprint == expected
    (llama / "README.md").write_text("hello")
    assert open_model(str(llama)).fingerprint == expected
    with (llama / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    assert open_model(str(llama)).fingerprint != expected


def test_fingerprint_of_a_gguf_is_its_hash(smollm2_gguf: Path) -> None:
    assert open_model(str(smollm2_gguf)).fingerprint == hashlib.sha256(smollm2_gguf.read_bytes()).hexdigest()


def test_ready_model_by_name(smollm2_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import edgeskip.models.fetch

    monkeypatch.setattr(edgeskip.models.fetch, "fetch", lambda name: smollm2_gguf)
    source = open_model("smollm2-135m-instruct")
    assert (source.reference, source.name, source.path) == ("smollm2-135m-instruct",) * 2 + (smollm2_gguf,)


def test_an_existing_path_wins_over_a_name(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(llama.parent)
    llama.rename("smollm2-135m-instruct")
    assert open_model("smollm2-135m-instruct").record().hidden_size == 64


def _hub(monkeypatch: pytest.MonkeyPatch, answer: Path | Exception) -> list[str]:
    """A stand-in for the hub's client that answers with a folder or fails; returns what was asked."""
    asked: list[str] = []

    def snapshot_download(name: str, **_: object) -> str:
        asked.append(name)
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    client = ModuleType("huggingface_hub")
    client.snapshot_download = snapshot_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", client)
    return asked


def test_hub_id(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _hub(monkeypatch, llama)
    source = open_model("org/Model-1B")
    assert asked == ["org/Model-1B"]
    assert (source.name, source.reference) == ("Model-1B", "org/Model-1B")


def test_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    _hub(monkeypatch, ConnectionError("no route to host\nand a long explanation"))
    with pytest.raises(EdgeSkipError, match=r"cannot fetch 'org/m' from the Hugging Face hub \(no route") as caught:
        open_model("org/m")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("reference", ["nope", "./missing/folder", "/missing/model.gguf", "a/b/c", "../up", ""])
def test_unknown_reference(reference: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _hub(monkeypatch, ConnectionError("not to be asked"))
    with pytest.raises(EdgeSkipError, match=r"a Hugging Face or PEFT folder, a \.gguf file or a hub id"):
        open_model(reference)
    assert asked == []


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(EdgeSkipError, match=r"neither a model folder nor a \.gguf file"):
        open_model(str(tmp_path / "notes.txt"))


def _tokenizer(source: Path, target: Path) -> tuple[dict[str, object], dict[str, object]]:
    target.mkdir()
    open_model(str(source)).write_tokenizer(target)
    return json.loads((target / "tokenizer.json").read_text()), json.loads(
        (target / "tokenizer_config.json").read_text()
    )


def test_tokenizer_of_a_folder(llama: Path, tmp_path: Path) -> None:
    """Oracle: transformers loads what was written and encodes as the original."""
    from transformers import AutoTokenizer

    tokenizer, settings = _tokenizer(llama, tmp_path / "out")
    original = json.loads((llama / "tokenizer.json").read_text())
    changed = {"post_processor"}  # transformers 5 writes one that adds nothing
    assert {key: tokenizer[key] for key in original.keys() - changed} == {
        key: original[key] for key in original.keys() - changed
    }
    assert settings["chat_template"] == CHAT_TEMPLATE
    assert (tmp_path / "out" / "special_tokens_map.json").is_file()
    text = "Skip what it does not need: 12 héllo <|im_end|>"
    assert AutoTokenizer.from_pretrained(tmp_path / "out")(text)["input_ids"] == tiny_tokenizer().encode(text).ids


def test_template_file_is_merged(llama: Path, tmp_path: Path) -> None:
    (llama / "chat_template.jinja").write_text("{{ messages }}é", encoding="utf-8")
    assert _tokenizer(llama, tmp_path / "out")[1]["chat_template"] == "{{ messages }}é"


def test_tokenizer_config_reads_in_both_versions_of_transformers(llama: Path, tmp_path: Path) -> None:
    path = llama / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings.update(tokenizer_class="TokenizersBackend", extra_special_tokens=["<|im_start|>"], auto_map={"x": "evil"})
    path.write_text(json.dumps(settings))
    written = _tokenizer(llama, tmp_path / "out")[1]
    assert written["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert written["additional_special_tokens"] == ["<|im_start|>"]
    assert not {"extra_special_tokens", "auto_map"} & set(written)


def test_no_tokenizer(llama: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (llama / name).unlink()
    with pytest.raises(EdgeSkipError, match=r"has no tokenizer\.json and transformers cannot make one") as caught:
        _tokenizer(llama, tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_slow_tokenizer_is_converted(llama: Path, tmp_path: Path) -> None:
    """A GPT-2 tokenizer as vocab.json and merges.txt only; oracle: transformers' own conversion encodes the same."""
    from tokenizers import Tokenizer

    bpe = tiny_tokenizer()
    for name in ("tokenizer.json", "special_tokens_map.json"):
        (llama / name).unlink()
    bpe.model.save(str(llama))
    settings = {"tokenizer_class": "GPT2Tokenizer", "unk_token": "<|im_end|>", "eos_token": "<|im_end|>"}
    (llama / "tokenizer_config.json").write_text(json.dumps(settings))
    _tokenizer(llama, tmp_path / "out")
    written = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    text = "The quick brown fox, 12 héllo"
    assert written.encode(text).ids == bpe.encode(text).ids


def test_tokenizer_of_a_gguf(smollm2_gguf: Path, tmp_path: Path) -> None:
    tokenizer, settings = _tokenizer(smollm2_gguf, tmp_path / "out")
    assert len(tokenizer["model"]["vocab"]) == 49152  # type: ignore[index]
    assert "im_start" in str(settings["chat_template"])


@pytest.mark.parametrize("content", [b"{}", b'{"model": {"type": "BPE"}}', b"[]", b"\xff"])
def test_a_tokenizer_that_is_none(llama: Path, tmp_path: Path, content: bytes) -> None:
    (llama / "tokenizer.json").write_bytes(content)
    with pytest.raises(EdgeSkipError, match=r"tokenizer\.json .*fetch the model again"):
        open_model(str(llama)).write_tokenizer(tmp_path)
    assert not (tmp_path / "tokenizer.json").exists()


def test_a_template_that_is_no_text(llama: Path, tmp_path: Path) -> None:
    (llama / "chat_template.jinja").write_bytes(b"\xff\xfe{{")
    with pytest.raises(EdgeSkipError, match=r"chat_template\.jinja is not UTF-8"):
        open_model(str(llama)).write_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {"extra_special_tokens": [3]},
        {"added_tokens_decoder": {"5": 3}},
        {"chat_template": {"__type": "AddedToken", "content": "x"}},
        {"model_max_length": "long"},
    ],
    ids=str,
)
def test_settings_that_are_none_are_one_line(llama: Path, tmp_path: Path, settings: dict[str, object]) -> None:
    """By hand: transformers takes any value and fails when it is used."""
    path = llama / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    with pytest.raises(EdgeSkipError, match="fetch the model again") as caught:
        open_model(str(llama)).write_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)
