"""A LoRA as a model. Oracle: PEFT's own merge_and_unload and PEFT's own folders, on tiny random checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import tiny_checkpoint

from edgeskip.core.errors import EdgeSkipError
from edgeskip.models.readers.lora import Lora, LoraWeight, combined, lora_of, pack_lora, unpack_lora
from edgeskip.models.readers.peft_folder import peft_files, read_peft_folder
from edgeskip.models.source import open_model

peft = pytest.importorskip("peft")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("llama", tmp_path_factory.mktemp("lora") / "base", tie_word_embeddings=False)


def adapted(base: Path, folder: Path, **settings: Any) -> Any:
    """Saves a random LoRA of `base` with PEFT into `folder`; returns PEFT's model."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    settings = {"r": 4, "lora_alpha": 12, "target_modules": ["q_proj", "v_proj", "down_proj"], **settings}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = peft.get_peft_model(model, peft.LoraConfig(**settings))
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return model


def differs(ours: Any, model: Any) -> float:
    """max |Δ| between a source's tensors and the parameters of a transformers model."""
    theirs = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    assert set(ours.tensors) == set(theirs)
    return max(float(np.abs(ours.tensors[name].read() - theirs[name]).max()) for name in theirs)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.down_proj": 8}, "alpha_pattern": {"v_proj": 3}},
        {"target_modules": "all-linear"},
    ],
)
def test_weights_are_those_peft_merges(base: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    model = adapted(base, tmp_path / "lora", **settings)
    source = open_model(str(tmp_path / "lora"))
    assert source.name == "lora"
    assert source.decoder.config.num_blocks == 4
    assert differs(source, model.merge_and_unload()) < 1e-6


def test_torch_model_gives_the_logits_of_the_merged_one(base: Path, tmp_path: Path) -> None:
    import torch

    from edgeskip.models.torch_reference.load import load_torch_model

    model = adapted(base, tmp_path / "lora").merge_and_unload().eval()
    tokens = torch.arange(40)[None]
    ours = load_torch_model(open_model(str(tmp_path / "lora")), stream=True)
    with torch.inference_mode():
        assert (ours(tokens).logits - model(tokens).logits).abs().max() < 1e-4


def test_a_lora_of_a_lora_is_both(base: Path, tmp_path: Path) -> None:
    first = adapted(base, tmp_path / "first")
    first.merge_and_unload().save_pretrained(tmp_path / "merged")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "merged" / name).write_bytes((base / name).read_bytes())
    wanted = adapted(tmp_path / "merged", tmp_path / "second", r=2, target_modules=["v_proj", "up_proj"])
    config = tmp_path / "second" / "adapter_config.json"
    content = json.loads(config.read_text()) | {"base_model_name_or_path": str(tmp_path / "first")}
    config.write_text(json.dumps(content))
    source = open_model(str(tmp_path / "second"))
    assert differs(source, wanted.merge_and_unload()) < 1e-5
    assert source.adaptation is not None
    assert source.record().source == str(base)


def test_peft_reads_the_folder_we_write(base: Path, tmp_path: Path) -> None:
    """Oracle: PEFT loads our folder and merges it."""
    import torch
    from transformers import AutoModelForCausalLM

    adapted(base, tmp_path / "lora", rank_pattern={"q_proj": 2}, alpha_pattern={"v_proj": 3}, use_rslora=True)
    source = open_model(str(tmp_path / "lora"))
    assert source.adaptation is not None
    (tmp_path / "ours").mkdir()
    for name, data in peft_files(source.adaptation.lora, str(base)).items():
        (tmp_path / "ours" / name).write_bytes(data)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(plain, tmp_path / "ours").merge_and_unload()
    assert differs(source, model) < 1e-6
    assert open_model(str(tmp_path / "ours")).fingerprint == source.fingerprint


def test_the_stored_file_holds_everything(base: Path, tmp_path: Path) -> None:
    adapted(base, tmp_path / "lora", rank_pattern={"q_proj": 2}, alpha_pattern={"v_proj": 3})
    lora, reference = read_peft_folder(tmp_path / "lora")
    assert reference == str(base)
    data = pack_lora(lora)
    assert data == pack_lora(lora)
    again = unpack_lora(data, "stored")
    assert again.digest() == lora.digest()
    assert again.ranks == (2, 4)
    assert {weight.scaling for weight in again.weights.values()} == {0.75, 3.0, 6.0}


