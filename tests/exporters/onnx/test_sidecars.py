"""The files for other people's runtimes. Oracles: transformers reads them back; ONNX Runtime GenAI's "Config
reference" names the fields, whose values are counted by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lowering import artifact_of
from tiny_models import CHAT_TEMPLATE, FAMILIES, tiny_checkpoint
from variants import random_plan

from edgeskip.artifacts.manifest import DraftRecord, PlanSummary
from edgeskip.exporters.draft import ExitDraft, draft_head
from edgeskip.exporters.onnx.drafts import lower_early_exit, lower_skip_plan
from edgeskip.exporters.onnx.formats import WeightFormat
from edgeskip.exporters.onnx.sidecars import write_sidecars
from edgeskip.models.source import ModelSource, open_model

PAST = ("past_key_values.%d.key", "past_key_values.%d.value")


def sidecars(source: ModelSource, names: list[str], folder: Path) -> dict[str, Any]:
    plan = random_plan(names, "scale", num_blocks=4, hidden_size=64)
    manifest = artifact_of(source, plan, WeightFormat(), folder)
    write_sidecars(source, manifest.graph, folder)
    config: dict[str, Any] = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
    return config


@pytest.mark.parametrize(("names", "kept"), [([], 4), (["attn.0", "ffn.0", "attn.2"], 2)])
def test_genai_config(tiny_llama: Path, tmp_path: Path, names: list[str], kept: int) -> None:
    config = sidecars(open_model(str(tiny_llama)), names, tmp_path)
    model, decoder = config["model"], config["model"]["decoder"]
    assert model["type"] == "llama"
    assert (model["vocab_size"], model["context_length"]) == (320, 512)
    assert (model["bos_token_id"], model["eos_token_id"], model["pad_token_id"]) == (0, 1, 1)
    assert decoder["num_hidden_layers"] == kept
    assert decoder["filename"] == "model.onnx"
    assert (decoder["hidden_size"], decoder["head_size"]) == (64, 16)
    assert (decoder["num_attention_heads"], decoder["num_key_value_heads"]) == (4, 2)
    assert decoder["inputs"]["past_key_names"] == "past_key_values.%d.key"
    assert decoder["outputs"]["present_value_names"] == "present.%d.value"
    assert config["search"]["max_length"] == 512
    assert config["search"]["past_present_share_buffer"] is True


def test_genai_names_are_the_graphs(tiny_llama: Path, tmp_path: Path) -> None:
    """Oracle: the onnx package's reading of the graph that the names belong to."""
    import onnx

    decoder = sidecars(open_model(str(tiny_llama)), ["attn.1"], tmp_path)["model"]["decoder"]
    graph = onnx.load(tmp_path / decoder["filename"], load_external_data=False).graph
    inputs, outputs = ({value.name for value in values} for values in (graph.input, graph.output))
    layers = range(decoder["num_hidden_layers"])
    named = {name % n if "%d" in name else name for name in decoder["inputs"].values() for n in layers}
    assert named == inputs
    assert {name % n if "%d" in name else name for name in decoder["outputs"].values() for n in layers} == outputs


