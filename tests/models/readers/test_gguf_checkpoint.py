"""GGUF files. Oracles: the gguf package's reader and dequantiser, the transformers model a file was written from, and
transformers' own GGUF loading of the default model."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from tiny_gguf import Kind, llama3_factors, write_tiny_gguf
from tiny_models import rope_config, tiny_model

from edgeskip.artifacts.gguf.header import read_gguf_header
from edgeskip.core.errors import EdgeSkipError
from edgeskip.models.readers.gguf_checkpoint import hugging_face_name
from edgeskip.models.source import open_model
from edgeskip.models.torch_reference.load import load_torch_model

TOKENS = [(7 * i * i + 3 * i) % 300 + 2 for i in range(48)]
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def _logits(model: Any, tokens: list[int] = TOKENS) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor([tokens])).logits
    return logits


def test_header_equals_the_gguf_package(smollm2_gguf: Path) -> None:
    header, oracle = read_gguf_header(smollm2_gguf), gguf.GGUFReader(smollm2_gguf)
    fields = {key: field.contents() for key, field in oracle.fields.items() if not key.startswith("GGUF.")}
    assert header.metadata.keys() == fields.keys()
    for key, value in header.metadata.items():
        assert value == (pytest.approx(fields[key], rel=1e-7) if isinstance(value, float) else fields[key]), key
        assert type(value) is type(fields[key]), key
    assert list(header.tensors) == [tensor.name for tensor in oracle.tensors]
    for tensor in oracle.tensors:
        ours = header.tensors[tensor.name]
        assert ours.shape == tuple(int(size) for size in reversed(tensor.shape))
        assert (ours.type, ours.offset, ours.num_bytes) == (tensor.tensor_type, tensor.data_offset, tensor.n_bytes)


def test_every_value_type(tmp_path: Path) -> None:
    """Oracle: what the gguf package's writer was given."""
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    given: dict[str, Any] = {}
    for name, value in {
        **{"uint8": 200, "int8": -100, "uint16": 60_000, "int16": -30_000, "uint32": 4_000_000_000, "int32": -5},
        **{"uint64": 2**63, "int64": -(2**62), "float32": 1e-05, "float64": 0.1, "bool": True, "string": "é \n"},
    }.items():
        getattr(writer, f"add_{name}")(f"x.{name}", value)
        given[f"x.{name}"] = value
    for name, values in {
        "ints": [1, -2, 3],
        "strings": ["", "a", "ü"],
        "floats": [0.5, 2.0],
        "bools": [True, False],
    }.items():
        writer.add_array(f"x.{name}", values)
        given[f"x.{name}"] = values
    writer.add_custom_alignment(64)
    writer.add_tensor("t", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    header = read_gguf_header(tmp_path / "x.gguf")
    assert {key: header.metadata[key] for key in given} == given
    assert header.tensors["t"].offset % 64 == 0
    assert header.tensors["t"].shape == (2, 3)


def test_names_equal_the_gguf_packages_map() -> None:
    for family in ("llama", "qwen3"):
        model = tiny_model(family, attention_bias=True, tie_word_embeddings=False)
        names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, family.upper()), 4)
        for name, _ in model.named_parameters():
            assert hugging_face_name(names.get_name(name, try_suffixes=(".weight", ".bias"))) == name
    for name in (
        "rope_freqs.weight",
        "blk.0.ffn_gate_exps.weight",
        "blk.x.attn_q.weight",
        "token_embd",
        "a.b.c.weight",
    ):
        assert hugging_face_name(name) is None


@pytest.mark.parametrize(
    ("family", "overrides"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": False}),
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("llama", {"head_dim": 32}),
        ("qwen2", {}),
        ("qwen3", {}),
        ("smollm3", {}),
        ("mistral", {}),
    ],
)
def test_logits_equal_the_model_it_was_written_from(family: str, overrides: dict[str, Any], tmp_path: Path) -> None:
    model = tiny_model(family, **overrides)
    source = open_model(str(write_tiny_gguf(model, tmp_path / "x.gguf")))
    assert source.decoder.config.family == ("llama" if family == "mistral" else family)
    for name, parameter in model.named_parameters():
        np.testing.assert_array_equal(source.tensors[name].read(), parameter.numpy(), err_msg=name)
    assert torch.equal(_logits(load_torch_model(source)), _logits(model))
    assert torch.equal(_logits(load_torch_model(source, stream=True)), _logits(model))


