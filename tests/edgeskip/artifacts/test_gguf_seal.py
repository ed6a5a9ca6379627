"""The digest in a GGUF's header. Oracle: sha256 of the header's bytes with the digest's 64 replaced by zeros, by hand;
any byte of the header changed breaks it, and other tools (the gguf package, llama.cpp's quantiser) read the file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import gguf
import numpy as np
import pytest
from raw_gguf import STRING, RawGguf
from talking_gguf import talking_gguf

from edgeskip.artifacts.gguf.header import read_header_bytes
from edgeskip.artifacts.gguf.seal import SEAL_KEY, UNSEALED, is_sealed, seal_gguf
from edgeskip.core.errors import EdgeSkipError


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = RawGguf.read(talking_gguf(tmp_path_factory.mktemp("sealed") / "x.gguf")[0])
    file.set(SEAL_KEY, STRING, UNSEALED)
    path = file.write(tmp_path_factory.mktemp("sealed") / "x.gguf")
    seal_gguf(path)
    return path


def test_the_digest_is_what_it_says(sealed: Path) -> None:
    header, data = read_header_bytes(sealed)
    assert is_sealed(header, data)
    digest = header.metadata[SEAL_KEY]
    whole = sealed.read_bytes()
    assert data == whole[: len(data)]
    begin = whole.index(digest.encode())
    assert hashlib.sha256(data[:begin] + b"0" * 64 + data[begin + 64 :]).hexdigest() == digest
    # All of the header is covered: after it come the padding and the first tensor, at the gguf package's place.
    first = min(tensor.data_offset for tensor in gguf.GGUFReader(sealed).tensors)
    assert first - 32 < len(data) <= first


def test_sealing_again_changes_nothing(sealed: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(sealed.read_bytes())
    seal_gguf(path)
    assert path.read_bytes() == sealed.read_bytes()


def test_any_changed_byte_of_the_header_breaks_it(sealed: Path, tmp_path: Path) -> None:
    whole, path = sealed.read_bytes(), tmp_path / "x.gguf"
    length = read_header_bytes(sealed)[0].num_bytes
    random = np.random.default_rng(0)
    readable = 0
    for at in random.integers(length, size=300):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            assert not is_sealed(*read_header_bytes(path))
        except EdgeSkipError:
            continue
        readable += 1
    assert readable > 50


def test_a_file_without_the_key_is_left_alone(tmp_path: Path) -> None:
    path = talking_gguf(tmp_path / "x.gguf")[0]
    before = path.read_bytes()
    seal_gguf(path)
    assert path.read_bytes() == before
    assert not is_sealed(*read_header_bytes(path))


@pytest.mark.parametrize("value", ["", "0" * 63, UNSEALED, "f" * 64, "é" * 32])
def test_another_text_under_the_key_is_no_digest(value: str, sealed: Path, tmp_path: Path) -> None:
    file = RawGguf.read(sealed)
    file.set(SEAL_KEY, STRING, value)
    assert not is_sealed(*read_header_bytes(file.write(tmp_path / "x.gguf")))
