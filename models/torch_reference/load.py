"""ModelSource -> the transformers model, for calibration and as the reference an export is checked against."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeskip.core.errors import MissingExtraError
from edgeskip.models.source import ModelSource

if TYPE_CHECKING:
    import torch
    import transformers

# What decides the computation; nothing else of a config.json reaches transformers.
_CONFIG_KEYS = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings", "rms_norm_eps"),
    *("tie_word_embeddings", "attention_bias", "mlp_bias", "sliding_window", "use_sliding_window"),
    *("max_window_layers", "layer_types", "no_rope_layers", "no_rope_layer_interval"),
)


def load_torch_model(
    source: ModelSource, *, dtype: torch.dtype | None = None, device: str = "cpu", stream: bool = False
) -> transformers.PreTrainedModel:
    """Return a transformers causal language model with the source's weights: eval mode, no gradients.

    One path for every format: transformers builds the modules without memory, the weights come from
    `source.tensors`. `dtype` defaults to float32. float32 safetensors on the CPU are used in place, mapped from the
    file. With `stream` a block's weights are read right before it runs and dropped after, those of an untied embedding
    and head too, so memory beyond the page cache is about the largest of them, and a tied table.
    """
    try:
        import torch
        from transformers import AutoModelForCausalLM
    except ImportError as error:
        raise MissingExtraError(error.name or "transformers", "export") from None

    dtype = dtype or torch.float32
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(_config(source), dtype=dtype, attn_implementation="sdpa")
    model.eval().requires_grad_(False)
    # Non-persistent buffers hold rotary frequencies: computed by transformers itself, for real.
    body = model.model
    body.rotary_emb = type(body.rotary_emb)(body.config).to(device)
    loader = _Loader(source, dtype, device)
    streamed: set[str] = set()
    if stream:
        parts = {f"model.layers.{index}": block for index, block in enumerate(body.layers)}
        if not source.config["tie_word_embeddings"]:  # a tied table is needed from the first operator to the last
            parts |= {"model.embed_tokens": body.embed_tokens, "lm_head": model.lm_head}
        for prefix, part in parts.items():
            names = {name: f"{prefix}.{name}" for name, _ in part.named_parameters()}
            streamed.update(names.values())
            _stream(part, names, loader)
    for name, _ in list(model.named_parameters()):
        if name not in streamed:
            loader.assign(model, name, name)
    if source.config["tie_word_embeddings"]:
        model.lm_head.weight = body.embed_tokens.weight
    for key, value in source.generation_config.items():
        if key in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(model.generation_config, key, value)
    return model


def has_bfloat16() -> bool:
    """Return whether accelerate's device multiplies bfloat16 natively (a GPU from Ampere on, AVX512-BF16, AMX)."""
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if torch.backends.mps.is_available():
        return False
    from edgeskip.core.machine import this_machine

    return bool({"avx512_bf16", "bf16"} & set(this_machine().simd))


def _config(source: ModelSource) -> Any:
    import transformers
    from transformers import AutoConfig

    values = {key: source.config[key] for key in _CONFIG_KEYS if source.config.get(key) is not None}
    if "sliding_window" not in values:
        values["sliding_window"] = None  # Mistral's config class would assume 4096
    theta, scaling = source.config["rope_theta"], source.config["rope_scaling"]
    if int(transformers.__version__.split(".")[0]) < 5:
        rope = {"rope_theta": theta, "rope_scaling": dict(scaling) if scaling else None}
    else:
        rope = {"rope_parameters": {"rope_theta": theta, **(scaling or {"rope_type": "default"})}}
    ids = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    return AutoConfig.for_model(source.config["model_type"], **values, **rope, **ids)


class _Loader:
    """Puts weights of a source into modules."""

    def __init__(self, source: ModelSource, dtype: torch.dtype, device: str) -> None:
        self._source, self._dtype, self._device = source, dtype, device

    def assign(self, module: torch.nn.Module, attribute: str, name: str) -> None:
        """Replace the parameter `attribute` (dotted) of `module` by the source's tensor `name`."""
        import torch

        value = torch.from_numpy(self._source.tensors[name].read()).to(device=self._device, dtype=self._dtype)
        _replace(module, attribute, torch.nn.Parameter(value, requires_grad=False))


def _replace(module: torch.nn.Module, attribute: str, parameter: torch.nn.Parameter) -> None:
    owner, _, last = attribute.rpartition(".")
    setattr(module.get_submodule(owner), last, parameter)


def _stream(block: torch.nn.Module, names: dict[str, str], loader: _Loader) -> None:
    """Add hooks that fill `block` before it runs and empty it afterwards, also if it fails."""
    empty = dict(block.named_parameters())

    def fill(*_: object) -> None:
        for attribute, name in names.items():
            loader.assign(block, attribute, name)

    def drop(*_: object) -> None:
        for attribute, parameter in empty.items():
            _replace(block, attribute, parameter)

    block.register_forward_pre_hook(fill)
    block.register_forward_hook(drop, always_call=True)
