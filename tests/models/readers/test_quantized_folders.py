"""Folders that are no readable model: each ends in one line that says what it is and what to do.

Oracle: the names and types that the tools' own documentation gives for their checkpoints, written with the safetensors
library; plain checkpoints of transformers must go on opening.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from edgeskip.core.errors import EdgeSkipError
from edgeskip.models.source import open_model

Tensors = dict[str, Any]
PROJECTION = "model.layers.0.self_attn.q_proj"


@pytest.fixture
def llama(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "llama"))


def _refusal(folder: Path) -> str:
    with pytest.raises(EdgeSkipError) as caught:
        open_model(str(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def _replace(folder: Path, replacement: Callable[[str], Tensors], name: str = "model.safetensors") -> None:
    weights: Tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    quantized = {key: value for key, value in weights.items() if "_proj" not in key}
    for key in weights:
        if "_proj" in key:
            quantized |= replacement(key.removesuffix(".weight"))
    save_file(quantized, folder / name, metadata={"format": "pt"})


def _of(*suffixes: str, kind: torch.dtype = torch.int32) -> Callable[[str], Tensors]:
    return lambda base: {f"{base}.{suffix}": torch.zeros(2, 2, dtype=kind) for suffix in suffixes}


FORMS = {
    "gptq": _of("qweight", "qzeros", "g_idx"),
    "gptq, all": lambda base: _of("qweight", "qzeros", "g_idx")(base) | _of("scales", kind=torch.float16)(base),
    "bitsandbytes 4 bits": lambda base: (
        _of("weight", "weight.quant_state.bitsandbytes__nf4", kind=torch.uint8)(base)
        | _of("weight.absmax", "weight.quant_map", kind=torch.float32)(base)
    ),
    "bitsandbytes 8 bits": lambda base: _of("weight", kind=torch.int8)(base) | _of("SCB", kind=torch.float32)(base),
    "hqq": lambda base: _of("W_q", kind=torch.uint8)(base),
    "compressed-tensors": _of("weight_packed", "weight_scale", "weight_shape"),
    "fp8 of DeepSeek": lambda base: (
        _of("weight", kind=torch.float8_e4m3fn)(base) | _of("weight_scale_inv", kind=torch.float32)(base)
    ),
    "fp8 whose weights look plain": lambda base: _of("weight", "weight_scale_inv", kind=torch.float32)(base),
    "int8 alone": _of("weight", kind=torch.int8),
    "uint8 alone": _of("weight", kind=torch.uint8),
    "quanto": lambda base: _of("weight._data", kind=torch.uint8)(base) | _of("weight._scale", kind=torch.float16)(base),
    "eetq": lambda base: _of("weight", kind=torch.int8)(base) | _of("weight_scales", kind=torch.float16)(base),
    "aqlm": _of("codes", "codebooks", "scales"),
    "quip": _of("Qidxs", "SU", "SV"),
    "mlx": lambda base: _of("weight", kind=torch.int32)(base) | _of("scales", "biases", kind=torch.float16)(base),
    "exl2": _of("q_weight", "q_scale", "q_groups", "q_invperm"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["model.safetensors", "gptq_model-4bit-128g.safetensors"])
def test_quantized_weights_are_called_quantized(form: str, name: str, llama: Path) -> None:
    _replace(llama, FORMS[form], name)
    line = _refusal(llama)
    assert "quantized" in line
    assert "GGUF" in line
    assert "fetch" not in line


@pytest.mark.parametrize("beside", ["quantize_config.json", "quant_config.json"])
def test_quantized_pickle_is_called_quantized(beside: str, llama: Path) -> None:
    (llama / "model.safetensors").rename(llama / "pytorch_model.bin")
    (llama / beside).write_text('{"bits": 4}')
    assert "quantized" in _refusal(llama)


def test_quantized_shards_under_another_name(llama: Path) -> None:
    (llama / "model.safetensors").unlink()
    index = {"weight_map": {f"{PROJECTION}.qweight": "gptq_model-4bit-00001-of-00002.safetensors"}}
    (llama / "gptq_model-4bit.safetensors.index.json").write_text(json.dumps(index))
    assert "quantized (GPTQ or AWQ)" in _refusal(llama)


@pytest.mark.parametrize(
    "config",
    [
        {"quantization_config": {"quant_method": "awq"}},
        {"quantization_config": {"load_in_4bit": True}},
        {"quantization": {"group_size": 64, "bits": 4}},
        {"compression_config": {"format": "pack-quantized"}},
    ],
)
def test_quantized_by_its_config(config: dict[str, Any], llama: Path) -> None:
    path = llama / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    assert "quantized" in _refusal(llama)


def test_a_left_over_quantize_config_refuses_no_plain_model(llama: Path) -> None:
    (llama / "quantize_config.json").write_text('{"bits": 4}')
    open_model(str(llama))


def _config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def _rename(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "model.safetensors").rename(folder / name)


def _write(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_rename("pytorch_model.bin"), "pickle, which can run code.*save_pretrained"),
        (_rename("model-00001-of-00002.safetensors"), "no model.safetensors.index.json"),
        (_rename("model.fp16.safetensors"), "rename it to model.safetensors"),
        (_rename("consolidated.safetensors"), "only consolidated.safetensors, in its maker's own form"),
        (_write("model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "git lfs pull"),
        (lambda folder: _config(folder, tie_word_embeddings=False), "lack 'lm_head.weight'.*set that to true"),
        (lambda folder: _config(folder, vocab_size=321), "has 320 rows: set it to 320"),
        (lambda folder: _config(folder, model_type="t5", is_encoder_decoder=True), "encoder-decoder.*llama, mistral"),
        (lambda folder: _config(folder, model_type="llava", vision_config={}), "multimodal model .llava.*llama"),
        (lambda folder: _config(folder, model_type="gpt2"), "'gpt2' is not supported; supported are llama"),
        (lambda folder: _config(folder, architectures=["LlamaForSequenceClassification"]), "no language-model head"),
    ],
)  # fmt: skip
def test_other_folders(change: Callable[[Path], object], expected: str, llama: Path) -> None:
    change(llama)
    with pytest.raises(EdgeSkipError, match=expected):
        open_model(str(llama))


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("snapshots/0123/config.json", "name the snapshot in it, .*snapshots/0123"),
        ("params.json", "use the Hugging Face form"),
        ("model_index.json", "diffusers"),
        ("checkpoint-500/config.json", "name the one inside it, .*checkpoint-500"),
    ],
)
def test_folders_without_a_config(file: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text("{}")
    with pytest.raises(EdgeSkipError, match=f"has no config.json: .*{expected}"):
        open_model(str(tmp_path))
