"""What an artifact's files hold: bytes, weights that graphs share, and which of the model's blocks each graph computes.

Reads files, runs nothing. Tensors of the same bytes are one weight, wherever they are stored.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeskip.artifacts.gguf.header import read_gguf_header
from edgeskip.artifacts.gguf.manifest import GgufManifest, read_gguf_manifest
from edgeskip.artifacts.manifest import read_manifest

PADDING = 0.01  # weights are aligned in the data file
_NODE = re.compile(r"(?:attn|ffn)\.(\d+)")
_TENSOR = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True)
class Part:
    """One graph, or one GGUF file. `weights`: identity → bytes; `blocks`: block → operators (GGUF: tensors) of it."""

    file: str
    operators: int
    blocks: dict[int, int]
    weights: dict[str, int]
    data_files: tuple[str, ...]

    @property
    def weight_bytes(self) -> int:
        return sum(self.weights.values())


@dataclass(frozen=True)
class Contents:
    """`files`: name → bytes of everything that belongs to the artifact."""

    files: dict[str, int]
    parts: tuple[Part, ...]

    @property
    def weight_bytes(self) -> int:
        """Of all parts together, each weight once."""
        return sum({name: size for part in self.parts for name, size in part.weights.items()}.values())

    @property
    def data_files(self) -> set[str]:
        return {file for part in self.parts for file in part.data_files}


@dataclass(frozen=True)
class Check:
    """Something that the files must show, what they do show, and whether it is that."""

    what: str
    found: str
    holds: bool


def contents_of(path: Path) -> Contents:
    """Of an artifact folder, or of a GGUF file and those its manifest names beside it."""
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file())
        parts = [_graph(file) for file in files if file.suffix == ".onnx"]
    else:
        manifest = _manifest(path)
        names = (manifest.partner, manifest.draft, manifest.draft_head) if manifest else ()
        files = [path, *(path.with_name(name) for name in names if name and path.with_name(name).is_file())]
        parts = [_gguf(file) for file in files if file.suffix == ".gguf"]
    return Contents({file.name: file.stat().st_size for file in files}, tuple(parts))


def checks_of(path: Path, contents: Contents) -> list[Check]:
    """Return what shared state comes to: of an ONNX artifact that drafts, and of a GGUF pair."""
    if not path.is_dir():
        manifest = _manifest(path)
        if manifest is None or manifest.part != "first":
            return []
        first, rest = contents.parts[:2]
        shared = [name for name in first.weights.keys() & rest.weights.keys() if name.startswith("blk ")]
        return [Check("block weights that both halves hold", str(len(shared)), not shared)]
    draft = read_manifest(path).draft
    if draft is None:
        return []
    files = sorted(contents.data_files)
    ratio = sum(contents.files[file] for file in files) / contents.weight_bytes
    found = [
        Check("data files that all graphs name", ", ".join(files), len(files) == 1),
        Check("their bytes ÷ weights of all graphs, each once", f"{ratio:.3f}", ratio <= 1 + PADDING),
    ]
    blocks = {part.file: part.blocks for part in contents.parts}
    graphs: list[tuple[str, int | None]] = [(exit_.file, exit_.layer) for exit_ in draft.exits]
    begin = 0
    for file, end in [*graphs, *([(draft.verify, None)] if draft.verify else [])]:
        outside = sum(n for b, n in blocks[file].items() if b < begin or (end is not None and b >= end))
        what = f"operators in {file} of blocks before {begin}" + ("" if end is None else f" or from {end} on")
        found.append(Check(what, str(outside), not outside and bool(blocks[file])))
        begin = end or begin
    return found


def _graph(file: Path) -> Part:
    import onnx

    graphs = list(_graphs(onnx.load(file, load_external_data=False).graph))
    nodes = [node for graph in graphs for node in graph.node]
    blocks = Counter(int(found[1]) for node in nodes if (found := _NODE.match(node.name)))
    weights: dict[str, int] = {}
    data_files: set[str] = set()
    for tensor in (tensor for graph in graphs for tensor in graph.initializer):
        where = {entry.key: entry.value for entry in tensor.external_data}
        content = tensor.raw_data
        if where:
            data_files.add(where["location"])
            content = _bytes_at(file.with_name(where["location"]), int(where.get("offset", 0)), int(where["length"]))
        weights[hashlib.sha256(content).hexdigest()] = len(content)
    return Part(file.name, len(nodes), dict(sorted(blocks.items())), weights, tuple(sorted(data_files)))


def _graphs(graph: Any) -> Iterator[Any]:
    """Yield the graph and those inside its `If`s."""
    yield graph
    for attribute in (attribute for node in graph.node for attribute in node.attribute if attribute.HasField("g")):
        yield from _graphs(attribute.g)


def _gguf(file: Path) -> Part:
    tensors = list(read_gguf_header(file).tensors.values())
    blocks = Counter(int(found[1]) for tensor in tensors if (found := _TENSOR.match(tensor.name)))
    weights: dict[str, int] = {}
    for tensor in tensors:
        content = _bytes_at(file, tensor.offset, tensor.num_bytes)
        empty = content.count(0) == len(content)  # a block of zeros stands if there is none
        kind = "blk " if _TENSOR.match(tensor.name) and not empty else ""
        weights[kind + hashlib.sha256(content).hexdigest()] = len(content)
    return Part(file.name, len(tensors), dict(sorted(blocks.items())), weights, (file.name,))


def _manifest(file: Path) -> GgufManifest | None:
    return read_gguf_manifest(read_gguf_header(file).metadata, str(file))


def _bytes_at(file: Path, offset: int, length: int) -> bytes:
    with file.open("rb") as data:
        data.seek(offset)
        return data.read(length)
