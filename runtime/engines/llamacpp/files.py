"""What is checked of a GGUF file before llama.cpp may open it in this process."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from edgeskip.artifacts.gguf.header import UINT16, GgufHeader, read_gguf_header, read_header_bytes
from edgeskip.artifacts.gguf.rules import check_gguf, part_count, rules_cover
from edgeskip.artifacts.gguf.seal import is_sealed
from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.engines.llamacpp.trial import try_opening

_PART = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


def check_file(path: Path, provider: str, *, tried: bool = False) -> None:
    """Check the header's rules; open a file that EdgeSkip did not write so in a child process first.

    Args:
        path: the file, the first part of a split model.
        provider: where it is to run.
        tried: this is that child.

    Raises:
        EdgeSkipError: if the file is damaged, says what no language model says, or ends llama.cpp.
    """
    header, data = read_header_bytes(path)
    parts = _parts(path, header)
    if len(parts) > 1:
        header = _joined(header, parts[1:])
    check_gguf(header, str(path))
    # A digest is not a signature: it counts only for what EdgeSkip writes.
    if not tried and not (len(parts) == 1 and rules_cover(header) and is_sealed(header, data)):
        try_opening(parts, provider)


def _parts(path: Path, header: GgufHeader) -> list[Path]:
    """Return the files that llama.cpp would open with this one."""
    count = part_count(header, str(path))
    if count == 1:
        return [path]
    match = _PART.fullmatch(path.name)
    if match is None or int(match["number"]) != 1 or int(match["count"]) != count:
        raise EdgeSkipError(f"{path} is one of {count} parts: name the first, …-00001-of-{count:05}.gguf")
    files = [path.with_name(f"{match['stem']}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1)]
    for file in files:
        if not file.is_file():
            raise EdgeSkipError(f"{path} is one of {count} parts and {file.name} is not beside it: fetch it")
    return files


def _joined(header: GgufHeader, others: list[Path]) -> GgufHeader:
    """Return the first part's header with the tensors of the others; llama.cpp asserts 16-bit part numbers."""
    tensors = dict(header.tensors)
    for number, file in enumerate(others, 1):
        part = read_gguf_header(file)
        key = "split.no"
        if part.types.get(key, (None, None))[0] != UINT16 or part.metadata[key] != number:
            raise EdgeSkipError(f"{file}: its key {key!r} does not say {number}: fetch it again")
        tensors.update(part.tensors)
    return replace(header, tensors=tensors)
