"""Recognize quantized checkpoints of other tools by their files, config keys, and weights' names and types.

Names are those that the tools write: AutoGPTQ, AutoAWQ, bitsandbytes, HQQ, compressed-tensors, fp8 (DeepSeek,
ModelOpt), optimum-quanto, EETQ, AQLM, QuIP#, VPTQ, ExLlamaV2 and V3, MLX; each follows from their own documentation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeskip.core.errors import EdgeSkipError

_FILES = {
    "quantize_config.json": "GPTQ",
    "quant_config.json": "AWQ",
    "quanto_qmap.json": "quanto",
    "hf_quant_config.json": "ModelOpt",
    "qmodel.pt": "HQQ",
    "exllamav2_config.json": "ExLlamaV2",
}
_CONFIG_KEYS = {"quantization": "MLX", "compression_config": "compressed-tensors", "quantization_config": ""}
# The first that fits counts, so the more special ones come first.
_NAMES = (
    (r"\.weight_packed$|\.weight_shape$|\.weight_global_scale$", "compressed-tensors"),
    (r"\.weight_scale_inv$|\.activation_scale$", "fp8"),
    (r"\.weight_scale_2$|\.[kv]_scale$", "ModelOpt"),
    (r"\.(weight|input|output)_(scale|zero_point)$", "fp8 or int8, as compressed-tensors writes it"),
    (r"\.weight_scales$", "EETQ"),
    (r"\.weight\._(data|scale|shift|zeropoint)$|\.(input|output)_scale$", "quanto"),
    (r"\.(SCB|weight_format|absmax|nested_absmax|quant_map|nested_quant_map)$|\.quant_state\.", "bitsandbytes"),
    (r"\.(W_q|W_nbits|W_group_size)$|\.meta\.(scale|zero)", "HQQ"),
    (r"\.(qweight|qzeros|g_idx)$", "GPTQ or AWQ"),
    (r"\.(q_weight|q_scale|q_scale_max|q_groups|q_invperm|q_perm)$", "ExLlamaV2"),
    (r"\.(trellis|suh|svh|mcg|mul1)$", "ExLlamaV3"),
    (r"\.(codes|codebooks)$", "AQLM"),
    (r"\.(Qidxs|codebook_id|SU|SV)$", "QuIP#"),
    (r"\.(centroids|res_centroids|res_indices|weight_bias|weight_scale)$", "VPTQ"),
    (r"\.weight_(blocks|scales)$|_proj_(blocks|scales)$", "MXFP4"),
    (r"\.(scales|biases)$", "MLX"),
)
_COMPILED = tuple((re.compile(pattern), tool) for pattern, tool in _NAMES)


def quantized_by_config(config: Mapping[str, Any]) -> str | None:
    """Return how a config.json says its weights are quantized; None if it says nothing."""
    text = config.get("text_config")
    for values in (config, text if isinstance(text, Mapping) else {}):
        for key, tool in _CONFIG_KEYS.items():
            if given := values.get(key):
                method = given.get("quant_method") if isinstance(given, Mapping) else None
                return str(method or tool or "an unknown method")
    return None


def quantized_by_files(folder: Path) -> str | None:
    """Return how the files beside the weights say they are quantized; None if none does."""
    return next((tool for name, tool in _FILES.items() if (folder / name).is_file()), None)


def quantized_by_weights(stored: Mapping[str, str]) -> str | None:
    """Return how weights are quantized, by their names and stored types (safetensors' spelling, `I32`); None if not.

    Only weights inside the blocks, the embedding and the head count. A `.weight` or `.bias` of a whole-number or
    8-bit type is a quantized one, whatever made it.
    """
    for pattern, tool in _COMPILED:
        if any(pattern.search(name) for name in stored):
            return tool
    for name, kind in stored.items():
        if name.endswith((".weight", ".bias")) and not re.fullmatch(r"B?F(16|32|64)", kind):
            return f"{name!r} is stored as {kind}"
    return None


def quantization_error(where: str, method: str) -> EdgeSkipError:
    """Return the error for a checkpoint at `where` whose weights are quantized by `method`."""
    return EdgeSkipError(
        f"{where}: these weights are quantized ({method}) and cannot be read: use the model they were made from, "
        "unquantized (safetensors in float32, float16 or bfloat16), or a GGUF of it"
    )
