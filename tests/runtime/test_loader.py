"""Sessions, the run verb and the probe on GGUF files. Oracles: transformers, the engine itself, hand calculation."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from split_gguf import split_gguf
from talking_gguf import talking_gguf
from tiny_graph import TinyArtifact
from tiny_models import BOS, END, tiny_tokenizer

import edgeskip
from edgeskip.artifacts.gguf.manifest import GgufManifest, Part
from edgeskip.artifacts.manifest import PlanSummary
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.plan import Label
from edgeskip.profiles.schema import ModelRecord
from edgeskip.runtime.detokenizer import TextDecoder
from edgeskip.runtime.engines.llamacpp.engine import LlamaCppEngine
from edgeskip.runtime.engines.llamacpp.split import LlamaCppSplitEngine

PROMPT = [5, 80, 33, 12, 200]
COMMAND = [sys.executable, "-m", "edgeskip", "run"]


def manifest(
    part: Part, label: Label, partner: str | None = None, *, skip: tuple[str, ...] = (), vectors: str = "1" * 64
) -> dict[str, str]:
    record = ModelRecord(
        source="tiny", name="tiny", family="llama", fingerprint="0" * 64, num_blocks=4, hidden_size=64, vocab_size=320
    )
    plan = PlanSummary(method="explicit", compensation="none", skip=list(skip), num_blocks=4)
    return GgufManifest(
        label=label, part=part, exit_layer=None if part == "whole" else 2, partner=partner, precision="f32",
        model=record, plan=plan, inputs={"vectors": vectors}, versions={}, created="2026-01-01T00:00:00Z",
    ).to_metadata()  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """stock.gguf is nobody's in particular, skipped.gguf says that two sublayers are gone, first and rest are a
    pair."""
    folder = tmp_path_factory.mktemp("gguf")
    talking_gguf(folder / "stock.gguf")
    talking_gguf(folder / "skipped.gguf", manifest("whole", "lossy-skip", skip=("attn.1", "ffn.3")))
    keys = {"first": manifest("first", "draft-only", "rest.gguf"), "rest": manifest("rest", "dense", "first.gguf")}
    split_gguf(folder / "stock.gguf", folder, 2, keys)
    return folder


@pytest.fixture
def pair(folder: Path, tmp_path: Path) -> Path:
    """A copy of the pair, free to change; the first half's path."""
    for name in ("first.gguf", "rest.gguf"):
        shutil.copy(folder / name, tmp_path / name)
    return tmp_path / "first.gguf"


def run(file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, str(file), "--threads", "1", *arguments], capture_output=True, text=True, timeout=60
    )


def greedy(file: Path, prompt: list[int], count: int) -> list[int]:
    engine = LlamaCppEngine(file, threads=1)
    logits = engine.step(np.array(prompt))
    tokens: list[int] = []
    for _ in range(count):
        tokens.append(int(logits[0].argmax()))
        logits = engine.step(np.array(tokens[-1:]))
    return tokens


def test_a_stock_file_generates_as_a_folder_does(folder: Path) -> None:
    """Oracle: argmax over the engine's logits; nothing was skipped by us, so it is `dense`."""
    with edgeskip.load(folder / "stock.gguf", threads=1) as session:
        assert (session.label, session.manifest, session.plan, session.provider) == ("dense", None, None, "cpu")
        assert session.end_tokens == {1}
        generation = session.generate(PROMPT, max_tokens=20)
        expected = greedy(folder / "stock.gguf", PROMPT, 20)
        assert list(generation.tokens) == (expected[: expected.index(1)] if 1 in expected else expected)
        assert (generation.engine, generation.provider, generation.label) == ("llama.cpp", "cpu", "dense")
        assert session.generate(PROMPT, max_tokens=20).tokens == generation.tokens
        assert 0 < generation.stats.python_share < 1
    with pytest.raises(EdgeSkipError, match="closed"):
        session.generate(PROMPT)


