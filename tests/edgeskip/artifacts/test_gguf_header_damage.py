"""Headers that promise what is not there: refused in one line, at once, without taking memory for it.

Oracle: the specification (ggml's docs/gguf.md) and llama.cpp's own reader, which refuses each of these as well
(tests/raw_llamacpp.py); the system's count of time and memory.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from raw_gguf import ARRAY, BOOL, F32, I32, STRING, U8, U32, U64, RawArray, RawGguf, RawKey, RawTensor, text
from raw_llamacpp import outcomes
from talking_gguf import talking_gguf

from edgeskip.artifacts.gguf.header import read_gguf_header
from edgeskip.artifacts.gguf.inspection import inspect_gguf
from edgeskip.core.errors import EdgeSkipError

Change = Callable[[RawGguf], None]


def array(element: int, values: list[object], length: int | None = None) -> Change:
    return lambda file: file.set("x.array", ARRAY, RawArray(element, values, length))


def tensor(**fields: object) -> Change:
    return lambda file: file.change_tensor("blk.1.ffn_up.weight", **fields)


def counts(**numbers: int) -> Change:
    return lambda file: file.__dict__.update(numbers)


def key(name: bytes, kind: int, value: object) -> Change:
    return lambda file: file.keys.append(RawKey(name, kind, value))


DAMAGE: dict[str, tuple[Change, str]] = {
    **{
        f"{length} texts": (array(STRING, [b"a"], length), "promises more")
        for length in (2**31, 2**40, 2**61, 2**63, 2**64 - 1)
    },
    **{
        f"{length} numbers of {element}": (array(element, [1], length), "promises more")
        for element in (U8, I32, U64)
        for length in (2**31, 2**40, 2**61, 2**64 - 1)
    },
    "an array of arrays": (array(ARRAY, [RawArray(U8, [1])]), "an array of arrays"),
    "arrays a thousand deep": (
        lambda file: key(b"x.deep", ARRAY, RawArray(ARRAY, [RawArray(ARRAY, [RawArray(U8, [])])]))(file),
        "an array of arrays",
    ),
    "an array of no type": (lambda file: key(b"x.array", ARRAY, b"\x63\0\0\0" + bytes(8))(file), "unknown type 99"),
    "a value of no type": (key(b"x.value", 77, b"\0" * 8), "unknown value type 77"),
    "a key twice": (key(b"llama.block_count", U32, 4), "twice"),
    "a key without a name": (key(b"", U32, 4), "no name"),
    "a text that is not UTF-8": (key(b"x.text", STRING, b"\xff\xfe"), "not UTF-8"),
    "a name that is not UTF-8": (key(b"x.\xff", U32, 1), "not UTF-8"),
    "texts that are not UTF-8": (array(STRING, [b"\xff"]), "not UTF-8"),
    **{f"{n} keys": (counts(num_keys=n), "promises more") for n in (2**32, 2**62, 2**64 - 1)},
    **{f"{n} tensors": (counts(num_tensors=n), "promises more") for n in (2**32, 2**62, 2**64 - 1)},
    "alignment 3": (key(b"general.alignment", U32, 3), "power of two"),
    "alignment 0": (key(b"general.alignment", U32, 0), "power of two"),
    "alignment of another type": (key(b"general.alignment", U64, 32), "power of two"),
    "alignment of a flag": (key(b"general.alignment", BOOL, True), "power of two"),
    "alignment of a fraction": (key(b"general.alignment", F32, 32.0), "power of two"),
    "a tensor of no elements": (tensor(dims=(0, 4)), "no elements"),
    "a tensor of 2**62 rows": (tensor(dims=(64, 2**62)), "beyond the end"),
    "a tensor of 2**63 columns": (tensor(dims=(2**63, 1)), "beyond the end"),
    "a tensor of five dimensions": (tensor(dims=(1,) * 5), "5 dimensions"),
    "a tensor of no type": (tensor(type=99), "type 99"),
    "a tensor of a type that is gone": (tensor(type=4), "type 4"),
    "a tensor of part of a block": (tensor(dims=(33, 2), type=8), "not a multiple of 32"),
    "a tensor over another": (tensor(offset=0), "expected"),
    "a tensor beyond the end": (tensor(offset=2**40), "beyond the end"),
    "a tensor that is not aligned": (tensor(offset=8), "expected"),
    "a tensor twice": (lambda file: file.tensors.append(file.tensors[0]), "one name"),
    "a tensor of 64 letters": (tensor(name=b"x" * 64), "64 bytes"),
    "no end": (lambda file: file.__dict__.update(data=file.data[:-64]), "beyond the end"),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return talking_gguf(tmp_path_factory.mktemp("sound") / "x.gguf", hidden_size=32)[0]


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_one_line_at_once(name: str, sound: Path, tmp_path: Path) -> None:
    change, said = DAMAGE[name]
    file = RawGguf.read(sound)
    change(file)
    path = file.write(tmp_path / "x.gguf")
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    for read in (read_gguf_header, inspect_gguf):
        with pytest.raises(EdgeSkipError) as caught:
            read(path)
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400
    assert time.process_time() - begin < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


def test_llamacpp_refuses_them_too(sound: Path, tmp_path: Path) -> None:
    """The oracle, all but what it takes: an array's or a name's bytes are any to it, a tensor may be empty."""
    taken = ("not UTF-8", "no elements")
    files = []
    for number, (change, said) in enumerate(DAMAGE.values()):
        if said not in taken:
            file = RawGguf.read(sound)
            change(file)
            files.append(file.write(tmp_path / f"{number}.gguf"))
    assert set(outcomes(files)) == {"refused"}


@pytest.mark.parametrize("what", ["keys", "texts", "tensors"])
def test_a_sparse_file_that_has_what_it_promises(what: str, sound: Path, tmp_path: Path) -> None:
    """A terabyte of zeros, none of which is on the disk: the bytes are there, and no reader may go through them."""
    file = RawGguf.read(sound)
    if what == "keys":
        file.num_keys, file.keys = 2**34, file.keys[:1]
    elif what == "texts":
        file.keys = [RawKey(b"tokenizer.ggml.tokens", ARRAY, RawArray(STRING, [], 2**34))]
    else:
        file.num_tensors, file.tensors = 2**34, []
    path = file.write(tmp_path / "x.gguf")
    with path.open("r+b") as sparse:
        sparse.truncate(1 << 40)
    begin = time.process_time()
    with pytest.raises(EdgeSkipError, match="entries"):
        inspect_gguf(path)
    assert time.process_time() - begin < 2


def test_a_header_of_gigabytes(tmp_path: Path) -> None:
    """One text of 2**35 bytes, sparse."""
    path = tmp_path / "x.gguf"
    name, no_tensors, one_key, length = (
        text(b"x.text"),
        bytes(8),
        (1).to_bytes(8, "little"),
        (2**35).to_bytes(8, "little"),
    )
    path.write_bytes(b"GGUF\x03\0\0\0" + no_tensors + one_key + name + STRING.to_bytes(4, "little") + length)
    with path.open("r+b") as sparse:
        sparse.truncate(1 << 40)
    with pytest.raises(EdgeSkipError, match="256 MiB"):
        inspect_gguf(path)


def test_cut_anywhere(sound: Path, tmp_path: Path) -> None:
    data, path = sound.read_bytes(), tmp_path / "x.gguf"
    for length in range(0, len(data), 997):
        path.write_bytes(data[:length])
        with pytest.raises(EdgeSkipError, match="not a whole GGUF file"):
            read_gguf_header(path)


def test_what_is_no_file(tmp_path: Path) -> None:
    """A named pipe would be waited for, for ever."""
    os.mkfifo(tmp_path / "pipe.gguf")
    for path in (tmp_path / "pipe.gguf", tmp_path, tmp_path / "nowhere.gguf"):
        with pytest.raises(EdgeSkipError, match=r"is not a file|cannot be read"):
            read_gguf_header(path)


def test_a_header_longer_than_what_is_read_at_first(sound: Path, tmp_path: Path) -> None:
    """Oracle: what was written."""
    file = RawGguf.read(sound)
    texts = [f"token {number} ".encode() * 20 for number in range(60_000)]
    file.keys.insert(3, RawKey(b"x.texts", ARRAY, RawArray(STRING, texts)))
    header = read_gguf_header(file.write(tmp_path / "x.gguf"))
    assert header.num_bytes > 12 << 20
    assert header.metadata["x.texts"] == [text.decode() for text in texts]
    plain = read_gguf_header(sound)
    assert {name: replace(t, offset=0) for name, t in header.tensors.items()} == {
        name: replace(t, offset=0) for name, t in plain.tensors.items()
    }


def test_a_scalar_is_a_tensor(sound: Path, tmp_path: Path) -> None:
    """Oracle: ggml's gguf.cpp, to which a dimension that is not there is 1; mmproj files have such tensors."""
    file = RawGguf.read(sound)
    file.tensors.append(RawTensor(b"v.scale", (), 0, len(file.data)))
    file.data += bytes(4)
    scalar = read_gguf_header(file.write(tmp_path / "x.gguf")).tensors["v.scale"]
    assert (scalar.shape, scalar.num_bytes) == ((1,), 4)
