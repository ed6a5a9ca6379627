"""Perplexity through exports: the number itself, labels, the table. Oracle: hand calculation."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import perplexity_table
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from perplexity_table import (
    Result,
    check_label,
    genai_logits,
    negative_log_likelihood,
    perplexity,
    tables_of,
    windows_of,
)
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

import edgeskip
from edgeskip.artifacts.manifest import PlanSummary
from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.detokenizer import TextTokenizer


def test_uniform_logits_have_the_vocabulary_as_perplexity() -> None:
    """300 tokens: more than two slices of rows."""
    tokens = np.arange(300) % 7
    value, counted = perplexity(lambda window: np.full((len(window), 7), 3.25, np.float32), [tokens, tokens[:5]])
    assert value == pytest.approx(7.0)
    assert counted == 299 + 4


def test_negative_log_likelihood_by_hand() -> None:
    """Two tokens predicted with probabilities 3/4 and 1/8; the first token and the last logits do not count."""
    logits = np.log(np.array([[3, 1, 0.0001], [1, 6, 1], [1, 1, 1000]], np.float32))
    logits[0, 2] = -np.inf
    assert negative_log_likelihood(logits, np.array([2, 0, 2])) == pytest.approx(-math.log(3 / 4) - math.log(1 / 8))


def test_large_logits_do_not_overflow() -> None:
    logits = np.array([[1000.0, 999.0], [0.0, 0.0]], np.float32)
    assert negative_log_likelihood(logits, np.array([0, 1])) == pytest.approx(1 + math.log1p(math.exp(-1)))


def test_slices_do_not_change_the_sum() -> None:
    random = np.random.default_rng(0)
    logits, tokens = random.normal(size=(260, 5)), random.integers(0, 5, 260)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = -sum(math.log(probabilities[i, tokens[i + 1]]) for i in range(259))
    assert negative_log_likelihood(logits, tokens) == pytest.approx(expected)


@pytest.fixture
def words(tmp_path: Path) -> Path:
    tokenizer = Tokenizer(WordLevel({"a": 0, "b": 1, "c": 2}, unk_token="a"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_windows_lie_end_to_end(words: Path) -> None:
    assert [w.tolist() for w in windows_of(words, "a b c a b c a", 2, 3)] == [[0, 1, 2], [0, 1, 2]]


def test_a_short_text_is_refused(words: Path) -> None:
    with pytest.raises(EdgeSkipError, match="has 7 tokens, not 4 × 2"):
        windows_of(words, "a b c a b c a", 4, 2)


@pytest.mark.parametrize("made", [True, False])
def test_a_gguf_file_is_measured_like_a_folder(
    made: bool, words: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Uniform logits over three words; a file that EdgeSkip did not make has no manifest."""
    file = words / "some.gguf"
    file.touch()
    opened: list[Path] = []

    class FakeSession:
        tokenizer = TextTokenizer(words)
        label = "lossy-skip" if made else "dense"
        plan = PlanSummary(method="io", compensation="scale", skip=["attn.1"], num_blocks=2) if made else None
        manifest = None

        def __enter__(self) -> FakeSession:
            return self

        def __exit__(self, *exception: object) -> None: ...

        def logits(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
            return np.zeros((len(tokens), 3), np.float32)

    monkeypatch.setattr(edgeskip, "load", lambda path, **_: (opened.append(path), FakeSession())[1])
    (words / "wikitext2_test.txt").write_text("a b c a b c a")
    perplexity_table.perplexity_table(
        rows="", artifact=[f"it={file}"], data=words, windows=2, window_tokens=3, json_file=words / "out.json"
    )
    assert opened == [file, file]
    assert f"| it | {FakeSession.label} |  | 3.000 |" in capsys.readouterr().out
    (result,) = json.loads((words / "out.json").read_text())["data"]
    assert (result["tokens"], result["skipped"]) == (4, 1 if made else 0)


def test_rows_through_both_targets(
    words: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which exports are asked for; perplexities are those of a fake measurement."""
    asked: list[tuple[str, str, str]] = []

    def export(model: str, plan: Path, out: Path, *, precision: str, arguments: list[str]) -> None:
        asked.append((out.name, precision, " ".join(arguments)))
        if "gguf" in arguments:
            out.touch()
        else:
            out.mkdir()

    def measure(name: str, path: Path, batches: object, threads: int, expected: tuple[int, Any]) -> Result:
        value = 10.0 + expected[0] + (0.5 if path.suffix == ".gguf" else 0)
        return Result(name, "lossy-skip" if expected[0] else "dense", value, 4, *expected)

    monkeypatch.setattr(perplexity_table, "model_folder", lambda model, work: words)
    monkeypatch.setattr(perplexity_table, "planned", lambda *_, **__: Path("plan.json"))
    monkeypatch.setattr(perplexity_table, "exported", export)
    monkeypatch.setattr(perplexity_table, "measured", measure)
    monkeypatch.setattr(perplexity_table, "windows_of", lambda *_: [np.arange(4)])
    (words / "wikitext2_test.txt").write_text("a")
    perplexity_table.perplexity_table(
        target="onnx,gguf", rows="0,4", profile="p.json", data=words, work=words, export_argument=["--no-check"]
    )
    assert asked[:2] == [
        ("onnx-fp32-dense", "fp32", "--target onnx --no-check"),
        ("gguf-keep-dense.gguf", "keep", "--target gguf --no-check"),
    ]
    assert len(asked) == 8
    assert not list(words.glob("*gguf*"))  # not kept
    assert not list(words.glob("*dense*"))
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| sublayers skipped (lossy-skip), onnx | none | scale | affine |",
        "| --- | --- | --- | --- |",
        "| 4 | 14.00 | 14.00 | 14.00 |",
        "",
        "| sublayers skipped (lossy-skip), gguf | none | scale | affine |",
        "| --- | --- | --- | --- |",
        "| 4 | 14.50 | 14.50 | 14.50 |",
        "",
        "| gguf / onnx | none | scale | affine |",
        "| --- | --- | --- | --- |",
        "| 4 | 1.0357 | 1.0357 | 1.0357 |",
        "",
        "| artifact | label | precision | perplexity |",
        "| --- | --- | --- | --- |",
        "| onnx-fp32-dense | dense |  | 10.000 |",
        "| gguf-keep-dense | dense |  | 10.500 |",
        "| dense, gguf / onnx |  |  | 1.0500 |",
    ]


@pytest.mark.parametrize("target", ["", "tflite", "onnx,onyx"])
def test_an_unknown_target_is_refused(target: str) -> None:
    with pytest.raises(EdgeSkipError, match="write onnx, gguf or onnx,gguf"):
        perplexity_table.perplexity_table(target=target)


def test_labels_are_checked() -> None:
    check_label("dense", [], "none", (0, "none"))
    check_label("lossy-skip", ["attn.3"], "scale", (1, "scale"))
    with pytest.raises(EdgeSkipError, match="skips 1 sublayers is labelled 'dense'"):
        check_label("dense", ["attn.3"], "scale", None)
    with pytest.raises(EdgeSkipError, match="asked to skip"):
        check_label("lossy-skip", ["attn.3"], "scale", (1, "affine"))


def genai_model(folder: Path, table: NDArray[np.float32], *, pruned: bool) -> Path:
    """A bigram model in genai's layout: logits of a token are its row of `table`."""
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["all"])]
    last = [numpy_helper.from_array(np.array([-1]), "last")] if pruned else []
    nodes.append(
        helper.make_node("Gather", ["all", "last"], ["logits"], axis=1)
        if pruned
        else helper.make_node("Identity", ["all"], ["logits"])
    )
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "bigram",
        [
            info("input_ids", TensorProto.INT64, [1, "n"]),
            info("attention_mask", TensorProto.INT64, [1, "total"]),
            info("past_key_values.0.key", TensorProto.FLOAT, [1, 2, "past", 4]),
        ],
        [info("logits", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(table, "table"), *last],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "m.onnx")
    decoder = {"filename": "m.onnx", "num_key_value_heads": 2, "head_size": 4}
    (folder / "genai_config.json").write_text(json.dumps({"model": {"decoder": decoder}}))
    return folder


