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
from perplexity_table import Result, genai_logits, negative_log_likelihood, tables_of
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

import edgeskip
from edgeskip.core.errors import EdgeSkipError


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
    """A folder with a tokenizer of three words and a test text of seven."""
    tokenizer = Tokenizer(WordLevel({"a": 0, "b": 1, "c": 2}, unk_token="a"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "wikitext2_test.txt").write_text("a b c a b c a")
    return tmp_path


def test_artifacts_are_measured_as_eval_does(
    tiny_early_exit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: the session's own logits, window by window."""
    text = "The quick brown fox jumps over the lazy dog. " * 8
    (tmp_path / "wikitext2_test.txt").write_text(text)
    options: dict[str, Any] = {"windows": 2, "window_tokens": 16, "threads": 1}
    perplexity_table.perplexity_table(
        rows="", artifact=[f"it={tiny_early_exit}"], data=tmp_path, json_file=tmp_path / "out.json", **options
    )
    with edgeskip.load(tiny_early_exit, threads=1) as session:
        ids = np.array(session.tokenizer.encode(text, add_special_tokens=False))
        nats = [negative_log_likelihood(session.logits(one), one) for one in (ids[:16], ids[16:32])]
    expected = math.exp(sum(nats) / 30)
    (result,) = json.loads((tmp_path / "out.json").read_text())["data"]
    assert (result["perplexity"], result["tokens"]) == (pytest.approx(expected), 30)
    assert f"| it | dense | {expected:.3f} |" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [False, True])
def test_rows_through_both_targets(
    words: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wrong: bool
) -> None:
    """Which exports are asked for; perplexities are those of a fake measurement. A wrong label ends it."""
    asked: list[tuple[str, str, str]] = []

    def export(model: str, plan: Path, out: Path, *, precision: str, arguments: list[str]) -> None:
        asked.append((out.name, precision, " ".join(arguments)))
        if "gguf" in arguments:
            out.touch()
        else:
            out.mkdir()

    def measure(path: Path, data: Path, settings: object) -> tuple[str, float, int]:
        skipped = 0 if "dense" in path.name else 4
        label = "dense" if not skipped or wrong else "lossy-skip"
        return label, 10.0 + skipped + (0.5 if path.suffix == ".gguf" else 0), 4

    monkeypatch.setattr(perplexity_table, "model_folder", lambda model, work: words)
    monkeypatch.setattr(perplexity_table, "planned", lambda *_, **__: Path("plan.json"))
    monkeypatch.setattr(perplexity_table, "exported", export)
    monkeypatch.setattr(perplexity_table, "measured", measure)
    options: dict[str, Any] = {"rows": "0,4", "profile": "p.json", "data": words, "work": words}
    if wrong:
        with pytest.raises(EdgeSkipError, match="onnx-fp32-skip4-none is labelled 'dense'"):
            perplexity_table.perplexity_table(**options)
        return
    perplexity_table.perplexity_table(target="onnx,gguf", export_argument=["--no-check"], **options)
    assert asked[:2] == [
        ("onnx-fp32-dense", "fp32", "--target onnx --no-check"),
        ("gguf-keep-dense.gguf", "keep", "--target gguf --no-check"),
    ]
    assert len(asked) == 8
    assert not list(words.glob("*gguf*"))  # not kept
    assert not list(words.glob("*dense*"))
    assert [line for line in capsys.readouterr().out.splitlines() if "|" in line and "---" not in line] == [
        "| sublayers skipped (lossy-skip), onnx | none | scale | affine |",
        "| 4 | 14.00 | 14.00 | 14.00 |",
        "| sublayers skipped (lossy-skip), gguf | none | scale | affine |",
        "| 4 | 14.50 | 14.50 | 14.50 |",
        "| gguf / onnx | none | scale | affine |",
        "| 4 | 1.0357 | 1.0357 | 1.0357 |",
        "| artifact | label | perplexity |",
        "| onnx-fp32-dense | dense | 10.000 |",
        "| gguf-keep-dense | dense | 10.500 |",
        "| dense, gguf / onnx |  | 1.0500 |",
    ]


@pytest.mark.parametrize("target", ["", "tflite", "onnx,onyx"])
def test_an_unknown_target_is_refused(target: str) -> None:
    with pytest.raises(EdgeSkipError, match="write onnx, gguf or onnx,gguf"):
        perplexity_table.perplexity_table(target=target)


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


def test_genai_graph_is_run_on_an_empty_cache(words: Path) -> None:
    """The text is a b c a b c a; a bigram's probabilities by hand over two windows of three words."""
    table = np.log(np.array([[1, 3, 0.0001], [1, 1, 2], [1, 1, 1]], np.float32))
    folder = genai_model(words, table, pruned=False)
    settings = perplexity_table.EvalSettings(windows=2, window_tokens=3, threads=1)
    value, counted = perplexity_table.genai_perplexity(folder, words, settings)
    assert value == pytest.approx(math.exp(-(math.log(3 / 4) + math.log(1 / 2)) / 2), rel=1e-3)
    assert counted == 4


def test_a_pruned_genai_graph_is_refused(tmp_path: Path) -> None:
    logits = genai_logits(genai_model(tmp_path, np.zeros((2, 2), np.float32), pruned=True), 1)
    with pytest.raises(EdgeSkipError, match="without prune_lm_head"):
        logits(np.array([0, 1, 0]))


def test_table() -> None:
    made = [
        Result("fp32-dense", "dense", 23.481, 10, "onnx"),
        *(
            Result(f"{count}{c}", "lossy-skip", count + i, 10, "onnx", count, c)
            for count in (8, 4)
            for i, c in enumerate(("none", "scale", "affine"))
            if (count, c) != (8, "scale")
        ),
    ]
    by_plan, ratios, rest = tables_of(made, [Result("mine", "lossy-skip", 30.0, 10)])
    assert by_plan.rows == [["4", "4.00", "5.00", "6.00"], ["8", "8.00", "", "10.00"]]
    assert ratios.rows == []
    assert rest.rows == [["fp32-dense", "dense", "23.481"], ["mine", "lossy-skip", "30.000"]]


@pytest.mark.parametrize("argument", ["folder", "=folder"])
def test_an_artifact_needs_a_name(argument: str) -> None:
    with pytest.raises(EdgeSkipError, match="write NAME=PATH"):
        perplexity_table.perplexity_table(rows="", artifact=[argument])
