"""The metadata of written files. Oracle: the gguf package reading them, and the keys of llama.cpp's converter."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from files import write_plan
from talking_gguf import byte_level_metadata, talking_gguf
from tiny_gguf import Kind, llama3_factors, write_tiny_gguf
from tiny_models import VOCAB_SIZE, rope_config, tiny_checkpoint, tiny_model
from variants import LLAMA3, YARN, random_plan

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.plan import Plan
from edgeskip.exporters.gguf.dequantize import write_dequantized
from edgeskip.exporters.gguf.write import patch_string
from edgeskip.models.source import ModelSource, open_model

V = gguf.GGUFValueType
CARD = """---
license: apache-2.0
license_name: 2.5
version: 2024-01-31
language: [en, fr]
tags:
- text-generation
- 7
base_model: someone/Some-Base-1B
---
# A model
"""


def fields_of(path: Path) -> dict[str, tuple[Any, list[Any]]]:
    """key -> (value, types), GGUF's own header counts left out."""
    fields = gguf.GGUFReader(path).fields.items()
    return {key: (field.contents(), field.types) for key, field in fields if not key.startswith("GGUF.")}


def written(
    source: ModelSource, path: Path, *skip: str, precision: str = "f16", architecture: str | None = None
) -> dict[str, Any]:
    """The metadata of the file with the plan, without types."""
    config = source.decoder.config
    plan = random_plan(list(skip), "scale", num_blocks=config.num_blocks, hidden_size=config.hidden_size)
    write_plan(source, plan, path, precision=precision, architecture=architecture)
    return {key: value for key, (value, _) in fields_of(path).items()}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return tiny_checkpoint("llama", tmp_path / "Tiny-Llama-1B")


def test_the_shape_in_the_familys_own_keys(checkpoint: Path, tmp_path: Path) -> None:
    metadata = written(open_model(str(checkpoint)), tmp_path / "x.gguf", "attn.1", "ffn.1")
    assert {key: value for key, value in metadata.items() if key.startswith("llama.")} == {
        "llama.vocab_size": VOCAB_SIZE,
        "llama.context_length": 512,
        "llama.embedding_length": 64,
        "llama.block_count": 3,
        "llama.feed_forward_length": 128,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 16,
        "llama.attention.value_length": 16,
        "llama.attention.layer_norm_rms_epsilon": pytest.approx(1e-5),
        "llama.rope.dimension_count": 16,
        "llama.rope.freq_base": 10000.0,
    }
    assert metadata["general.architecture"] == "llama"
    assert (metadata["general.type"], metadata["general.file_type"]) == ("model", 1)
    assert metadata["general.quantization_version"] == 2


def test_decis_arrays(checkpoint: Path, tmp_path: Path) -> None:
    """Blocks: a stub with one head for attn.0, one without attention, one whose FFN is a stub."""
    path = tmp_path / "x.gguf"
    metadata = written(open_model(str(checkpoint)), path, "attn.0", "attn.1", "ffn.2", "attn.3", "ffn.3")
    assert metadata["general.architecture"] == "deci"
    assert metadata["deci.block_count"] == 3
    assert metadata["deci.attention.head_count"] == [1, 0, 4]
    assert metadata["deci.attention.head_count_kv"] == [1, 0, 2]
    assert metadata["deci.feed_forward_length"] == [128, 128, 32]
    assert metadata["deci.attention.key_length"] == metadata["deci.attention.value_length"] == 16
    assert fields_of(path)["deci.attention.head_count"][1] == [V.ARRAY, V.INT32]
    assert not [key for key in metadata if key.startswith("llama.")]
    shapes = {tensor.name: tensor.shape.tolist() for tensor in gguf.GGUFReader(path).tensors}
    assert shapes["blk.0.attn_q.weight"] == shapes["blk.0.attn_k.weight"] == [64, 16]
    assert shapes["blk.2.ffn_up.weight"] == [64, 32]
    assert "blk.1.attn_norm.weight" not in shapes


