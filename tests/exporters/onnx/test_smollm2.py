"""The real default model: exports of it against transformers over 512 tokens of WikiText-2 test."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from lowering import engine_of
from tokenizers import Tokenizer
from variants import in_one_prefill, in_steps

from edgeskip.core.plan import Plan
from edgeskip.exporters.onnx.formats import WeightFormat
from edgeskip.models.source import ModelSource, open_model
from edgeskip.models.torch_reference.load import load_torch_model
from edgeskip.models.torch_reference.skipping import skipped
from edgeskip.planning.planner import resolve
from edgeskip.profiles.presets import ready_profile
from edgeskip.profiles.schema import read_profile
from edgeskip.profiles.vectors import read_vectors

DATA = Path(os.environ.get("EDGESKIP_DATA") or Path(__file__).parents[4] / "shared" / "data")
TEXT = DATA / "wikitext2_test.txt"
pytestmark = pytest.mark.skipif(not TEXT.is_file(), reason=f"no {TEXT}: point EDGESKIP_DATA at the folder of texts")


@pytest.fixture(scope="module")
def source(smollm2_gguf: Path) -> ModelSource:
    return open_model(str(smollm2_gguf))


@pytest.mark.parametrize("skipping", [False, True], ids=["dense", "ready profile's plan"])
def test_logits_are_transformers_own(source: ModelSource, tmp_path: Path, skipping: bool) -> None:
    """Oracle: the transformers model with the same weights, and the plan applied by hooks."""
    path = ready_profile("smollm2-135m-instruct")
    profile = read_profile(path)
    plan = resolve(profile, read_vectors(profile, path)) if skipping else Plan(profile.model.num_blocks)
    source.write_tokenizer(tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokens = np.array(tokenizer.encode(TEXT.read_text(encoding="utf-8")[:4000]).ids[:512], dtype=np.int64)
    assert len(tokens) == 512
    model = load_torch_model(source)
    with torch.inference_mode(), skipped(model, plan):
        expected = model(torch.from_numpy(tokens)[None]).logits[0].numpy()
    engine = engine_of(source, plan, WeightFormat("fp32"), tmp_path / "artifact")
    differences = [np.abs(run(engine, tokens) - expected).max() for run in (in_one_prefill, in_steps)]
    print("max |Δlogit|", differences)
    assert max(differences) <= 1e-3