def test_a_chat_is_rendered_and_encoded_by_the_file(folder: Path) -> None:
    """Oracle: the template in tiny_models and `tokenizers`."""
    session = edgeskip.load(str(folder / "stock.gguf"), threads=1)
    expected = tiny_tokenizer().encode(f"{BOS}user\nhey{END}\n{BOS}assistant\n").ids
    assert session.encode("hey").tolist() == expected
    assert session.encode("hey", chat=False).tolist() == tiny_tokenizer().encode("hey").ids
    np.testing.assert_array_equal(
        session.logits(expected), LlamaCppEngine(folder / "stock.gguf", threads=1).step(np.array(expected), logits=0)
    )


def test_our_files_say_what_they_are(folder: Path) -> None:
    """By hand, from the manifests written above."""
    session = edgeskip.load(folder / "skipped.gguf", threads=1)
    assert session.label == "lossy-skip"
    assert isinstance(session.manifest, GgufManifest)
    assert session.plan is not None
    assert session.plan.skip == ["attn.1", "ffn.3"]


def test_the_first_half_runs_with_the_rest_beside_it(folder: Path) -> None:
    """Oracle: the whole file, to the bit; together they are the dense model, not a draft."""
    session = edgeskip.load(folder / "first.gguf", threads=1)
    assert isinstance(session.engine, LlamaCppSplitEngine)
    assert session.label == "dense"
    whole = edgeskip.load(folder / "stock.gguf", threads=1)
    np.testing.assert_array_equal(session.logits(PROMPT), whole.logits(PROMPT))
    assert session.generate(PROMPT, max_tokens=12).tokens == whole.generate(PROMPT, max_tokens=12).tokens


def test_a_draft_without_a_partner_is_a_model_of_its_own(folder: Path, tmp_path: Path) -> None:
    """Oracle: the engine on that file alone."""
    draft, _ = split_gguf(folder / "stock.gguf", tmp_path, 2, {"first": manifest("first", "draft-only")})
    session = edgeskip.load(draft, threads=1)
    assert session.label == "draft-only"
    np.testing.assert_array_equal(
        session.logits(PROMPT), LlamaCppEngine(draft, threads=1).step(np.array(PROMPT), logits=0)
    )


def test_halves_that_are_not_a_pair_are_refused(pair: Path, folder: Path, tmp_path: Path) -> None:
    """By hand: each line says what to do."""
    with pytest.raises(EdgeSkipError, match=r"rest\.gguf is the second half .* run the first half, first\.gguf"):
        edgeskip.load(pair.with_name("rest.gguf"))
    shutil.copy(folder / "skipped.gguf", pair.with_name("rest.gguf"))
    with pytest.raises(EdgeSkipError, match="is not the second half of"):
        edgeskip.load(pair)
    (tmp_path / "again").mkdir()
    keys = {"first": manifest("first", "draft-only", "rest.gguf", vectors="2" * 64)}  # calibrated anew
    again, _ = split_gguf(folder / "stock.gguf", tmp_path / "again", 2, keys)
    shutil.copy(folder / "rest.gguf", again.with_name("rest.gguf"))
    with pytest.raises(EdgeSkipError, match="is not the second half of"):
        edgeskip.load(again)
    pair.with_name("rest.gguf").unlink()
    with pytest.raises(EdgeSkipError, match=r"first half of a pair: put the second, rest\.gguf, beside it"):
        edgeskip.load(pair)
    for name in ("../rest.gguf", "..", "sub/rest.gguf"):
        (tmp_path / "bad").mkdir(exist_ok=True)
        keys = {"first": manifest("first", "draft-only", name)}
        first, _ = split_gguf(folder / "stock.gguf", tmp_path / "bad", 2, keys)
        with pytest.raises(EdgeSkipError, match="file name"):
            edgeskip.load(first)


def test_run_prints_text_and_label(folder: Path) -> None:
    """Oracle: the session's own answer."""
    expected = edgeskip.load(folder / "skipped.gguf", threads=1).generate("hey", max_tokens=8)
    answer = run(folder / "skipped.gguf", "-p", "hey", "--max-tokens", "8")
    assert answer.returncode == 0
    assert answer.stdout == expected.text + "\n"
    assert answer.stderr.startswith("lossy-skip (2 of 8 sublayers skipped) | plain, cpu, 1 thread | ")
    assert answer.stderr.count("\n") == 1


