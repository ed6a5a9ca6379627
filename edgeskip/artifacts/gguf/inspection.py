"""The facts `edgeskip inspect` shows of a GGUF file, as plain data: what its header says and, where EdgeSkip wrote
it, its manifest. No weight is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeskip.artifacts.gguf.header import read_gguf_header
from edgeskip.artifacts.gguf.manifest import GgufManifest, read_gguf_manifest
from edgeskip.artifacts.gguf.rules import check_gguf
from edgeskip.core.errors import EdgeSkipError, MissingExtraError


@dataclass(frozen=True)
class GgufReport:
    """A GGUF file of any origin; `manifest` is None if EdgeSkip did not write it, a fact the file lacks is None.

    `tensor_types`: ggml type name -> number of tensors, most frequent first. `partner_found`, `draft_found`,
    `draft_head_found` and `decode_found`: whether the file that the manifest names so lies beside this one; None if
    it names none.
    """

    path: Path
    size_bytes: int
    manifest: GgufManifest | None
    name: str | None
    architecture: str | None
    file_type: str | None
    num_blocks: int | None
    context_length: int | None
    license: str | None
    tensor_types: dict[str, int]
    tokenizer_model: str | None
    tokenizer_pre: str | None
    num_tokens: int
    chat_template: bool
    partner_found: bool | None
    draft_found: bool | None = None
    draft_head_found: bool | None = None
    decode_found: bool | None = None
    problem: str | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "kind": "gguf",
            "path": str(self.path),
            "size_bytes": self.size_bytes,
            "problem": self.problem,
            "made_by_edgeskip": self.manifest is not None,
            "name": self.name,
            "architecture": self.architecture,
            "file_type": self.file_type,
            "num_blocks": self.num_blocks,
            "context_length": self.context_length,
            "license": self.license,
            "tensor_types": self.tensor_types,
            "tokenizer": {"model": self.tokenizer_model, "pre": self.tokenizer_pre, "num_tokens": self.num_tokens},
            "chat_template": self.chat_template,
            "partner_found": self.partner_found,
            "draft_found": self.draft_found,
            "draft_head_found": self.draft_head_found,
            "decode_found": self.decode_found,
            **({"label": None} if self.manifest is None else self.manifest.model_dump(mode="json")),
        }


def inspect_gguf(path: Path) -> GgufReport:
    """Read the header. Raises EdgeSkipError if the file is missing, not GGUF, damaged or truncated, or where its
    `edgeskip.*` keys are no manifest; MissingExtraError without the gguf package. A header that no decoder-only
    language model has so, which llama.cpp may not be given, is the report's `problem`."""
    try:
        import gguf
    except ImportError:
        raise MissingExtraError("gguf", "llamacpp") from None
    header = read_gguf_header(path)
    metadata = header.metadata
    problem = None
    try:
        check_gguf(header, str(path), complete=False)
    except EdgeSkipError as error:
        problem = str(error)
    manifest = read_gguf_manifest(metadata, str(path))
    architecture = _text(metadata, "general.architecture")
    try:
        file_type = gguf.LlamaFileType(metadata.get("general.file_type")).name
    except ValueError:
        file_type = None
    tokens = metadata.get("tokenizer.ggml.tokens")

    def found(key: str) -> bool | None:
        name = getattr(manifest, key, None)
        return (path.parent / Path(name).name).is_file() if name else None

    return GgufReport(
        path=path,
        size_bytes=path.stat().st_size,
        manifest=manifest,
        name=_text(metadata, "general.name"),
        architecture=architecture,
        file_type=file_type and file_type.removeprefix("MOSTLY_").removeprefix("ALL_"),
        num_blocks=_number(metadata, f"{architecture}.block_count"),
        context_length=_number(metadata, f"{architecture}.context_length"),
        license=_text(metadata, "general.license"),
        tensor_types=dict(Counter(tensor.type.name for tensor in header.tensors.values()).most_common()),
        tokenizer_model=_text(metadata, "tokenizer.ggml.model"),
        tokenizer_pre=_text(metadata, "tokenizer.ggml.pre"),
        num_tokens=len(tokens) if isinstance(tokens, list) else 0,
        chat_template=bool(metadata.get("tokenizer.chat_template")),
        partner_found=found("partner"),
        draft_found=found("draft"),
        draft_head_found=found("draft_head"),
        decode_found=found("decode"),
        problem=problem,
    )


def _text(metadata: Mapping[str, Any], key: str) -> str | None:
    value = metadata.get(key)
    return value if isinstance(value, str) else None


def _number(metadata: Mapping[str, Any], key: str) -> int | None:
    value = metadata.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