@pytest.mark.parametrize("architecture", ["llama", "deci"])
@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        (rope_config(theta=5e5), {"freq_base": 5e5}),
        (rope_config(scaling={"rope_type": "linear", "factor": 4.0}), {"scaling.type": "linear", "scaling.factor": 4}),
        (
            rope_config(scaling=YARN),
            {"scaling.type": "yarn", "scaling.factor": 4, "scaling.original_context_length": 128},
        ),
        (
            rope_config(scaling=YARN | {"beta_fast": 16.0, "beta_slow": 2.0, "attention_factor": 1.5}),
            {
                "scaling.type": "yarn",
                "scaling.factor": 4,
                "scaling.original_context_length": 128,
                "scaling.yarn_beta_fast": 16,
                "scaling.yarn_beta_slow": 2,
                # llama.cpp multiplies by 0.1·ln(factor) + 1 of its own accord.
                "scaling.attn_factor": pytest.approx(1.5 / (0.1 * math.log(4) + 1)),
            },
        ),
        (rope_config(scaling=LLAMA3), {}),  # a tensor instead
    ],
    ids=["theta", "linear", "yarn", "yarn in full", "llama3"],
)
def test_rope_scaling(rope: dict[str, Any], expected: dict[str, Any], architecture: str, tmp_path: Path) -> None:
    source = open_model(str(tiny_checkpoint("llama", tmp_path / "m", **rope)))
    metadata = written(source, tmp_path / "x.gguf", architecture=architecture)
    prefix = f"{architecture}.rope."
    found = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
    assert found == {"dimension_count": 16, "freq_base": 1e4, **expected}
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "x.gguf").tensors}
    if rope == rope_config(scaling=LLAMA3):
        np.testing.assert_allclose(tensors["rope_freqs.weight"], llama3_factors(LLAMA3, 1e4, 16), rtol=1e-6)
    else:
        assert "rope_freqs.weight" not in tensors


def test_yarn_that_llamacpp_does_not_have(tmp_path: Path) -> None:
    rope = rope_config(scaling=YARN | {"truncate": False})
    source = open_model(str(tiny_checkpoint("llama", tmp_path / "m", **rope)))
    with pytest.raises(EdgeSkipError, match="'truncate': false is not possible"):
        written(source, tmp_path / "x.gguf")
    assert not (tmp_path / "x.gguf").exists()


def test_a_window_ends_the_context_where_it_is_kept(tmp_path: Path) -> None:
    """The last two blocks have one; without their attention there is none."""
    window = {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 2}
    source = open_model(str(tiny_checkpoint("qwen2", tmp_path / "m", **window)))
    assert written(source, tmp_path / "x.gguf")["qwen2.context_length"] == 8
    assert written(source, tmp_path / "y.gguf", "attn.2", "attn.3")["deci.context_length"] == 512


def test_a_model_card(checkpoint: Path, tmp_path: Path) -> None:
    """Licence and origin, as texts: YAML reads 2.5 as a number and 2024-01-31 as a date."""
    (checkpoint / "README.md").write_text(CARD, encoding="utf-8")
    written(open_model(str(checkpoint)), tmp_path / "x.gguf")
    fields = fields_of(tmp_path / "x.gguf")
    for key, value in {
        "general.name": "Tiny Llama 1B",
        "general.license": "apache-2.0",
        "general.license.name": "2.5",
        "general.version": "2024-01-31",
        "general.base_model.0.organization": "Someone",
        "general.base_model.0.repo_url": "https://huggingface.co/someone/Some-Base-1B",
    }.items():
        assert fields[key] == (value, [V.STRING])
    assert fields["general.tags"] == (["text-generation", "7"], [V.ARRAY, V.STRING])
    assert fields["general.languages"][0] == ["en", "fr"]


def test_without_a_model_card(checkpoint: Path, tmp_path: Path) -> None:
    metadata = written(open_model(str(checkpoint)), tmp_path / "x.gguf")
    assert metadata["general.name"] == "Tiny Llama 1B"
    assert "general.license" not in metadata