@pytest.mark.parametrize("kind", ["early-exit", "trimmed", "skip-plan"])
def test_genai_drafts_with_the_folders_graphs(tiny_llama: Path, tmp_path: Path, kind: str) -> None:
    """Oracles: its page "Speculative decoding" (a target of one row per token, a draft of the same vocabulary), and the
    onnx package's reading of the graphs that are named."""
    import onnx

    source, form = open_model(str(tiny_llama)), WeightFormat()
    if kind == "skip-plan":
        plan = random_plan(["attn.1", "ffn.2", "attn.3"], "scale", num_blocks=4, hidden_size=64)
        graph = lower_skip_plan(source.decoder, plan, form, tmp_path)
        skip = [str(skip.sublayer) for skip in plan.skips]
        summary = PlanSummary(method="explicit", compensation="scale", skip=skip, num_blocks=4)
        draft = DraftRecord(kind="skip-plan", plan=summary)
    else:
        head = draft_head(source.decoder, None, np.arange(0, 320, 2) if kind == "trimmed" else None)
        graph, draft = lower_early_exit(source.decoder, form, tmp_path, [ExitDraft(1, head), ExitDraft(2, head)])
    write_sidecars(source, graph, tmp_path, draft)
    model = json.loads((tmp_path / "genai_config.json").read_text(encoding="utf-8"))["model"]
    caches = {"early-exit": 1, "trimmed": 1, "skip-plan": 2}[kind]
    assert (model["decoder"]["filename"], model["decoder"]["num_hidden_layers"]) == ("model-genai.onnx", 4)
    assert model["draft"]["num_hidden_layers"] == caches
    assert model["draft"]["filename"] == ("draft-genai.onnx" if kind == "trimmed" else "draft.onnx")
    for part, rows in (("decoder", "sequence"), ("draft", 1)):
        read = onnx.load(tmp_path / model[part]["filename"], load_external_data=False).graph
        inputs = {value.name for value in read.input}
        named = {name % n for n in range(model[part]["num_hidden_layers"]) for name in PAST}
        assert inputs == {"input_ids", "attention_mask", "position_ids"} | named
        shape = [dim.dim_param or dim.dim_value for dim in read.output[0].type.tensor_type.shape.dim]
        assert shape == ["batch", rows, 320]


def test_several_ends_of_text(tiny_llama: Path, tmp_path: Path) -> None:
    """generation_config.json wins over config.json, lists stay lists, a missing pad id is the first end's."""
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    config.pop("pad_token_id")
    (folder / "config.json").write_text(json.dumps(config))
    generation = {"eos_token_id": [5, 1], "do_sample": True, "temperature": 0.6, "top_p": 0.9}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    written = sidecars(open_model(str(folder)), [], tmp_path / "artifact")
    assert written["model"]["eos_token_id"] == [5, 1]
    assert written["model"]["pad_token_id"] == 5
    search = written["search"]
    assert (search["do_sample"], search["temperature"], search["top_p"], search["top_k"]) == (True, 0.6, 0.9, 50)


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_reads_config_and_tokenizer(family: str, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    folder = tiny_checkpoint(family, tmp_path / "model")
    source = open_model(str(folder))
    sidecars(source, ["ffn.1"], tmp_path / "artifact")
    source.write_tokenizer(tmp_path / "artifact")
    ours, original = (AutoConfig.from_pretrained(path) for path in (tmp_path / "artifact", folder))
    for field in (
        "model_type",
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_key_value_heads",
        "rms_norm_eps",
    ):
        assert getattr(ours, field) == getattr(original, field)
    assert GenerationConfig.from_pretrained(tmp_path / "artifact").eos_token_id == 1
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "artifact")
    text = "A model reads 12 tokens.\n <|im_end|>"
    assert tokenizer(text)["input_ids"] == AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
    assert tokenizer.chat_template == CHAT_TEMPLATE


def test_a_rotary_scaling_survives(tmp_path: Path) -> None:
    """Oracle: the inverse frequencies that transformers computes from the written config."""
    import torch
    from tiny_models import rope_config
    from transformers import AutoConfig, AutoModelForCausalLM

    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
    folder = tiny_checkpoint("llama", tmp_path / "model", **rope_config(theta=3e4, scaling=scaling))
    source = open_model(str(folder))
    sidecars(source, [], tmp_path / "artifact")
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path / "artifact"))
    expected = torch.from_numpy(source.decoder.config.rope.inverse_frequencies)
    torch.testing.assert_close(model.model.rotary_emb.inv_freq.double(), expected, rtol=1e-5, atol=0)


def test_nothing_is_null_in_genai_config(tiny_llama: Path, tmp_path: Path) -> None:
    """onnxruntime-genai's JSON reader refuses null for a number; transformers writes it for "not set"."""
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "model"))
    generation = {"eos_token_id": 1, "do_sample": None, "temperature": None, "top_k": None, "repetition_penalty": None}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    written = sidecars(open_model(str(folder)), [], tmp_path / "artifact")
    assert "null" not in json.dumps(written)
    assert (written["search"]["temperature"], written["search"]["top_k"]) == (1.0, 50)
