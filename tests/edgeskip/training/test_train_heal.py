"""Healing, whole. Oracles: peft's state, transformers' logits under the plan's hooks, the profile before, and the check
after export."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from random_profiles import random_profile
from torch.nn import functional

from edgeskip.core.errors import EdgeSkipError
from edgeskip.models.profile_source import source_of
from edgeskip.models.source import open_model
from edgeskip.models.torch_reference.load import load_torch_model
from edgeskip.models.torch_reference.skipping import skipped
from edgeskip.planning.planner import resolve
from edgeskip.profiles.schema import read_profile
from edgeskip.profiles.vectors import read_vectors
from edgeskip.training.config import LowRankConfig, OptimizerConfig
from edgeskip.training.data import Data
from edgeskip.training.healing import Healing
from edgeskip.training.lora import with_lora
from edgeskip.training.loss_log import read_losses
from edgeskip.training.train_heal import train_heal
from edgeskip.training.trained_profile import open_profile

SKIP = ("attn.1", "ffn.2")
IDS = torch.arange(3, 40)[None]


@pytest.fixture
def profile(tiny_llama: Path, tmp_path: Path) -> Path:
    path = tmp_path / "given" / "tiny.json"
    path.parent.mkdir()
    random_profile(open_model(str(tiny_llama)), path, skip=SKIP)
    return path


def run(profile: Path, data: Path, folder: Path, *, steps: int = 30) -> Any:
    return train_heal(
        open_profile(str(profile)),
        Data((str(data),), 32, held_out=0.1),
        OptimizerConfig(5e-3, 4, steps=steps, warmup=1),
        LowRankConfig(4),
        folder,
        dtype="float32",
    )


def test_only_kept_sublayers_get_a_lora(profile: Path) -> None:
    given = open_profile(str(profile))
    plan = resolve(given.profile, given.vectors)
    adapted = with_lora(load_torch_model(given.source), LowRankConfig(4), seed=0, without=plan.skipped)
    named = {
        name.partition("layers.")[2].partition(".lora_")[0] for name, _ in adapted.named_parameters() if "lora_" in name
    }
    attention = {f"{n}.self_attn.{x}_proj" for n in (0, 2, 3) for x in "qkvo"}
    ffn = {f"{n}.mlp.{x}_proj" for n in (0, 1, 3) for x in ("gate", "up", "down")}
    assert named == attention | ffn
    assert all(parameter.requires_grad == ("lora_" in name) for name, parameter in adapted.named_parameters())


def test_the_objective_by_hand(profile: Path, tiny_llama: Path) -> None:
    """KL(dense ‖ skipped) over transformers' logits, of the tokens whose next is learned."""
    given = open_profile(str(profile))
    plan = resolve(given.profile, given.vectors)
    adapted = with_lora(load_torch_model(given.source), LowRankConfig(4), seed=0, without=plan.skipped)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    labels = IDS.clone()
    labels[:, :5] = -100
    objective = Healing(adapted, plan)
    found = objective({"input_ids": IDS, "labels": labels}, 0)
    dense = load_torch_model(open_model(str(tiny_llama)))
    with torch.no_grad():
        teacher = torch.log_softmax(dense(input_ids=IDS).logits[0, 4:-1], -1)
        with skipped(adapted.get_base_model(), plan):
            student = torch.log_softmax(adapted(input_ids=IDS).logits[0, 4:-1], -1)
    wanted = (teacher.exp() * (teacher - student)).sum(-1).mean()
    torch.testing.assert_close(found.total.detach(), wanted, rtol=1e-4, atol=1e-5)
    losses = objective.losses({"input_ids": IDS, "labels": labels})
    torch.testing.assert_close(losses["dense"], functional.nll_loss(teacher, IDS[0, 5:], reduction="sum"))
    torch.testing.assert_close(losses["healed"], functional.nll_loss(student, IDS[0, 5:], reduction="sum"))
    assert float(losses["tokens"]) == len(IDS[0]) - 5


def test_a_healed_profile(cli: Any, profile: Path, text_file: Path, tmp_path: Path, tiny_llama: Path) -> None:
    """The plan and what compensates are as before; the model has the LoRA; the export's check passes."""
    card = run(profile, text_file, tmp_path / "run")
    path = tmp_path / "run" / card["profile"]
    before, found = read_profile(profile), read_profile(path)
    assert before.plan is not None
    assert found.plan == before.plan.model_copy(update={"healed_from": before.model.fingerprint})
    assert found.sublayers == before.sublayers
    plans = [resolve(p, read_vectors(p, where)) for p, where in ((before, profile), (found, path))]
    skips = [[(skip.sublayer, skip.scale, skip.bias.tolist()) for skip in plan.skips] for plan in plans]  # type: ignore[union-attr]
    assert skips[0] == skips[1]
    assert found.model.adapter is not None
    losses = [loss for _, _, part, loss in read_losses(tmp_path / "run" / "losses.csv") if part == "divergence"]
    assert losses[-1] < 0.8 * losses[0]
    model = load_torch_model(source_of(found, path))
    base = load_torch_model(open_model(str(tiny_llama)))
    for name, parameter in model.named_parameters():
        of_a_skipped = ".1.self_attn." in name or ".2.mlp." in name or "proj" not in name
        assert torch.equal(parameter, base.get_parameter(name)) == of_a_skipped, name
    outcome = cli("export", "--profile", path, "-o", tmp_path / "artifact", "--precision", "fp32")
    assert outcome.code == 0, outcome.err


def test_perplexities_by_hand(profile: Path, text_file: Path, tmp_path: Path, tiny_llama: Path) -> None:
    card = run(profile, text_file, tmp_path / "run", steps=1)
    from edgeskip.training.batches import split_off
    from edgeskip.training.examples import Encoder, read_examples

    source = open_model(str(tiny_llama))
    examples, _ = read_examples([str(text_file)], Encoder(source), 32)
    _, held = split_off(examples, 0.1, 0)
    model = load_torch_model(source)
    loss = tokens = 0.0
    for example in held:
        ids = torch.tensor([example.ids])
        loss += float(model(input_ids=ids, labels=ids).loss) * (len(example) - 1)
        tokens += len(example) - 1
    assert card["held_out"]["tokens"] == tokens
    assert card["held_out"]["dense_perplexity"] == pytest.approx(math.exp(loss / tokens), rel=1e-4)


def test_nothing_to_heal(tiny_llama: Path, text_file: Path, tmp_path: Path) -> None:
    random_profile(open_model(str(tiny_llama)), tmp_path / "dense.json")
    with pytest.raises(EdgeSkipError, match="skips nothing"):
        run(tmp_path / "dense.json", text_file, tmp_path / "run")
    assert not (tmp_path / "run").exists()
