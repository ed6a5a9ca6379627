"""The metadata of a GGUF: what the model is, its shape in llama.cpp's keys, its tokenizer, carried over or built."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeskip.core.errors import EdgeSkipError
from edgeskip.exporters.gguf.layout import DECI, GgufBlock, Layout
from edgeskip.models.decoder import Attention, Decoder, DecoderConfig, FeedForward
from edgeskip.models.readers.gguf_tokenizer import build_tokenizer

if TYPE_CHECKING:
    from edgeskip.models.source import ModelSource

STUB_WIDTH = 32  # of a stub FFN: one block of every legacy quantization
_QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION
# Every file has its own.
_OWN_KEYS = ("general.architecture", "general.file_type", "general.quantization_version", "general.alignment")


@dataclass(frozen=True)
class Value:
    """A metadata value with GGUF's number for its type and, for an array, for its elements'; None = from the value."""

    value: Any
    type: int | None = None
    element: int | None = None


def file_metadata(
    source: ModelSource, decoder: Decoder, layout: Layout, file_type: int, manifest: Mapping[str, str]
) -> dict[str, Value]:
    """Return every key but general.architecture, in file order.

    Raises:
        EdgeSkipError: If llama.cpp has no key for something.
    """
    carried = _carried(source)
    general = {key: value for key, value in carried.items() if key.startswith("general.")}
    label = manifest.get("edgeskip.label", "dense")
    if label != "dense":  # programs show this name, and know no edgeskip.* keys
        named = general.get("general.name")
        general["general.name"] = Value(f"{named.value if named else source.name} (EdgeSkip: {label})")
    others = {key: value for key, value in carried.items() if not key.startswith("general.")}
    shape = _shape(decoder, layout, source.decoder.norm.eps)
    return {
        **general,
        "general.file_type": Value(file_type),
        "general.quantization_version": Value(_QUANTIZATION_VERSION),
        **{f"{layout.architecture}.{key}": Value(value) for key, value in shape.items()},
        **others,
        **{key: Value(value) for key, value in manifest.items()},
    }


def context_length(decoder: Decoder) -> int:
    """Return the most positions that the file is good for, in tokens.

    llama.cpp has no sliding window in these architectures, so a model with one is the same only up to the window.
    """
    windows = [s.window for s in decoder.sublayers if isinstance(s, Attention) and s.window]
    return min([decoder.config.max_positions, *windows])


def _carried(source: ModelSource) -> dict[str, Value]:
    """Return general.* and tokenizer.* of the model: a GGUF's own, else built from the folder."""
    header = source.checkpoint.gguf
    if header is not None:
        build_tokenizer(header.metadata)  # refuses a vocabulary that llama.cpp could not load either
        found = {
            key: Value(value, *header.types[key])
            for key, value in header.metadata.items()
            if key.startswith(("general.", "tokenizer.")) and key not in _OWN_KEYS
        }
        return found | ({"general.name": Value(source.name)} if source.adaptation else {})
    return _general(source) | _tokenizer(source)


def _general(source: ModelSource) -> dict[str, Value]:
    """Return name, license and the like, read from the folder and its model card by the gguf package."""
    import logging

    import gguf

    logging.getLogger("metadata").setLevel(logging.CRITICAL)  # it passes over what it does not understand
    parameters = sum(math.prod(tensor.shape) for tensor in source.tensors.values())
    try:
        found = gguf.Metadata.load(model_path=source.path, total_params=parameters)
    except Exception as error:  # a damaged model card: the yaml library's own errors, and others
        raise EdgeSkipError(f"{source.path}: its model card cannot be read ({str(error).splitlines()[0]})") from None
    found.name = source.name if source.adaptation else found.name or source.name
    writer = gguf.GGUFWriter(None, "unused")  # written nowhere: the package gives the keys in no other way
    found.set_gguf_meta_model(writer)
    entries = {key: entry for key, entry in writer.kv_data[0].items() if key != "general.architecture"}
    file = str(source.path)
    keys = {key: Value(_as_type(entry.value, entry.type, key, file), int(entry.type)) for key, entry in entries.items()}
    return {"general.type": Value("model")} | keys