def test_genai_graph_is_run_on_an_empty_cache(tmp_path: Path) -> None:
    table = np.log(np.array([[1, 3], [1, 1]], np.float32))
    value, counted = perplexity(genai_logits(genai_model(tmp_path, table, pruned=False), 1), [np.array([0, 1, 0])])
    assert value == pytest.approx(math.exp(-(math.log(3 / 4) + math.log(1 / 2)) / 2))
    assert counted == 2


def test_a_pruned_genai_graph_is_refused(tmp_path: Path) -> None:
    logits = genai_logits(genai_model(tmp_path, np.zeros((2, 2), np.float32), pruned=True), 1)
    with pytest.raises(EdgeSkipError, match="without prune_lm_head"):
        logits(np.array([0, 1, 0]))


def test_table() -> None:
    made = [
        Result("fp32-dense", "dense", 23.481, 10, precision="fp32"),
        *(
            Result(f"{count}{c}", "lossy-skip", count + i, 10, count, c, "fp32")
            for count in (8, 4)
            for i, c in enumerate(("none", "scale", "affine"))
            if (count, c) != (8, "scale")
        ),
    ]
    given = [Result("mine", "lossy-skip", 30.0, 10, 4, "affine", "int4")]
    text = "\n\n".join(table.markdown() for table in tables_of(made, given) if table.rows)
    assert text.splitlines() == [
        "| sublayers skipped (lossy-skip) | none | scale | affine |",
        "| --- | --- | --- | --- |",
        "| 4 | 4.00 | 5.00 | 6.00 |",
        "| 8 | 8.00 |  | 10.00 |",
        "",
        "| artifact | label | precision | perplexity |",
        "| --- | --- | --- | --- |",
        "| fp32-dense | dense | fp32 | 23.481 |",
        "| mine | lossy-skip | int4 | 30.000 |",
    ]


@pytest.mark.parametrize("argument", ["folder", "=folder"])
def test_an_artifact_needs_a_name(argument: str) -> None:
    with pytest.raises(EdgeSkipError, match="write NAME=PATH"):
        perplexity_table.perplexity_table(rows="", artifact=[argument])