def test_sliding_window_makes_it_a_mistral(tmp_path: Path) -> None:
    model = tiny_model("mistral", sliding_window=8)
    path = write_tiny_gguf(model, tmp_path / "x.gguf", metadata={"llama.attention.sliding_window": 8})
    source = open_model(str(path))
    assert source.decoder.config.family == "mistral"
    assert torch.equal(_logits(load_torch_model(source)), _logits(model))


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_quantized_matrices(kind: str, tmp_path: Path) -> None:
    """Oracle: the gguf package's round trip of the rows; quantising is by row, so reordering rows commutes with it."""
    model = tiny_model("llama")
    source = open_model(str(write_tiny_gguf(model, tmp_path / "x.gguf", kind=Kind[kind])))
    for name, parameter in model.named_parameters():
        expected = parameter.numpy()
        if expected.ndim > 1:
            expected = gguf.quants.dequantize(gguf.quants.quantize(expected, Kind[kind]), Kind[kind])
        array = source.tensors[name].read()
        np.testing.assert_array_equal(array, expected, err_msg=name)
        assert (array.dtype, array.flags.c_contiguous, array.shape) == (np.float32, True, source.tensors[name].shape)


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"])
def test_kinds_that_only_llama_cpp_writes(kind: str, tmp_path: Path) -> None:
    """Random blocks of a 256-wide embedding; oracle: the gguf package's reader and dequantiser on the same file."""
    block, size = gguf.GGML_QUANT_SIZES[Kind[kind]]
    raw = np.random.default_rng(0).integers(0, 60, (320, 256 // block * size), dtype=np.uint8)
    model = tiny_model("llama", hidden_size=256, num_hidden_layers=1)
    path = write_tiny_gguf(model, tmp_path / "x.gguf", raw={"token_embd.weight": (raw, Kind[kind])})
    stored = next(tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name == "token_embd.weight")
    expected = gguf.quants.dequantize(stored.data, stored.tensor_type)
    array = open_model(str(path)).decoder.embedding.read()
    assert array.shape == (320, 256)
    np.testing.assert_array_equal(array, expected)


def _transformers_reading(path: Path) -> Any:
    from transformers import AutoModelForCausalLM, __version__

    if int(__version__.split(".")[0]) < 5 and importlib.util.find_spec("accelerate") is None:
        pytest.skip("transformers 4 reads GGUF only with the package accelerate")
    return AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, local_files_only=True
    )


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_equals_transformers_own_reading(family: str, tmp_path: Path) -> None:
    # transformers ignores a GGUF's attention.key_length and assumes Qwen3's default head size.
    model = tiny_model(family, **({"head_dim": 128} if family == "qwen3" else {}))
    path = write_tiny_gguf(model, tmp_path / "x.gguf", kind=Kind.Q8_0)
    oracle = _transformers_reading(path)
    assert torch.equal(_logits(load_torch_model(open_model(str(path)))), _logits(oracle))


@pytest.mark.slow  # transformers parses the vocabulary several times
def test_default_model_equals_transformers_own_reading(smollm2_gguf: Path) -> None:
    tokens = [1, 504, 3575, 282, 4649, 314]
    oracle = _transformers_reading(smollm2_gguf)
    source = open_model(str(smollm2_gguf))
    assert torch.equal(_logits(load_torch_model(source), tokens), _logits(oracle, tokens))
    for key in ("vocab_size", "hidden_size", "num_hidden_layers", "num_key_value_heads", "max_position_embeddings"):
        assert source.config[key] == getattr(oracle.config, key)


@pytest.mark.parametrize("original", [8192, 64])
@pytest.mark.parametrize(("low", "high"), [(1.0, 4.0), (1.0, 16.0), (2.0, 6.0)])
def test_llama3_factors_become_parameters(low: float, high: float, original: int, tmp_path: Path) -> None:
    """llama.cpp keeps Llama 3's scaling as a tensor of divisors; oracle: the model with the original parameters."""
    scaling = {**LLAMA3, "original_max_position_embeddings": original, "low_freq_factor": low, "high_freq_factor": high}
    model = tiny_model("llama", head_dim=64, **rope_config(theta=500_000.0, scaling=scaling))
    factors = llama3_factors(scaling, 500_000.0, 64)
    assert len(set(factors)) > 3
    source = open_model(
        str(write_tiny_gguf(model, tmp_path / "x.gguf", extra_tensors={"rope_freqs.weight": factors}, theta=500_000.0))
    )
    rope = source.decoder.config.rope
    np.testing.assert_allclose(rope.inverse_frequencies, model.model.rotary_emb.inv_freq.numpy(), rtol=2e-6)
    torch.testing.assert_close(_logits(load_torch_model(source)), _logits(model), atol=1e-4, rtol=0)
    if (low, high) == (1.0, 4.0):
        assert source.config["rope_scaling"] == pytest.approx(scaling)


def test_factors_of_one_mean_no_scaling(tmp_path: Path) -> None:
    path = write_tiny_gguf(
        tiny_model("llama"), tmp_path / "x.gguf", extra_tensors={"rope_freqs.weight": np.ones(8, np.float32)}
    )
    assert open_model(str(path)).config["rope_scaling"] is None


@pytest.mark.parametrize(
    ("scaling", "keys"),
    [
        ({"rope_type": "linear", "factor": 4.0}, {"type": "linear", "factor": 4.0}),
        (
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
            {"type": "yarn", "factor": 4.0, "original_context_length": 128},
        ),
        (
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "beta_fast": 16.0},
            {"type": "yarn", "factor": 4.0, "original_context_length": 128, "yarn_beta_fast": 16.0},
        ),
        (None, {"type": "none"}),
    ],
)
def test_rope_scaling_metadata(scaling: dict[str, Any] | None, keys: dict[str, Any], tmp_path: Path) -> None:
    model = tiny_model("qwen2", **rope_config(scaling=scaling))
    metadata = {f"qwen2.rope.scaling.{key}": value for key, value in keys.items()}
    source = open_model(str(write_tiny_gguf(model, tmp_path / "x.gguf", metadata=metadata)))
    assert source.config["rope_scaling"] == scaling
    assert torch.equal(_logits(load_torch_model(source)), _logits(model))


