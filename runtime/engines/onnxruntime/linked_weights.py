"""Weight files behind symbolic links, as the Hugging Face cache keeps an artifact: `snapshots/REV/NAME` leads to
`blobs/HASH`.

ONNX Runtime reads weights only from below a graph's folder, or from beside the file that a linked graph really is
(onnxruntime pull request 27374). The second it cannot know of a graph that it is given as bytes, as ours are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from edgeskip.runtime.engines.onnxruntime.model_bytes import (
    GRAPH_INITIALIZER,
    byte_fields,
    graph_fields,
    length_field,
    string_field,
    with_fields,
    with_graph_fields,
)

_EXTERNAL, _KEY, _VALUE = 13, 1, 2  # TensorProto.external_data, StringStringEntryProto


def follow_links(model: bytes, path: Path) -> tuple[bytes, Path]:
    """Return the model with the folder that its weights are to be read from.

    If the file is a link, and all its weight files are links to files beside the one that it leads to, the model
    names those files and the folder is theirs. Otherwise nothing changes, and ONNX Runtime judges.

    Args:
        model: ModelProto.
        path: The file that it was read from.

    Raises:
        ValueError: If `model` is not a protocol buffer.
    """
    folder, real = path.parent, path.resolve().parent
    if real == folder.resolve():
        return model, folder
    names = {name for tensor in _initializers(model) for name in _locations(tensor)}
    targets = {name: (folder / name).resolve() for name in names}
    if not targets or any(target.parent != real for target in targets.values()):
        return model, folder
    return _renamed(model, {name: target.name for name, target in targets.items()}), real


def _initializers(model: bytes) -> Iterator[bytes]:
    return (content for field, content in graph_fields(model) if field == GRAPH_INITIALIZER)


def _locations(tensor: bytes) -> list[str]:
    """Return the file of a tensor's weights; [] if they are in the graph."""
    entries = byte_fields(tensor, _EXTERNAL)
    return [string_field(entry, _VALUE) for entry in entries if string_field(entry, _KEY) == "location"]


def _renamed(model: bytes, names: Mapping[str, str]) -> bytes:
    """Return `model` with other names of its weight files."""

    def entry(content: bytes) -> bytes:
        if string_field(content, _KEY) != "location":
            return content
        return with_fields(content, _VALUE, lambda name: names[name.decode()].encode())

    tensors = [tensor for tensor in _initializers(model) if _locations(tensor)]
    added = b"".join(length_field(GRAPH_INITIALIZER, with_fields(tensor, _EXTERNAL, entry)) for tensor in tensors)
    return with_graph_fields(model, lambda field, content: field != GRAPH_INITIALIZER or not _locations(content), added)