def test_run_prints_json(folder: Path) -> None:
    """Oracle: the session's own answer; the pair of halves drafts for itself unless told otherwise."""
    expected = edgeskip.load(folder / "stock.gguf", threads=1).generate("hey", chat=False, max_tokens=8)
    answer = run(folder / "first.gguf", "-p", "hey", "--raw", "--max-tokens", "8", "--json")
    data = json.loads(answer.stdout)
    assert (data["tokens"], data["label"], data["engine"]) == (list(expected.tokens), "verified", "llama.cpp")
    plain = run(folder / "first.gguf", "-p", "hey", "--raw", "--max-tokens", "8", "--json", "--strategy", "plain")
    assert json.loads(plain.stdout)["label"] == "dense"
    assert answer.stderr == ""


@pytest.mark.parametrize(
    ("name", "arguments", "complaint"),
    [
        ("stock.gguf", ["--provider", "tpu"], "cannot run on 'tpu' (available here: cpu"),
        ("stock.gguf", ["--threads", "0"], "threads"),
        ("absent.gguf", [], "is not a file"),
        ("absent", [], "not an artifact folder"),
        ("cut.gguf", [], "lies beyond the end"),
        ("text.txt", [], "not a GGUF file"),
        ("rest.gguf", [], "run the first half"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(folder: Path, name: str, arguments: list[str], complaint: str) -> None:
    """By hand."""
    (folder / "cut.gguf").write_bytes((folder / "stock.gguf").read_bytes()[:-5000])
    (folder / "text.txt").write_text("text", encoding="utf-8")
    answer = run(folder / name, "-p", "a", *arguments)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr.startswith("edgeskip: error: ")
    assert complaint in answer.stderr
    assert answer.stderr.count("\n") == 1


def test_without_llama_cpp_python_run_names_the_extra(folder: Path) -> None:
    """By hand: a process that cannot import llama_cpp; a folder does not need it."""
    code = (
        "import sys\nsys.modules['llama_cpp'] = None\n"
        "from edgeskip.cli.main import main\n"
        f"sys.argv = ['edgeskip', 'run', {str(folder / 'stock.gguf')!r}, '-p', 'hey']\n"
        "main()\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr == (
        "edgeskip: error: this needs the package 'llama-cpp-python': run pip install 'edgeskip[llamacpp]'\n"
    )


def probe(artifact: Path, scratch: Path, tokens: np.ndarray[Any, Any], *options: str) -> tuple[Any, dict[str, Any]]:
    np.save(scratch / "tokens.npy", tokens)
    command = [sys.executable, "-m", "edgeskip.runtime.probe", str(artifact)]
    command += [str(scratch / "tokens.npy"), str(scratch / "logits.npy"), *options]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return np.load(scratch / "logits.npy"), json.loads(answer.stdout)


def test_the_probe_runs_files_and_folders_alike(folder: Path, tiny_artifact: TinyArtifact, tmp_path: Path) -> None:
    """Oracle: the engine's logits, the session's tokens and the tokenizer of each artifact."""
    asked = {
        "texts": [["héy\r\nyou", False]],
        "chats": [[[{"role": "user", "content": "x"}], True]],
        "ids": [[100, 101]],
    }
    (tmp_path / "questions.json").write_text(json.dumps(asked))
    tokens = np.random.default_rng(4).integers(3, 256, 40)
    for artifact in (folder / "stock.gguf", tiny_artifact.folder):
        logits, found = probe(artifact, tmp_path, tokens, "--questions", str(tmp_path / "questions.json"))
        session = edgeskip.load(artifact, threads=1)
        np.testing.assert_allclose(logits, session.logits(tokens), atol=0.02)
        last = session.logits([*tokens, *found["generated"]])
        assert found["generated"] == last[len(tokens) - 1 : -1].argmax(-1).tolist()
        assert found["texts"] == [session.tokenizer.encode("héy\r\nyou", add_special_tokens=False)]
        if session.chat_template is None:
            assert found["chats"] == [[None, None]]
        else:
            assert found["chats"][0][1] == session.encode("x").tolist()
        assert found["decoded"] == ["".join(map(TextDecoder(session.tokenizer).push, [100, 101]))]
        assert found["end_tokens"] == sorted(session.end_tokens)
    _, found = probe(folder / "first.gguf", tmp_path, tokens)
    assert set(found) == {"generated", "text"}
