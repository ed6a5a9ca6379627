"""The real default model as GGUF in unmodified llama.cpp, over 512 tokens of WikiText-2 test.

Oracles: llama.cpp on the original file, and transformers with the same weights and the plan applied by hooks. Where
weights are quantized llama.cpp rounds activations to 8 bits, which alone is 0.0026 nats for the original file; so the
blocks that an export keeps are compared a second time, widened to F32 by the gguf package, which rounds nothing.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from files import engine_over, write_plan
from tokenizers import Tokenizer
from variants import in_one_prefill, torch_logits

from edgeskip.artifacts.gguf.header import read_gguf_header
from edgeskip.core.metrics import compare_logits as compare
from edgeskip.core.plan import Plan
from edgeskip.models.source import ModelSource, open_model
from edgeskip.models.torch_reference.load import load_torch_model
from edgeskip.models.torch_reference.skipping import skipped
from edgeskip.planning.planner import choose, resolve
from edgeskip.profiles.presets import ready_profile
from edgeskip.profiles.schema import read_profile
from edgeskip.profiles.vectors import read_vectors

DATA = Path(os.environ.get("EDGESKIP_DATA") or Path(__file__).parents[4] / "shared" / "data")
TEXT = DATA / "wikitext2_test.txt"
pytestmark = pytest.mark.skipif(not TEXT.is_file(), reason=f"no {TEXT}: point EDGESKIP_DATA at the folder of texts")
PLANS: dict[str, Any] = {
    **{f"adaskip {count}": count for count in (4, 8, 12, 16)},
    "attention only in block 7": "ffn.7",
    "FFN only in block 9": "attn.9",
    "block 12 removed": "attn.12,ffn.12",
    "first block removed": "attn.0,ffn.0",
    "first attention": "attn.0",
    "first FFN": "ffn.0",
    "last block removed": "attn.29,ffn.29",
    "last FFN": "ffn.29",
    "last attention": "attn.29",
    "a mix": "attn.3,ffn.5,attn.6,attn.11,ffn.11,ffn.20,attn.25,ffn.29",
}
QUICK = ("a mix",)


@pytest.fixture(scope="module")
def source(smollm2_gguf: Path) -> ModelSource:
    return open_model(str(smollm2_gguf))


@pytest.fixture(scope="module")
def oracle(source: ModelSource) -> Any:
    return load_torch_model(source)


@pytest.fixture(scope="module")
def tokens(source: ModelSource, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tokenizer")
    source.write_tokenizer(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = np.array(tokenizer.encode(TEXT.read_text(encoding="utf-8")[:4000]).ids[:512], dtype=np.int64)
    assert len(ids) == 512
    return ids


def plan_of(wanted: Any) -> Plan:
    """A number of sublayers by AdaSkip, or names; compensation affine, calibrated."""
    path = ready_profile("smollm2-135m-instruct")
    profile = read_profile(path)
    if isinstance(wanted, int):
        record = choose(profile, method="adaskip", compensation="affine", skip_sublayers=wanted)
    else:
        record = choose(profile, method="explicit", compensation="affine", skip=wanted.split(","))
    return resolve(profile.model_copy(update={"plan": record}), read_vectors(profile, path))


def widened(path: Path, target: Path) -> Path:
    """The same file with every tensor dequantized to F32 by the gguf package."""
    header = read_gguf_header(path)
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(target, header.metadata["general.architecture"])
    for key, value in header.metadata.items():
        if key != "general.architecture":
            kind, element = header.types[key]
            writer.add_key_value(
                key, value, gguf.GGUFValueType(kind), None if element is None else gguf.GGUFValueType(element)
            )
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


@pytest.mark.parametrize("architecture", ["llama", "deci"])
def test_a_dense_rewrite_is_bit_identical(
    source: ModelSource, smollm2_gguf: Path, tokens: Any, architecture: str, tmp_path: Path
) -> None:
    """Oracle: the original file in the same llama.cpp."""
    layout = write_plan(source, Plan(30), tmp_path / "x.gguf", precision="keep", architecture=architecture)
    assert layout.architecture == architecture
    original, rewritten = engine_over(smollm2_gguf), engine_over(tmp_path / "x.gguf")
    tokens = tokens[:128]
    np.testing.assert_array_equal(in_one_prefill(rewritten, tokens), in_one_prefill(original, tokens))
    np.testing.assert_array_equal(rewritten.step(tokens[:1]), original.step(tokens[:1]))


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in PLANS]
)
def test_plans_match_the_torch_model(source: ModelSource, oracle: Any, tokens: Any, name: str, tmp_path: Path) -> None:
    plan = plan_of(PLANS[name])
    with skipped(oracle, plan):
        expected = torch_logits(oracle, tokens)
    write_plan(source, plan, tmp_path / "keep.gguf", precision="keep")
    _, kept, kept_top1 = compare(expected, in_one_prefill(engine_over(tmp_path / "keep.gguf"), tokens))
    wide = in_one_prefill(engine_over(widened(tmp_path / "keep.gguf", tmp_path / "wide.gguf")), tokens)
    _, kl, top1 = compare(expected, wide)
    print(f"{name}: keep KL {kept:.2e}, top-1 {kept_top1:.2%}; its blocks as F32 KL {kl:.2e}, top-1 {top1:.2%}")
    assert (kl < 1e-3) & (top1 >= 0.99)
    assert kept < 0.1  # without the first FFN activations are so large that rounding them costs 0.05
