"""An artifact as a browser gets it: files by checksum, what the page needs to run them, and prompts as token ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from edgeskip.artifacts.files import check_files
from edgeskip.artifacts.manifest import DraftRecord, GraphRecord, Manifest, read_manifest
from edgeskip.bench.devices.web.graphs import attention_heads_of, derive, quantized_bytes, switches_of, weight_files
from edgeskip.bench.runner.request import BenchPrompt, RoundRequest
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import sha256_of
from edgeskip.core.npy_file import read_token_ids
from edgeskip.runtime.chat import ChatTemplate, read_chat_template
from edgeskip.runtime.detokenizer import TOKENIZER_NAME, TextTokenizer, end_tokens_of, read_config
from edgeskip.runtime.prompts import encode_text


@dataclass(frozen=True)
class WebFile:
    """One file that is served; `source` is a file on disk or the bytes themselves."""

    name: str
    sha256: str
    size: int
    source: Path | bytes

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "sha256": self.sha256, "size": self.size}


@dataclass(frozen=True)
class WebGraph:
    """One graph of an artifact, derived for the page. `unpacked` is None if nothing in it is packed."""

    kv_layers: int
    columns: int
    states_in: bool
    states_out: bool
    switches: list[str]
    attention_heads: int
    packed: WebFile
    unpacked: WebFile | None

    def as_dict(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in ("kv_layers", "columns", "states_in", "states_out", "switches")},
            "packed": self.packed.as_dict(),
            "unpacked": None if self.unpacked is None else self.unpacked.as_dict(),
        }


class WebArtifact:
    """An artifact folder, read once. Raises EdgeSkipError if it is damaged, or not an ONNX artifact."""

    def __init__(self, path: Path) -> None:
        if path.is_file() or path.suffix.lower() == ".gguf":
            raise EdgeSkipError(f"{path} is a GGUF file, which no browser runs: give an ONNX artifact folder")
        self.path = path
        self._manifest = read_manifest(path)
        check_files(path, self._manifest)
        self._tokenizer = TextTokenizer(path)
        config = read_config(path / "tokenizer_config.json")
        self._chat_template: ChatTemplate | None = read_chat_template(path, config)
        self._ends = sorted(end_tokens_of(path, config, self._tokenizer))
        self._graphs, self._weights, self._unpacked_bytes = self._derive()
        self._tokenizer_files = [
            self._on_disk(name) for name in (TOKENIZER_NAME, "tokenizer_config.json") if (path / name).is_file()
        ]

    @cached_property
    def files(self) -> dict[str, WebFile]:
        """Everything a browser may ask for, by checksum."""
        graphs = [file for graph in self._graphs for file in (graph.packed, graph.unpacked) if file is not None]
        return {file.sha256: file for file in (*graphs, *self._weights, *self._tokenizer_files)}

    @cached_property
    def description(self) -> dict[str, Any]:
        """What the page must know, as JSON."""
        manifest, graph = self._manifest, self._manifest.graph
        draft = manifest.draft
        return {
            "name": self.path.name,
            "kind": "whole" if draft is None else "chain" if draft.kind == "early-exit" else "gated",
            "graphs": [graph.as_dict() for graph in self._graphs],
            "weights": [file.as_dict() for file in self._weights],
            "unpacked_bytes": self._unpacked_bytes,
            "tokenizer": [file.as_dict() for file in self._tokenizer_files],
            "attention_heads": max(graph.attention_heads for graph in self._graphs),
            "kv_heads": graph.num_kv_heads,
            "head_dim": graph.head_dim,
            "kv_dtype": graph.kv_dtype,
            "logits_dtype": graph.logits_dtype,
            "vocab_size": graph.vocab_size,
            "context_length": graph.context_length,
            "hidden_size": manifest.model.hidden_size,
            "draft_tokens": _draft_tokens(self.path, manifest),
            "agreement": _agreement(draft),
            "end_tokens": self._ends,
        }

    def with_ids(self, request: RoundRequest) -> RoundRequest:
        """Return the request with its prompts as token ids, so that the page needs no chat template."""
        prompts = [
            prompt.model_copy(update={"ids": self.encode(prompt, request.chat_options)}) for prompt in request.prompts
        ]
        return request.model_copy(update={"prompts": prompts})

    def encode(self, prompt: BenchPrompt, chat_options: Mapping[str, Any] | None = None) -> list[int]:
        """Encode one user message if the model has a chat template, else the text itself."""
        return encode_text(self._tokenizer, self._chat_template, prompt.text, chat_kwargs=chat_options)

    def _derive(self) -> tuple[list[WebGraph], list[WebFile], int]:
        graphs: list[WebGraph] = []
        weights: dict[str, WebFile] = {}
        widened = 0
        for name, layers, columns, states_in, states_out in _parts(self._manifest, self.path):
            path = self.path / name
            if not path.is_file():
                raise EdgeSkipError(f"{path} is missing: export again")
            size = quantized_bytes(path)
            packed = _from_memory(name, derive(path))
            unpacked = _from_memory(f"unpacked-{name}", derive(path, unpack=True)) if size else None
            source = packed.source
            assert isinstance(source, bytes)
            heads = attention_heads_of(source)
            graphs.append(
                WebGraph(layers, columns, states_in, states_out, switches_of(source), heads, packed, unpacked)
            )
            widened += size
            for weight in weight_files(path):
                if weight not in weights:
                    weights[weight] = self._on_disk(weight)
        return graphs, list(weights.values()), widened

    def _on_disk(self, name: str) -> WebFile:
        path = self.path / name
        if not path.is_file():
            raise EdgeSkipError(f"{path} is missing: export again")
        return WebFile(name, self._manifest.files.get(name) or sha256_of(path), path.stat().st_size, path)


def _parts(manifest: Manifest, folder: Path) -> list[tuple[str, int, int, bool, bool]]:
    """Return the graphs in the order they run: (file, KV layers, logit columns, exit states in and out)."""
    graph: GraphRecord = manifest.graph
    draft = manifest.draft
    if draft is None or draft.kind == "skip-plan":
        return [(graph.file, graph.num_kv_layers, graph.vocab_size, False, False)]
    if not draft.exits or draft.verify is None:
        raise EdgeSkipError(f"{folder} has no early-exit draft: export it with  edgeskip export --draft early-exit")
    tokens = _draft_tokens(folder, manifest)
    columns = graph.vocab_size if tokens is None else len(tokens)
    exits = [(e.file, e.num_kv_layers, columns, number > 0, True) for number, e in enumerate(draft.exits)]
    return [*exits, (draft.verify, draft.verify_kv_layers, graph.vocab_size, True, False)]


def _draft_tokens(folder: Path, manifest: Manifest) -> list[int] | None:
    """Return the token ids of the draft heads' columns; None if these are the whole vocabulary."""
    name = None if manifest.draft is None else manifest.draft.vocabulary
    if name is None:
        return None
    ids: list[int] = read_token_ids(folder / Path(name).name, manifest.graph.vocab_size).tolist()
    return ids


def _agreement(draft: DraftRecord | None) -> list[float | None]:
    if draft is None:
        return []
    return [draft.agreement] if draft.kind == "skip-plan" else [e.agreement for e in draft.exits]


def _from_memory(name: str, data: bytes) -> WebFile:
    return WebFile(name, hashlib.sha256(data).hexdigest(), len(data), data)


def job_json(request: RoundRequest, artifact: WebArtifact) -> str:
    """Return what the page needs for one request, as JSON."""
    data = json.loads(artifact.with_ids(request).model_dump_json())
    for prompt in data["prompts"]:
        del prompt["text"]  # the ids are what runs
    return json.dumps({"request": data, "artifact": artifact.description})
