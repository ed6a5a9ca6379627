"""Arrays from bytes that are not believed. Oracle: what the safetensors library wrote, and torch's types beside it."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from safetensors.numpy import save

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.safetensors_bytes import read_arrays
from edgeskip.models.readers.lora import unpack_files, unpack_lora

ARRAYS = {"a": np.arange(6, dtype=np.float16).reshape(2, 3), "b": np.ones(2, np.int64)}


def typed(name: str) -> bytes:
    """A file whose only array is of the type `name`, two bytes an element."""
    header = json.dumps({"a": {"dtype": name, "shape": [2], "data_offsets": [0, 4]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(4)


def test_what_was_written() -> None:
    arrays, metadata = read_arrays(save(ARRAYS, metadata={"k": "v"}))
    assert metadata == {"k": "v"}
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype == array.dtype
    assert read_arrays(save(ARRAYS))[1] == {}


@pytest.mark.parametrize("data", [b"", b"\0" * 8, save(ARRAYS)[:-1], typed("F7"), b"\xff" * 100])
def test_what_is_none(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        read_arrays(data)


def test_a_type_that_numpy_has_not() -> None:
    assert read_arrays(typed("F16"))[0]["a"].tolist() == [0, 0]
    with pytest.raises(ValueError, match="an array is of type BF16"):
        read_arrays(typed("BF16"))


@pytest.mark.parametrize("read", [unpack_lora, unpack_files])
def test_a_lora_of_such_a_type(read: Callable[[bytes, str], object]) -> None:
    with pytest.raises(EdgeSkipError, match=r"^x is not the LoRA of a profile \(an array is of type BF16"):
        read(typed("BF16"), "x")
