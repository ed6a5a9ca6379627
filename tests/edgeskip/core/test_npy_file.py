"""Arrays whose header lies. Oracle: numpy's own writer for good files, headers damaged by hand for bad ones."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.npy_file import read_npy, read_token_ids


def stored(array: object, **options: object) -> bytes:
    data = io.BytesIO()
    np.save(data, np.asarray(array), **options)  # type: ignore[arg-type]
    return data.getvalue()


def with_header(header: str, body: bytes = b"\0" * 16, told: int | None = None) -> bytes:
    text = header.encode("latin-1")
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) if told is None else told) + text + body


def good(descr: str = "<i4", shape: str = "(4,)", order: str = "False") -> str:
    return f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n"


@pytest.mark.parametrize("dtype", ["<i4", "<i8", ">i4", "|u1", "<u8"])
def test_good_files(dtype: str, tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.array([5, 0, 3], dtype))
    ids = read_token_ids(path, 6)
    assert (ids.dtype, ids.tolist()) == (np.int64, [5, 0, 3])


def test_order_and_dimensions(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    for array in (np.arange(6.0).reshape(2, 3), np.asfortranarray(np.arange(6.0).reshape(2, 3))):
        np.save(path, array)
        np.testing.assert_array_equal(read_npy(path, "f", dimensions=2), array)


BAD = {
    "empty": b"",
    "no header": b"\x93NUMPY",
    "text": b"0 1 2\n",
    "not closed": with_header("{'descr': '<i4', 'shape': (4,"),
    "deep": with_header("(" * 5000 + ")" * 5000),
    "code": with_header("__import__('os').abort()"),
    "other keys": with_header("{'a': 1}\n"),
    "a pickle": stored([{}], allow_pickle=True),
    "10**12 of them": with_header(good(shape="(1000000000000,)")),
    "2**64 of them": with_header(good(shape="(18446744073709551616,)")),
    "less than none": with_header(good(shape="(-1,)")),
    "a fraction": with_header(good(shape="(1.5,)")),
    "true": with_header(good(shape="(True,)")),
    "cut": stored(np.arange(9))[:-3],
    "longer": stored(np.arange(9)) + b"\0",
    "a header beyond the file": with_header(good(), told=60_000),
    "a type that is none": with_header(good("<i999")),
    "floats": stored([0.0, 1.0]),
    "booleans": stored([True]),
    "times": stored(np.array([1], "<m8[s]")),
    "words": stored(["a"]),
    "records": stored(np.zeros(2, [("a", "<i4")])),
    "2-D": stored([[1, 2]]),
    "0-D": stored(3),
    "none": stored(np.zeros(0, np.int32)),
    "negative": stored([-1]),
    "beyond the vocabulary": stored([6]),
    "beyond int64": stored(np.array([2**63], np.uint64)),
    "one twice": stored([3, 3]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(BAD[name])
    with pytest.raises(EdgeSkipError, match=r"x\.npy is damaged \(.*\): export again") as caught:
        read_token_ids(path, 6)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value).removeprefix(str(path))) < 160
