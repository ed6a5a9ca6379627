"""A GGUF file -> Checkpoint: Hugging Face's names and row order over lazily dequantized tensors."""

from __future__ import annotations

import re
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeskip.artifacts.gguf.header import GgufHeader, GgufTensor, read_gguf_header
from edgeskip.artifacts.gguf.rules import check_gguf
from edgeskip.artifacts.gguf.text_rules import TextRules
from edgeskip.core.errors import EdgeSkipError, MissingExtraError
from edgeskip.models.decoder import Float32, QuantizedBlocks, Tensor
from edgeskip.models.families.architecture_config import ArchitectureConfig
from edgeskip.models.readers.checkpoint import Checkpoint
from edgeskip.models.readers.config import complete_config
from edgeskip.models.readers.gguf_config import gguf_config, gguf_family, gguf_generation_config
from edgeskip.models.readers.tokenizer_source import MadeTokenizer

_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_ROPE_FACTORS = "rope_freqs.weight"


def open_gguf(path: Path) -> Checkpoint:
    """Read the header; raises EdgeSkipError if the file is damaged, unsupported or cannot be dequantized."""
    try:
        import gguf  # noqa: F401  (block types and dequantizing)
    except ImportError:
        raise MissingExtraError("gguf", "export") from None
    header, file = read_gguf_header(path), str(path)
    text = _refuse_export(header, file)
    family = gguf_family(header.metadata, file)
    check_gguf(header, file)
    for kind in {tensor.type for tensor in header.tensors.values()}:
        _check_readable(kind, file)
    factors = _read(path, header.tensors[_ROPE_FACTORS], 0) if _ROPE_FACTORS in header.tensors else None
    config = complete_config(family, ArchitectureConfig(gguf_config(header, file, factors), file))
    heads = {"q": config["num_attention_heads"], "k": config["num_key_value_heads"]}
    tensors = {}
    for stored in header.tensors.values():
        name = hugging_face_name(stored.name)
        if name is None:
            if stored.name != _ROPE_FACTORS:
                raise EdgeSkipError(f"{file}: {stored.name!r} is a weight that this family does not use; unsupported")
            continue
        projection = re.search(r"attn_([qk])\.", stored.name)
        interleaved = heads[projection[1]] if family.gguf_interleaved and projection else 0
        if interleaved and stored.shape[0] != interleaved * config["head_dim"]:
            interleaved = 0  # a wrong shape, which the decoder reports
        blocks = QuantizedBlocks(stored.type.name, partial(_read_blocks, path, stored, interleaved))
        tensors[name] = Tensor(name, stored.shape, partial(_read, path, stored, interleaved), blocks)
    ends = () if text is None else text.end_tokens
    return Checkpoint(
        family,
        config,
        gguf_generation_config(header.metadata, file) | ({"eos_token_id": list(ends)} if ends else {}),
        tensors,
        (path,),
        file,
        MadeTokenizer(partial(_tokenizer_files, header.metadata, text), file),
        header,
        bool(ends),
    )


def _refuse_export(header: GgufHeader, file: str) -> TextRules | None:
    """Return what a file of ours says of text. EdgeSkipError for one that is not a whole dense model: what is made of
    it would be called one."""
    from edgeskip.artifacts.gguf.manifest import read_gguf_manifest

    manifest = read_gguf_manifest(header.metadata, file)
    if manifest is not None and (manifest.part != "whole" or manifest.label != "dense"):
        what = manifest.label if manifest.part == "whole" else f"{manifest.part} part of an early exit"
        raise EdgeSkipError(
            f"{file} is an export of EdgeSkip ({what}): use the model it was made from, {manifest.model.source}"
        )
    return None if manifest is None else manifest.text


def hugging_face_name(name: str) -> str | None:
    """Return `blk.3.attn_q.weight` -> `model.layers.3.self_attn.q_proj.weight`; None if there is no counterpart."""
    stem, _, kind = name.rpartition(".")
    if kind not in ("weight", "bias"):
        return None
    if stem in _TOP:
        return f"{_TOP[stem]}.{kind}"
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)", stem)
    if match is None or match[2] not in _BLOCK:
        return None
    return f"model.layers.{match[1]}.{_BLOCK[match[2]]}.{kind}"


def _check_readable(kind: Any, file: str) -> None:
    from gguf import GGML_QUANT_SIZES
    from gguf.quants import dequantize

    try:
        dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except (NotImplementedError, KeyError):  # KeyError: a type newer than the package
        reason = f"the gguf package cannot dequantize {kind.name}"
        raise EdgeSkipError(f"{file}: {reason}: use another quantization") from None


def _read_blocks(path: Path, stored: GgufTensor, interleaved: int) -> NDArray[np.uint8]:
    """Return the tensor's bytes, [rows…, bytes a row], rows in Hugging Face's order.

    `interleaved` > 0 is the number of heads whose rows llama.cpp's converter paired up.
    """
    rows = stored.shape[:-1]
    raw = np.memmap(path, np.uint8, "c", stored.offset, (*rows, stored.num_bytes // prod(rows)))
    if not interleaved:
        return raw.view(np.ndarray)
    if len(stored.shape) == 1:  # a bias: its elements are the rows
        return paired_apart(raw.reshape(stored.shape[0], -1), interleaved).reshape(-1)
    return paired_apart(raw, interleaved)


def _read(path: Path, stored: GgufTensor, interleaved: int) -> Float32:
    """Return the tensor as float32, rows in Hugging Face's order."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    raw = _read_blocks(path, stored, interleaved)
    if stored.type == GGMLQuantizationType.F32:
        return raw.view("<f4")
    return np.ascontiguousarray(dequantize(raw, stored.type), dtype=np.float32)


def paired_apart(rows: NDArray[Any], heads: int) -> NDArray[Any]:
    """Undo the converter's `permute` of q and k: rows [heads, D/2, 2] back to [heads, 2, D/2]."""
    return np.ascontiguousarray(rows.reshape(heads, -1, 2, *rows.shape[1:]).swapaxes(1, 2)).reshape(rows.shape)


def _tokenizer_files(metadata: dict[str, Any], text: TextRules | None) -> dict[str, bytes]:
    import json

    from edgeskip.models.readers.gguf_tokenizer import build_tokenizer, tokenizer_config
    from edgeskip.models.readers.tokenizer_files import NAMED, ROLES

    content = tokenizer_config(metadata)
    names = text.names if text is not None else {}
    own = {name: token for name, token in names.items() if name.endswith("_token") and name not in content}
    if own := {name: token for name, token in own.items() if name.removesuffix("_token") not in ROLES}:
        content |= {**own, NAMED: own}  # GGUF has no key for them
    config = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    spec = json.loads(build_tokenizer(metadata).to_str())
    if text is not None and text.space is not None:  # SentencePiece's other way with spaces
        metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": text.space, "split": False}
        spec |= {"normalizer": None, "pre_tokenizer": metaspace}
        if text.strip == "all":
            spec["decoder"] = metaspace
        elif text.strip == "one" and metadata.get("tokenizer.ggml.add_space_prefix") is False:
            spec["decoder"]["decoders"].append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    tokenizer = json.dumps(spec, ensure_ascii=False)
    return {"tokenizer.json": tokenizer.encode("utf-8"), "tokenizer_config.json": config.encode("utf-8")}
