"""An exported checkpoint, from messages to text, against transformers doing the same with the checkpoint itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import edgeskip
from edgeskip.artifacts.manifest import Manifest, PlanSummary
from edgeskip.artifacts.path_errors import MANIFEST_NAME
from edgeskip.core.plan import Plan
from edgeskip.exporters.bake import bake
from edgeskip.exporters.onnx.formats import WeightFormat
from edgeskip.exporters.onnx.lower import lower
from edgeskip.exporters.onnx.sidecars import write_sidecars
from edgeskip.models.source import open_model

MESSAGES = [{"role": "system", "content": "Bé brief."}, {"role": "user", "content": "What is 12 + 30?"}]


@pytest.fixture(scope="module")
def session(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> edgeskip.Session:
    folder = tmp_path_factory.mktemp("artifact")
    source = open_model(str(tiny_llama))
    plan = Plan(source.record().num_blocks)
    graph = lower(bake(source.decoder, plan), WeightFormat(), folder)
    write_sidecars(source, graph, folder)
    source.write_tokenizer(folder)
    summary = PlanSummary(method="dense", compensation="none", skip=[], num_blocks=plan.num_blocks)
    manifest = Manifest(
        label="dense", model=source.record(), graph=graph, plan=summary, inputs={}, files={}, versions={}, created="",
        verification=None,
    )  # fmt: skip
    (folder / MANIFEST_NAME).write_text(manifest.model_dump_json(), encoding="utf-8")
    return edgeskip.load(folder, threads=1)


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_chat_tokens_and_text_are_transformers_own(session: edgeskip.Session, tiny_llama: Path, penalty: float) -> None:
    """Oracle: apply_chat_template, generate (greedy) and decode of transformers on the checkpoint."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32).eval()
    prompt = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    ids = prompt["input_ids"]
    assert session.encode(MESSAGES).tolist() == ids[0].tolist()

    output = model.generate(ids, max_new_tokens=60, do_sample=False, repetition_penalty=penalty)
    expected = output[0, ids.shape[1] :].tolist()
    generation = session.generate(MESSAGES, max_tokens=60, sampling=edgeskip.Sampling(repetition_penalty=penalty))
    end = [] if generation.finish_reason == "length" else [expected[-1]]
    assert [*generation.tokens, *end] == expected
    assert generation.label == "dense"
    whole = tokenizer.decode(generation.tokens, skip_special_tokens=True)
    assert whole.startswith(generation.text)
    assert set(whole[len(generation.text) :]) <= {"\ufffd"}  # a last character that is not complete is left out
