"""A digest of a GGUF's header in one of its keys: distinguishes a file that EdgeSkip wrote from one that was changed
since.

It covers every key, its own value taken as zeros, and every tensor's name, type, shape and place; not the weights,
whose bytes cannot end llama.cpp. It is not a signature: whoever changes a file on purpose can compute it anew.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from edgeskip.artifacts.gguf.header import GgufHeader, read_header_bytes

SEAL_KEY = "edgeskip.header_sha256"
UNSEALED = "0" * 64  # what the key holds until the file is whole


def seal_gguf(path: Path) -> None:
    """Write the digest into the key of a finished file; nothing happens if the file has no such key.

    Raises:
        EdgeSkipError: if the file is no whole GGUF file.
    """
    header, data = read_header_bytes(path)
    place = _place(header)
    if place is None:
        return
    with path.open("r+b") as file:
        file.seek(place)
        file.write(_digest(data, place).encode())


def is_sealed(header: GgufHeader, data: bytes) -> bool:
    """Return whether the header is as EdgeSkip wrote it.

    Args:
        header: as read from `data`.
        data: the header's bytes (`read_header_bytes`).
    """
    place = _place(header)
    return place is not None and header.metadata[SEAL_KEY] == _digest(data, place)


def _place(header: GgufHeader) -> int | None:
    begin, end = header.texts.get(SEAL_KEY, (0, 0))
    return begin if end - begin == len(UNSEALED) else None


def _digest(data: bytes, place: int) -> str:
    blanked = data[:place] + UNSEALED.encode() + data[place + len(UNSEALED) :]
    return hashlib.sha256(blanked).hexdigest()