def test_record_names_base_and_hash(base: Path, tmp_path: Path) -> None:
    import hashlib

    adapted(base, tmp_path / "lora")
    source, plain = open_model(str(tmp_path / "lora")), open_model(str(base))
    record = source.record()
    assert record.adapter is not None
    assert record.source == str(base)
    assert record.adapter.base_fingerprint == plain.fingerprint != record.fingerprint
    assert source.stored_lora is not None
    assert record.adapter.sha256 == hashlib.sha256(source.stored_lora).hexdigest()
    assert plain.record().adapter is None


def test_combined_is_the_sum() -> None:
    rng = np.random.default_rng(0)

    def weight(rank: int, scaling: float) -> LoraWeight:
        a, b = rng.normal(size=(rank, 6)).astype(np.float32), rng.normal(size=(5, rank)).astype(np.float32)
        return LoraWeight(a, b, scaling)

    first = {"v": weight(2, 0.0), "x": weight(2, 0.5), "y": weight(2, 2.0), "w": weight(2, 1.0)}
    second = {"v": weight(1, 3.0), "x": weight(1, 0.5), "y": weight(3, 0.5), "z": weight(1, 1.0)}
    both = combined(Lora(first), Lora(second)).weights
    assert set(both) == {"v", "w", "x", "y", "z"}
    for name in ("v", "x", "y"):
        np.testing.assert_allclose(both[name].delta(), first[name].delta() + second[name].delta(), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "bias"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"peft_type": "IA3"}, "peft_type"),
        ({"base_model_name_or_path": None}, "does not name its model"),
        ({"base_model_name_or_path": "nowhere/./x"}, "its model cannot be opened: there is no model"),
        ({"r": "four"}, "'r' is 'four'"),
        ({"rank_pattern": {"(": 2}}, "rank_pattern"),
    ],
)
def test_other_adapters_are_refused(base: Path, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    adapted(base, tmp_path / "lora")
    config = tmp_path / "lora" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(EdgeSkipError, match=r"adapter_config\.json") as error:
        open_model(str(tmp_path / "lora"))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_that_names_itself_is_refused(base: Path, tmp_path: Path) -> None:
    adapted(base, tmp_path / "lora")
    config = tmp_path / "lora" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": str(tmp_path / "lora")}))
    with pytest.raises(EdgeSkipError, match="this folder itself"):
        open_model(str(tmp_path / "lora"))


def test_a_lora_of_another_model_is_refused(base: Path, tmp_path: Path) -> None:
    adapted(base, tmp_path / "lora")
    other = tiny_checkpoint("llama", tmp_path / "other", hidden_size=32, num_attention_heads=2, num_key_value_heads=1)
    fewer = tiny_checkpoint("llama", tmp_path / "fewer", num_hidden_layers=2)
    config = tmp_path / "lora" / "adapter_config.json"
    content = json.loads(config.read_text())
    for wrong, said in ((other, "is for a weight"), (fewer, "is not a linear layer of")):
        config.write_text(json.dumps(content | {"base_model_name_or_path": str(wrong)}))
        with pytest.raises(EdgeSkipError, match=said):
            open_model(str(tmp_path / "lora"))


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({}, "holds no LoRA"),
        ({"base_model.model.x.lora_A.weight": np.ones((2, 4))}, "not both"),
        ({"base_model.model.x.bias": np.ones(2)}, "not of a plain LoRA"),
        ({"x.lora_A.weight": np.ones((2, 4)), "x.lora_B.weight": np.ones((4, 2))}, "not of a plain LoRA"),
        (
            {"base_model.model.x.lora_A.weight": np.ones((2, 4)), "base_model.model.x.lora_B.weight": np.ones((4, 3))},
            "lora_A [2, 4] and lora_B [4, 3]",
        ),
        (
            {
                "base_model.model.x.lora_A.weight": np.full((2, 4), np.nan),
                "base_model.model.x.lora_B.weight": np.ones((4, 2)),
            },
            "not finite",
        ),
    ],
)
def test_damaged_loras_are_refused(arrays: dict[str, Any], said: str) -> None:
    with pytest.raises(EdgeSkipError) as error:
        lora_of(arrays, 1.0, "file")
    assert said in str(error.value)


def test_what_is_no_stored_lora_is_refused() -> None:
    from safetensors.numpy import save

    for data in (b"", b"nonsense" * 10, save({"x": np.ones(2)}), save({"x": np.ones(2)}, metadata={"scaling": "[]"})):
        with pytest.raises(EdgeSkipError, match="not the LoRA of a profile"):
            unpack_lora(data, "file")