def _as_type(value: Any, kind: Any, key: str, file: str) -> Any:
    """Return `value` as GGUF stores it under `key`: a model card may have 1.0 or a date in place of a text."""
    from gguf import GGUFValueType

    scalars = str, int, float, date
    match kind:
        case GGUFValueType.STRING if isinstance(value, scalars):
            return str(value)
        case GGUFValueType.STRING if isinstance(value, list) and all(isinstance(entry, scalars) for entry in value):
            return ", ".join(map(str, value))
        case GGUFValueType.ARRAY if all(isinstance(entry, scalars) for entry in value):
            return [str(entry) for entry in value]
        case GGUFValueType.FLOAT32 if isinstance(value, (int, float)):
            return float(value)
        case GGUFValueType.UINT32 | GGUFValueType.INT32 if isinstance(value, int):
            return value
    raise EdgeSkipError(f"{file}: its README.md or generation_config.json has {value!r} for {key}; correct it")


def _tokenizer(source: ModelSource) -> dict[str, Value]:
    from edgeskip.exporters.gguf.text_rules import gguf_text
    from edgeskip.exporters.gguf.vocabulary import vocabulary_metadata

    with tempfile.TemporaryDirectory(prefix="edgeskip-tokenizer-") as folder:
        source.write_tokenizer(Path(folder))
        # Some tokenizers name no BOS or EOS; the config does.
        named = {**source.config, **source.generation_config}
        ids = {key: value for key, value in named.items() if key.endswith("_token_id")}
        first = {key: value[0] if isinstance(value, list) and value else value for key, value in ids.items()}
        (Path(folder) / "config.json").write_text(json.dumps(first), encoding="utf-8")
        keys = vocabulary_metadata(Path(folder), source.decoder.config.vocab_size, _tokenizer_file(source))
    text = gguf_text(source)
    return {key: Value(value) for key, value in (keys | dict(text.end_keys)).items()}


def _tokenizer_file(source: ModelSource) -> str:
    """Return what messages about the tokenizer name: the user's own file."""
    named = source.checkpoint.tokenizer.file
    file = Path(named) / "tokenizer.json"
    return str(file) if file.is_file() else named


def _shape(decoder: Decoder, layout: Layout, eps: float) -> dict[str, Any]:
    config = decoder.config
    per_block = [_block_shape(config, block) for block in layout.blocks]
    heads, kv_heads, widths = ([shape[i] for shape in per_block] for i in range(3))
    if layout.architecture != DECI:
        heads, kv_heads, widths = heads[0], kv_heads[0], widths[0]  # type: ignore[assignment]
    return {
        "vocab_size": config.vocab_size,
        "context_length": context_length(decoder),
        "embedding_length": config.hidden_size,
        "block_count": len(layout.blocks),
        "feed_forward_length": widths,
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        # One for all norms, although baking has eps/S² for each.
        "attention.layer_norm_rms_epsilon": eps,
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": float(config.rope.theta),
        **_rope_scaling(config),
    }


def _block_shape(config: DecoderConfig, block: GgufBlock) -> tuple[int, int, int]:
    """Return (query heads, key-value heads, FFN width) of one block."""
    width = config.intermediate_size if isinstance(block.feed_forward, FeedForward) else STUB_WIDTH
    if block.attention is None:
        return 0, 0, width
    if isinstance(block.attention, Attention):
        return config.num_heads, config.num_kv_heads, width
    return 1, 1, width


def _rope_scaling(config: DecoderConfig) -> dict[str, Any]:
    """Return `rope.scaling.*`; Llama 3's is a tensor instead (rope_freqs.weight)."""
    scaling = config.rope.scaling or {}
    kind = scaling.get("rope_type", "default")
    if kind in ("default", "llama3"):
        return {}
    keys: dict[str, Any] = {"rope.scaling.type": kind}
    if kind == "linear":
        return keys | {"rope.scaling.factor": float(scaling["factor"])}
    original = scaling.get("original_max_position_embeddings", config.max_positions)
    factor = float(scaling.get("factor", config.max_positions / original))
    if scaling.get("truncate", True) is False:
        raise EdgeSkipError("llama.cpp's yarn always rounds its correction range: 'truncate': false is not possible")
    keys |= {"rope.scaling.factor": factor, "rope.scaling.original_context_length": int(original)}
    for ours, theirs in (("beta_fast", "yarn_beta_fast"), ("beta_slow", "yarn_beta_slow")):
        if scaling.get(ours):
            keys[f"rope.scaling.{theirs}"] = float(scaling[ours])
    usual = 1.0 if factor <= 1 else 0.1 * math.log(factor) + 1.0
    if not math.isclose(config.rope.attention_factor, usual):
        keys["rope.scaling.attn_factor"] = config.rope.attention_factor / usual
    return keys
