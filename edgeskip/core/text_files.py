"""Text from outside, a file or standard input, to str: UTF-8, or what its byte order mark says; a mark is not text."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import BinaryIO

from edgeskip.core.errors import EdgeSkipError

MAX_BYTES = 1 << 30  # of a text; all of it is in memory, and no run reads more
_PIECE = 1 << 20
# UTF-32's mark begins as UTF-16's does.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def decode_text(data: bytes, name: str | Path) -> str:
    """Return the text of `data`, without a byte order mark; line ends stay as they are.

    Raises:
        Raises EdgeSkipError if it is not text; `name` is what the message calls it.
    """
    mark, encoding = next(((mark, encoding) for mark, encoding in _MARKS if data.startswith(mark)), (b"", "utf-8"))
    also = "" if encoding == "utf-8" else f", nor {encoding.upper()[:-3]} as its first bytes say"
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        place = f"byte {len(mark) + error.start}"
        raise EdgeSkipError(f"{name} is not UTF-8 text{also} ({place}): convert it, e.g. with iconv") from None
    if also and not text:
        raise EdgeSkipError(f"{name} is not UTF-8 text (byte 0): convert it, e.g. with iconv")
    return text


def read_text_file(path: Path) -> str:
    """Return the text of a file, with Windows' and old Macs' line ends made \\n; raises EdgeSkipError if it is not
    text, or more than `MAX_BYTES`."""
    return unix_lines(decode_text(read_bounded(path), path))


def read_bounded(source: Path | BinaryIO, name: str | Path | None = None) -> bytes:
    """Return all of a file, or of an open stream that messages call `name`: it may have no end, as /dev/zero.

    Raises:
        Raises EdgeSkipError if there are more than `MAX_BYTES`.
        OSError if it cannot be read.
    """
    if isinstance(source, Path):
        with source.open("rb") as file:
            return read_bounded(file, name or source)
    data = bytearray()
    while True:
        piece = source.read(_PIECE)  # Python sets aside at once as many bytes as it is asked for
        data += piece
        if len(data) > MAX_BYTES:
            raise EdgeSkipError(f"{name} has more than {MAX_BYTES >> 20} MB of text: give a part of it")
        if len(piece) < _PIECE:  # the end; a terminal would want to be told it a second time
            return bytes(data)


def unix_lines(text: str) -> str:
    """Return `text` with \\r\\n and \\r made \\n."""
    return text.replace("\r\n", "\n").replace("\r", "\n")