def test_old_linear_scaling_key(tmp_path: Path) -> None:
    path = write_tiny_gguf(tiny_model("llama"), tmp_path / "x.gguf", metadata={"llama.rope.scale_linear": 2.0})
    assert open_model(str(path)).config["rope_scaling"] == {"rope_type": "linear", "factor": 2.0}


def test_generation_config_lists_every_end(tmp_path: Path) -> None:
    metadata = {"tokenizer.ggml.eot_token_id": 7, "tokenizer.ggml.padding_token_id": 3}
    path = write_tiny_gguf(tiny_model("llama"), tmp_path / "x.gguf", metadata=metadata)
    assert open_model(str(path)).generation_config == {"bos_token_id": 0, "eos_token_id": [1, 7], "pad_token_id": 3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metadata": {"general.architecture": "gemma3"}}, "'gemma3' is not supported; supported are llama, qwen2"),
        ({"metadata": {"llama.expert_count": 8}}, "mixture-of-experts"),
        ({"metadata": {"split.count": 3}}, "llama-gguf-split --merge"),
        ({"metadata": {"llama.block_count": None}}, r"'llama\.block_count' is missing"),
        ({"metadata": {"llama.block_count": "four"}}, "expected a whole number"),
        ({"metadata": {"llama.attention.head_count": [4, 4, 4, 0]}}, "expected a positive number"),
        ({"metadata": {"llama.attention.value_length": 8}}, "expected the head size 16"),
        ({"metadata": {"llama.rope.dimension_count": 8}}, "expected the head size 16"),
        ({"metadata": {"llama.rope.scaling.type": "longrope", "llama.rope.scaling.factor": 2.0}}, "'longrope' is not"),
        (
            {
                "metadata": dict(
                    zip(
                        [f"llama.rope.scaling.{k}" for k in ("type", "factor", "yarn_ext_factor")],
                        ["yarn", 2.0, 0.5],
                        strict=True,
                    )
                )
            },
            "yarn_ext_factor other than 1.0",
        ),
        ({"metadata": {"tokenizer.ggml.eos_token_id": "x"}}, "expected a whole number"),
        ({"skip_tensors": ("blk.2.ffn_up.weight",)}, r"lack 'model\.layers\.2\.mlp\.up_proj\.weight'"),
        ({"skip_tensors": ("token_embd.weight",)}, r"lack 'token_embd\.weight'"),
        ({"extra_tensors": {"blk.0.attn_sinks.weight": np.ones(4, np.float32)}}, "does not use"),
        ({"extra_tensors": {"blk.0.attn_q_norm.weight": np.ones(16, np.float32)}}, "does not use"),
        (
            {"extra_tensors": {"rope_freqs.weight": np.linspace(1, 9, 8, dtype=np.float32) ** 2}},
            "not Llama 3's scaling",
        ),
        ({"extra_tensors": {"rope_freqs.weight": np.zeros(8, np.float32)}}, "8 positive numbers"),
        ({"extra_tensors": {"rope_freqs.weight": np.ones(5, np.float32)}}, "8 positive numbers"),
        ({"metadata": {"llama.embedding_length": 32}}, "config and weights are not of one model"),
    ],
)
def test_unsupported_files_are_named(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write_tiny_gguf(tiny_model("llama"), tmp_path / "x.gguf", **arguments)
    with pytest.raises(EdgeSkipError, match=message) as caught:
        open_model(str(path))
    assert "\n" not in str(caught.value)


def _refused(path: Path, message: str) -> None:
    with pytest.raises(EdgeSkipError, match=message) as caught:
        open_model(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.05, 0.5, 0.999])
