"""The JSON files beside `model.onnx` that other people's runtimes read: Hugging Face's and ONNX Runtime GenAI's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeskip.exporters.onnx.drafts import genai_graphs
from edgeskip.runtime.engines.onnxruntime.runtime_graph import POSITIONS

if TYPE_CHECKING:
    from edgeskip.artifacts.manifest import DraftRecord, GraphRecord
    from edgeskip.models.decoder import DecoderConfig
    from edgeskip.models.source import ModelSource


def write_sidecars(source: ModelSource, graph: GraphRecord, folder: Path, draft: DraftRecord | None = None) -> None:
    """Write config.json, generation_config.json and genai_config.json; the tokenizer's files are there already."""
    _write(folder / "config.json", source.config)
    _write(folder / "generation_config.json", source.generation_config)
    _write(folder / "genai_config.json", genai_config(source, graph, draft))


def genai_config(source: ModelSource, graph: GraphRecord, draft: DraftRecord | None = None) -> dict[str, Any]:
    """Return ONNX Runtime GenAI's configuration (its pages "Config reference" and "Speculative decoding").

    `num_hidden_layers` counts KV caches, so it is the number of kept attention sublayers: with it, unmodified
    onnxruntime-genai runs a model whose skipped sublayers are gone, and with `model.draft` one that drafts for itself.
    """
    target, drafting = (graph, None) if draft is None else genai_graphs(graph, draft)
    config, generation = source.decoder.config, source.generation_config

    def token(name: str) -> Any:
        value = generation.get(name)
        return source.config.get(name) if value is None else value

    eos = token("eos_token_id")
    ends = list(source.end_tokens)  # the tokenizer's as well: a fine-tune may name its own there alone
    if ends and set(ends) != set(eos if isinstance(eos, list) else [eos]):
        eos = ends
    first_eos = eos[0] if isinstance(eos, list) and eos else eos
    pad = token("pad_token_id")
    model: dict[str, Any] = {
        "type": config.family,
        "vocab_size": graph.vocab_size,
        "context_length": graph.context_length,
        "bos_token_id": token("bos_token_id"),
        "eos_token_id": eos,
        "pad_token_id": first_eos if pad is None else pad,
        "decoder": _decoder(config, target),
        "draft": _decoder(config, drafting) if drafting else None,
    }
    model = {name: value for name, value in model.items() if value is not None}
    given = {name: value for name, value in generation.items() if value is not None}
    search = {
        "do_sample": bool(given.get("do_sample", False)),
        "temperature": given.get("temperature", 1.0),
        "top_k": given.get("top_k", 50),
        "top_p": given.get("top_p", 1.0),
        "repetition_penalty": given.get("repetition_penalty", 1.0),
        "num_beams": 1,
        "num_return_sequences": 1,
        "min_length": 0,
        "max_length": graph.context_length,
        "past_present_share_buffer": True,
    }
    return {"model": model, "search": search}


def _decoder(config: DecoderConfig, graph: GraphRecord) -> dict[str, Any]:
    return {
        "filename": graph.file,
        "head_size": graph.head_dim,
        "hidden_size": config.hidden_size,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": graph.num_kv_heads,
        "num_hidden_layers": graph.num_kv_layers,
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "position_ids": POSITIONS,
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
