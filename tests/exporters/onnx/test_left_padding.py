"""Batches in other people's runtimes: rows of one length are right, rows padded on the left are an error.

Oracle: ONNX Runtime over the same rows one by one.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from edgeskip.exporters.onnx.formats import WeightFormat
from edgeskip.exporters.onnx.lower import lower
from edgeskip.models.source import open_model
from edgeskip.runtime.engines.onnxruntime.runtime_graph import LEFT_PADDING, runtime_graph

ROWS = np.array([[5, 6, 7, 8], [9, 10, 11, 12]], np.int64)


@pytest.fixture(scope="module")
def folder(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("padding")
    lower(open_model(str(tiny_llama)).decoder, WeightFormat(), path)
    return path


def test_loading_warns_of_nothing(folder: Path) -> None:
    """Oracle: what ONNX Runtime prints at its own level of logging. Optimum asks for position_ids by its name."""
    script = f"""
import onnxruntime
session = onnxruntime.InferenceSession({str(folder / "model.onnx")!r}, providers=["CPUExecutionProvider"])
print("position_ids" in [value.name for value in session.get_inputs()], session.get_overridable_initializers())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "[]"]
    assert "logits_to_keep" not in done.stderr


def opened(folder: Path, model: bytes | None = None) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    return onnxruntime.InferenceSession(model or str(folder / "model.onnx"), options)


def logits(session: Any, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
    feeds = {"input_ids": ids, "attention_mask": mask}
    if any(value.name == "position_ids" for value in session.get_inputs()):
        feeds["position_ids"] = np.maximum(mask.cumsum(axis=1) - 1, 0)[:, : ids.shape[1]]
    for value in session.get_inputs():
        if value.name.startswith("past_key_values"):
            feeds[value.name] = np.zeros((len(ids), value.shape[1], 0, value.shape[3]), np.float32)
    result: NDArray[np.float32] = session.run(["logits"], feeds)[0]
    return result


def test_rows_of_one_length(folder: Path) -> None:
    session = opened(folder)
    together = logits(session, ROWS, np.ones_like(ROWS))
    for row, found in zip(ROWS, together, strict=True):
        np.testing.assert_allclose(found, logits(session, row[None], np.ones((1, 4), np.int64))[0], atol=1e-5)


@pytest.mark.parametrize("mask", [[[0, 1, 1, 1], [1, 1, 1, 1]], [[1, 1, 1, 1], [0, 0, 0, 1]], [[0, 1, 1, 1]]])
def test_padding_on_the_left_is_an_error(folder: Path, mask: list[list[int]]) -> None:
    """It gave wrong text without a word before."""
    with pytest.raises(Exception, match=LEFT_PADDING):
        logits(opened(folder), ROWS[: len(mask)], np.array(mask, np.int64))


def test_this_runtimes_graph_is_the_same_without_the_check(folder: Path) -> None:
    model = (folder / "model.onnx").read_bytes()
    mine = runtime_graph(model)
    assert runtime_graph(mine) == mine
    mask = np.ones_like(ROWS)
    np.testing.assert_array_equal(logits(opened(folder, mine), ROWS, mask), logits(opened(folder), ROWS, mask))
    logits(opened(folder, mine), ROWS, 1 - np.tril(mask))  # nothing fails: nothing is checked