def test_truncated(share: float, tmp_path: Path) -> None:
    path = write_tiny_gguf(tiny_model("llama"), tmp_path / "x.gguf")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    _refused(path, "is not a whole GGUF file")


@pytest.mark.parametrize(
    ("offset", "patch", "message"),
    [
        (0, b"GGML", "does not start with 'GGUF'"),
        (4, b"\x01\0\0\0", "version 1 GGUF"),
        (4, b"\0\0\0\x03", "big-endian GGUF"),
        (8, b"\xff" * 8, "promises more"),
        (16, b"\xff" * 8, "promises more"),
        (24, b"\xff" * 8, "promises more"),
    ],
)
def test_damaged_header(offset: int, patch: bytes, message: str, tmp_path: Path) -> None:
    path = write_tiny_gguf(tiny_model("llama"), tmp_path / "x.gguf")
    data = bytearray(path.read_bytes())
    data[offset : offset + len(patch)] = patch
    path.write_bytes(data)
    _refused(path, message)


def test_flipped_header_bytes_never_escape_as_other_errors(tmp_path: Path) -> None:
    """A file is either refused in words or opens; 300 random damages of the header, seeded."""
    path = write_tiny_gguf(
        tiny_model("llama", num_hidden_layers=1), tmp_path / "x.gguf", metadata={"tokenizer.ggml.tokens": ["a"]}
    )
    whole = path.read_bytes()
    end = min(tensor.offset for tensor in read_gguf_header(path).tensors.values())
    random = np.random.default_rng(0)
    messages = []
    for _ in range(300):
        data = bytearray(whole)
        data[int(random.integers(end))] = int(random.integers(256))
        path.write_bytes(data)
        try:
            open_model(str(path))
        except EdgeSkipError as error:
            messages.append(str(error))
    assert len(messages) > 100
    assert not [message for message in messages if "\n" in message]
