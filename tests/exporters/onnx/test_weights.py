"""The external data file. Oracle: its bytes, read back at the offsets that the references name."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes  # noqa: F401  (before onnx_ir, which registers its types)
import numpy as np
import onnx_ir as ir
import pytest

from edgeskip.exporters.onnx.weights import ALIGNMENT, SMALL, WeightFile


def test_offsets_bytes_and_alignment(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = [
        rng.normal(size=(3, 5)).astype(np.float32),
        rng.integers(0, 255, size=(7,)).astype(np.uint8),
        rng.normal(size=(SMALL // 4 + 1,)).astype(np.float32),  # large
        np.arange(4, dtype=np.int64),
        rng.normal(size=(1024, 1024)).astype(np.float16).T,  # large, not in C order
    ]
    with WeightFile(tmp_path, "w.data") as file:
        tensors = [file.add(f"t{i}", array) for i, array in enumerate(arrays)]
    data = (tmp_path / "w.data").read_bytes()
    end = 0
    for array, tensor in zip(arrays, tensors, strict=True):
        assert tensor.offset is not None
        assert tensor.length == array.nbytes
        assert tensor.offset >= end
        end = tensor.offset + array.nbytes
        assert data[tensor.offset : end] == np.ascontiguousarray(array).tobytes()
        assert tensor.offset % (ALIGNMENT if array.nbytes >= SMALL else 64) == 0
        np.testing.assert_array_equal(tensor.numpy(), array)
    assert len(data) == end
    assert len(data) < sum(array.nbytes for array in arrays) + 3 * ALIGNMENT


def test_an_alias_shares_bytes(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(4, 6)
    with WeightFile(tmp_path, "w.data") as file:
        first = file.add("table", array)
        second = file.alias("blocks", first, (4, 3, 2))
    assert (first.offset, first.length, first.location) == (second.offset, second.length, second.location)
    assert second.name == "blocks"
    assert second.dtype == ir.DataType.UINT8
    np.testing.assert_array_equal(second.numpy(), array.reshape(4, 3, 2))
    assert (tmp_path / "w.data").stat().st_size == array.nbytes


def test_what_several_graphs_share(tmp_path: Path) -> None:
    """The first maker of a name is asked, later ones are not; what is tiny is in no file."""
    calls: list[str] = []

    def make(name: str, size: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        calls.append(name)
        return np.arange(size, dtype=np.float32)

    with WeightFile(tmp_path, "w.data") as file:
        tensors = [file.once(name, lambda n=name, s=size: make(n, s)) for name, size in [("a", 512), ("b", 4)] * 2]
        blocks = file.alias("blocks", tensors[1], (2, 2))
    assert calls == ["a", "b"]
    assert tensors[0] is tensors[2]
    assert isinstance(tensors[0], ir.ExternalTensor)
    assert not isinstance(tensors[1], ir.ExternalTensor)
    np.testing.assert_array_equal(blocks.numpy(), [[0, 1], [2, 3]])
    assert (tmp_path / "w.data").stat().st_size == 512 * 4


def test_the_file_is_named_without_its_folder(tmp_path: Path) -> None:
    """An absolute location would break the artifact when it is moved, and runtimes refuse it."""
    with WeightFile(tmp_path, "w.data") as file:
        assert file.add("t", np.zeros(4, np.float32)).location == "w.data"


def test_closed_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="mine"), WeightFile(tmp_path, "w.data") as file:
        raise RuntimeError("mine")
    with pytest.raises(ValueError, match="closed"):
        file.add("t", np.zeros(4, np.float32))