@pytest.mark.parametrize(
    ("card", "key", "value"),
    [
        ("license: 3", "general.license", "3"),
        ("license: [mit, apache-2.0]", "general.license", "mit,apache-2.0"),
        ("author: [Ann, Bob]", "general.author", "Ann, Bob"),
        ("model_name: 5", "general.name", "5"),
        ("tags: [1, 2]", "general.tags", ["1", "2"]),
        ("license: null", "general.license", None),
        ("- a\n- b", "general.license", None),
    ],
)
def test_odd_model_cards(
    checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], card: str, key: str, value: Any
) -> None:
    """As text where that is what they mean, and not a word on stderr."""
    (checkpoint / "README.md").write_text(f"---\n{card}\n---\n", encoding="utf-8")
    source = open_model(str(checkpoint))
    capfd.readouterr()
    assert written(source, tmp_path / "x.gguf").get(key) == value
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("README.md", b"---\na: [\n---\n", "its model card cannot be read (while parsing"),
        ("README.md", b"\xff\xfe\x00", "its model card cannot be read"),
        ("README.md", b"---\ndescription: {a: b}\n---\n", "README.md or generation_config.json has {'a': 'b'} for"),
        ("README.md", b"---\nlicense: {a: b}\n---\n", "for general.license; correct it"),
        ("generation_config.json", b'{"top_k": 5.5}', "has 5.5 for general.sampling.top_k; correct it"),
        ("generation_config.json", b'{"temperature": "hot"}', "has 'hot' for general.sampling.temp; correct it"),
    ],
)
def test_damaged_model_cards(checkpoint: Path, tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (checkpoint / name).write_bytes(content)
    source = open_model(str(checkpoint))
    with pytest.raises(EdgeSkipError) as info:
        written(source, tmp_path / "x.gguf")
    assert str(checkpoint) in str(info.value)
    assert told in str(info.value)
    assert "\n" not in str(info.value)
    assert not (tmp_path / "x.gguf").exists()


def test_the_tokenizer_of_a_folder(checkpoint: Path, tmp_path: Path) -> None:
    written(open_model(str(checkpoint)), tmp_path / "x.gguf")
    fields = fields_of(tmp_path / "x.gguf")
    assert fields["tokenizer.ggml.model"] == ("gpt2", [V.STRING])
    assert len(fields["tokenizer.ggml.tokens"][0]) == VOCAB_SIZE
    assert fields["tokenizer.ggml.token_type"][1] == [V.ARRAY, V.INT32]
    assert fields["tokenizer.ggml.eos_token_id"] == (1, [V.UINT32])
    assert fields["tokenizer.ggml.add_bos_token"][1] == [V.BOOL]
    assert "<|im_start|>" in fields["tokenizer.chat_template"][0]


def test_special_tokens_that_only_the_config_names(checkpoint: Path, tmp_path: Path) -> None:
    """A list of end tokens counts by its first."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        content = json.loads((checkpoint / name).read_text())
        (checkpoint / name).write_text(json.dumps({k: v for k, v in content.items() if not k.endswith("_token")}))
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "bos_token_id": 0, "eos_token_id": [1, 5]}))
    metadata = written(open_model(str(checkpoint)), tmp_path / "x.gguf")
    ids = [metadata[f"tokenizer.ggml.{role}_token_id"] for role in ("bos", "eos")]
    assert ids == [0, 1]


CARRIED: dict[str, Any] = {
    "general.name": "Näme",
    "general.license": "mit",
    "general.tags": ["a", "b"],
    "general.sampling.temp": 0.1,
    "general.quantized_by": "someone",
    "tokenizer.ggml.add_space_prefix": False,
    "tokenizer.ggml.eot_token_id": 1,
    "tokenizer.ggml.scores": [0.1, -2.0] * 160,  # one for each of its tokens
    "tokenizer.chat_templates": ["tool_use"],
    "tokenizer.chat_template.tool_use": "{{ x }}",
}


@pytest.mark.parametrize("architecture", ["llama", "deci"])
def test_a_ggufs_own_keys_are_carried_over(tmp_path: Path, architecture: str) -> None:
    """Values and types, none lost; its shape, type and other programs' keys are not."""
    stale = {"general.file_type": 2, "llama.rope.scaling.type": "none", "quantize.imatrix.file": "x", "llama.foo": 3}
    path, _ = talking_gguf(tmp_path / "m.gguf", {**CARRIED, **stale}, kind=Kind.Q4_0)
    write_plan(open_model(str(path)), Plan(4), tmp_path / "x.gguf", precision="keep", architecture=architecture)
    before, after = fields_of(path), fields_of(tmp_path / "x.gguf")
    wanted = {key for key in before if key.startswith(("general.", "tokenizer."))} - {"general.architecture"}
    assert {*CARRIED, *byte_level_metadata()} <= wanted
    for key in wanted:
        assert after[key] == before[key]
    others = {key for key in after if key not in wanted}
    assert {key.split(".")[0] for key in others} == {architecture, "general"}
    assert {key for key in others if key.startswith("general.")} == {
        "general.architecture",
        "general.quantization_version",
    }
    assert f"{architecture}.foo" not in after


def test_types_that_our_own_writer_would_not_choose(tmp_path: Path) -> None:
    """UINT8, UINT64, FLOAT64 and an array of INT8 stay what they are; an empty array reads the same as none."""
    path, _ = talking_gguf(tmp_path / "m.gguf")
    typed = [
        ("general.u8", 200, V.UINT8, None),
        ("general.u64", 2**40, V.UINT64, None),
        ("general.i16", -3, V.INT16, None),
        ("general.f64", 1 / 3, V.FLOAT64, None),
        ("general.f32", 1e-5, V.FLOAT32, None),
        ("general.i8s", [-1, 2], V.ARRAY, V.INT8),
        ("general.flags", [True, False], V.ARRAY, V.BOOL),
    ]
    source = open_model(str(path))
    header = source.checkpoint.gguf
    assert header is not None
    for key, value, kind, element in typed:
        header.metadata[key], header.types[key] = value, (int(kind), None if element is None else int(element))
    header.metadata["general.none"], header.types["general.none"] = [], (int(V.ARRAY), int(V.STRING))
    write_plan(source, Plan(4), tmp_path / "x.gguf", precision="keep")
    fields = fields_of(tmp_path / "x.gguf")
    for key, value, kind, element in typed:
        assert fields[key][1] == [kind, *([] if element is None else [element])]
        assert fields[key][0] == (np.float32(value) if kind == V.FLOAT32 else value)
    assert "general.none" not in fields


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tokenizer.ggml.merges": None}, "no merges"),
        ({"tokenizer.ggml.model": "bert"}, "'bert'"),
        ({"tokenizer.ggml.pre": "nonsense"}, "'nonsense'"),
        ({"tokenizer.ggml.tokens": None}, "tokens"),
    ],
)
def test_a_vocabulary_that_cannot_be_used(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    """Refused where it is read: nothing else would, with the check switched off."""
    path, _ = talking_gguf(tmp_path / "m.gguf", changes)
    with pytest.raises(EdgeSkipError, match=told):
        write_plan(open_model(str(path)), Plan(4), tmp_path / "x.gguf", precision="keep")
    assert not (tmp_path / "x.gguf").exists()


def strings(path: Path, **keys: str) -> Path:
    """A GGUF of strings and one tensor whose bytes hold the keys too."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in keys.items():
        writer.add_string(key, value)
    writer.add_array("tokens", [*keys, "another"])
    writer.add_tensor("t", np.frombuffer("".join(keys).ljust(64).encode(), np.uint8).view(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_string_is_patched_in_place(tmp_path: Path) -> None:
    """Its name is a value, a token and in a tensor besides."""
    path = strings(tmp_path / "x.gguf", before="the_key", the_key="null".ljust(20), after="null")
    size = path.stat().st_size
    before = fields_of(path)
    patch_string(path, "the_key", "null".ljust(20), "ünd")
    after = fields_of(path)
    assert path.stat().st_size == size
    assert after.pop("the_key") == ("ünd".ljust(19), [V.STRING])  # 20 bytes
    before.pop("the_key")
    assert after == before


def test_what_cannot_be_patched(tmp_path: Path) -> None:
    path = strings(tmp_path / "x.gguf", the_key="four")
    data = path.read_bytes()
    for key, old, new in (("the_key", "null", "x"), ("other", "four", "x"), ("the_key", "four", "fünf")):
        with pytest.raises(ValueError, match=r"no key|room for 4 bytes, not 5"):
            patch_string(path, key, old, new)
    assert path.read_bytes() == data


@pytest.mark.parametrize(("kind", "wide"), [("Q4_1", "F16"), ("Q8_0", "F16"), ("F16", "F16"), ("BF16", "F32")])
def test_widened(tmp_path: Path, kind: str, wide: str) -> None:
    """Oracle: the gguf package's dequantizing. Same metadata; blocks become F16, BF16 becomes F32."""
    path, _ = talking_gguf(tmp_path / "m.gguf", {"general.name": "n"}, kind=Kind[kind])
    write_dequantized(path, tmp_path / "w.gguf")
    assert fields_of(tmp_path / "w.gguf") == fields_of(path)
    was, now = (gguf.GGUFReader(file).tensors for file in (path, tmp_path / "w.gguf"))
    assert [tensor.name for tensor in was] == [tensor.name for tensor in now]
    for before, after in zip(was, now, strict=True):
        vector = len(before.shape) == 1
        assert after.tensor_type == (Kind.F32 if vector else Kind[wide])
        weight = gguf.quants.dequantize(before.data, before.tensor_type)
        expected = weight if wide == "F32" or vector else weight.astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(gguf.quants.dequantize(after.data, after.tensor_type), expected)


def test_widening_leaves_f32_alone(tmp_path: Path) -> None:
    """Weights beyond the range of 16 bits too."""
    big = np.full((64, 64), 1e6, np.float32)
    path = write_tiny_gguf(
        tiny_model("llama"), tmp_path / "m.gguf", kind=Kind.Q8_0, raw={"blk.0.attn_q.weight": (big, Kind.F32)}
    )
    write_dequantized(path, tmp_path / "w.gguf")
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "w.gguf").tensors}
    np.testing.assert_array_equal(tensors["blk.0.attn_q.weight"].data, big)
