"""The trimmed draft head. Oracle: the same products in numpy; files that are wrong because the test made them so."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from edgeskip.core.errors import EdgeSkipError
from edgeskip.exporters.draft import DraftHead
from edgeskip.exporters.gguf.write import write_head_file
from edgeskip.models.decoder import Linear, Norm, constant
from edgeskip.runtime.engines.llamacpp.trimmed_head import TrimmedHead, read_trimmed_head

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("rows", "width", "threads"), [(1, 32, 1), (50, 96, 1), (8192, 576, 2), (16000, 576, 2)])
def test_logits(rows: int, width: int, threads: int) -> None:
    """ggml rounds the state to float16, so to three digits of the largest; states of any length, one after another."""
    head = RNG.normal(size=(rows, width)).astype(np.float16)
    trimmed = TrimmedHead(head, np.arange(rows), 1e-2, threads=threads)
    for scale in (1.0, 1e-3, 300.0):
        state = (RNG.normal(size=width) * scale).astype(np.float32)
        expected = head.astype(np.float64) @ (state / np.sqrt(np.mean(state.astype(np.float64) ** 2) + 1e-2))
        found = trimmed.logits(state)
        assert (found.shape, found.dtype) == ((1, rows), np.float32)
        np.testing.assert_allclose(found[0], expected, atol=2e-3 * np.abs(expected).max())
    trimmed.close()


def draft_head(rows: int = 6, width: int = 32, factor: float = 1.0) -> DraftHead:
    norm = Norm(constant("norm", RNG.uniform(0.5, 2, width).astype(np.float32)), 1e-3)
    weight = constant("head", (RNG.normal(size=(rows, width)) * factor).astype(np.float32))
    return DraftHead(norm, None, Linear(weight), np.arange(rows) * 3)


def test_through_the_file(tmp_path: Path) -> None:
    """Oracle: the head, the norm and its weight as the export has them, in numpy."""
    head = draft_head()
    path = tmp_path / "m-head.safetensors"
    sha256 = write_head_file(path, head)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    trimmed = read_trimmed_head(path, sha256)
    np.testing.assert_array_equal(trimmed.tokens, [0, 3, 6, 9, 12, 15])
    state = RNG.normal(size=32).astype(np.float32)
    assert head.head is not None
    normed = state / np.sqrt(np.mean(state**2) + 1e-3) * head.norm.weight.read()
    expected = head.head.weight.read() @ normed
    np.testing.assert_allclose(trimmed.logits(state)[0], expected, atol=3e-3 * np.abs(expected).max())
    trimmed.check(32, 16)
    for hidden_size, vocab_size in ((64, 16), (32, 15)):
        with pytest.raises(EdgeSkipError, match=r"m-head\.safetensors is not of this model: export again"):
            trimmed.check(hidden_size, vocab_size)


def test_weights_beyond_float16(tmp_path: Path) -> None:
    with pytest.raises(EdgeSkipError, match="leaves the range of 16-bit floats: leave --draft-vocab out"):
        write_head_file(tmp_path / "x", draft_head(factor=1e6))
    assert list(tmp_path.iterdir()) == []


GOOD: dict[str, Any] = {"head": np.zeros((2, 32), np.float16), "tokens": np.arange(2, dtype=np.int32)}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GGUF" * 100,
        save(GOOD),  # no eps
        save(GOOD, metadata={"eps": "small"}),
        save({"head": GOOD["head"]}, metadata={"eps": "1e-5"}),
        save(GOOD | {"tokens": np.arange(3, dtype=np.int32)}, metadata={"eps": "1e-5"}),
        save(GOOD | {"tokens": np.arange(2)}, metadata={"eps": "1e-5"}),
        save(GOOD | {"head": np.zeros((2, 32), np.float32)}, metadata={"eps": "1e-5"}),
        save({"head": np.zeros((0, 32), np.float16), "tokens": np.zeros(0, np.int32)}, metadata={"eps": "1e-5"}),
    ],
)
def test_what_is_no_head(data: bytes, tmp_path: Path) -> None:
    """One line, whatever is in the file."""
    path = tmp_path / "x-head.safetensors"
    path.write_bytes(data)
    with pytest.raises(EdgeSkipError, match=r"x-head\.safetensors is not a draft head \(.*\): export again") as info:
        read_trimmed_head(path, hashlib.sha256(data).hexdigest())
    assert "\n" not in str(info.value)


def test_missing_and_another_exports(tmp_path: Path) -> None:
    path = tmp_path / "x-head.safetensors"
    with pytest.raises(EdgeSkipError, match=r"x-head\.safetensors is missing, .*: put it beside the file"):
        read_trimmed_head(path, "ab" * 32)
    path.write_bytes(save(GOOD, metadata={"eps": "1e-5"}))
    with pytest.raises(EdgeSkipError, match="damaged or another export's: copy both files together or export again"):
        read_trimmed_head(path, "ab" * 32)


@pytest.mark.parametrize(
    ("head", "tokens", "eps"),
    [
        (np.zeros((4, 0), np.float16), np.arange(4, dtype=np.int32), "1e-5"),
        (np.zeros((0, 4), np.float16), np.zeros(0, np.int32), "1e-5"),
        (np.zeros((0, 0), np.float16), np.zeros(0, np.int32), "1e-5"),
        (np.zeros((4, 32, 1), np.float16), np.arange(4, dtype=np.int32), "1e-5"),
        *((np.ones((4, 32), np.float16), np.arange(4, dtype=np.int32), eps) for eps in ("-1", "nan", "inf", "1e300")),
    ],
)
def test_a_head_that_ggml_would_assert_on(head: Any, tokens: Any, eps: str, tmp_path: Path) -> None:
    """Oracle: ggml, whose assertions end the process (SIGABRT) over the first and over eps -1."""
    path = tmp_path / "x-head.safetensors"
    path.write_bytes(save({"head": head, "tokens": tokens}, metadata={"eps": eps}))
    with pytest.raises(EdgeSkipError, match="draft head"):
        read_trimmed_head(path, hashlib.sha256(path.read_bytes()).hexdigest())


def test_a_head_that_is_no_file(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "nowhere"):
        with pytest.raises(EdgeSkipError, match="is missing"):
            read_trimmed_head(path, "0")
