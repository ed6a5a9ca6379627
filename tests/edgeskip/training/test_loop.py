"""The loop. Oracles: torch's own AdamW stepped by hand, and one process against two of a torchrun on the CPU."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgeskip.core.errors import EdgeSkipError
from edgeskip.training.config import OptimizerConfig
from edgeskip.training.loop import Report, accelerator_for, train
from edgeskip.training.loss_log import read_losses
from edgeskip.training.objective import LossParts, seed_of


class Squares(nn.Module):
    """Mean (x·w)² of a batch; a parameter that does not learn stands beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([3.0, -2.0]))
        self.fixed = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, batch: dict[str, torch.Tensor], step: int) -> LossParts:
        loss = (batch["rows"] @ self.w).square().mean()
        return LossParts(loss, {"exit 1": loss.detach()})


def batch(step: int) -> dict[str, torch.Tensor]:
    return {"rows": torch.randn(4, 2, generator=torch.Generator().manual_seed(step))}


POLICY = OptimizerConfig(0.1, warmup=2, decay="linear", weight_decay=0.01, clip=0.5, save_every=2)


def test_steps_are_adamws(tmp_path: Path) -> None:
    """Learning rate, clipping and decay of every step; losses are those before it."""
    found, reference = Squares(), Squares()
    reports: list[Report] = []
    train(accelerator_for("float32"), found, batch, 5, POLICY, tmp_path, {}, progress=reports.append)
    optimiser = torch.optim.AdamW([reference.w], lr=1.0, weight_decay=0.01)
    losses = []
    for step in range(5):
        optimiser.param_groups[0]["lr"] = POLICY.rate(step, 5)
        loss = reference(batch(step), step).total
        losses.append(float(loss.detach()))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([reference.w], 0.5)
        optimiser.step()
    torch.testing.assert_close(found.w, reference.w)
    rows = read_losses(tmp_path / "losses.csv")
    assert [row[3] for row in rows if row[2] == "loss"] == pytest.approx(losses, rel=1e-5)
    assert [row[1] for row in rows[::2]] == pytest.approx([POLICY.rate(step, 5) for step in range(5)], rel=1e-5)
    assert [(report.step, report.steps) for report in reports] == [(n, 5) for n in range(1, 6)]
    assert reports[-1].seconds_left == 0 < reports[0].seconds_left
    assert (tmp_path / "checkpoint.safetensors").exists()


def test_it_goes_on_from_the_last_checkpoint(tmp_path: Path) -> None:
    def fails(step: int) -> dict[str, torch.Tensor]:
        if step == 5:
            raise KeyboardInterrupt
        return batch(step)

    whole, broken, again = Squares(), Squares(), Squares()
    train(accelerator_for("float32"), whole, batch, 7, POLICY, tmp_path / "whole", {})
    with pytest.raises(KeyboardInterrupt):
        train(accelerator_for("float32"), broken, fails, 7, POLICY, tmp_path / "broken", {"a": 1})
    asked: list[int] = []

    def counted(step: int) -> dict[str, torch.Tensor]:
        asked.append(step)
        return batch(step)

    with pytest.raises(EdgeSkipError, match="another a:"):
        train(accelerator_for("float32"), again, counted, 7, POLICY, tmp_path / "broken", {"a": 2})
    train(accelerator_for("float32"), again, counted, 7, POLICY, tmp_path / "broken", {"a": 1})
    assert asked == [4, 5, 6]
    assert torch.equal(again.w, whole.w)
    assert (tmp_path / "broken" / "losses.csv").read_bytes() == (tmp_path / "whole" / "losses.csv").read_bytes()


def test_a_loss_that_is_not_finite(tmp_path: Path) -> None:
    def infinite(step: int) -> dict[str, torch.Tensor]:
        return {"rows": torch.full((1, 2), 1e30 if step else 1.0)}

    with pytest.raises(EdgeSkipError, match="not finite at step 2: lower --learning-rate"):
        train(accelerator_for("float32"), Squares(), infinite, 4, POLICY, tmp_path, {})


def test_an_unknown_dtype() -> None:
    with pytest.raises(EdgeSkipError, match="--dtype float8"):
        accelerator_for("float8")


def test_seeds_differ() -> None:
    seeds = {seed_of(seed, step, rank) for seed in range(4) for step in range(50) for rank in range(4)}
    assert len(seeds) == 800
    assert all(0 <= seed < 1 << 63 for seed in seeds)


def test_two_processes_learn_as_one(tiny_llama: Path, tmp_path: Path) -> None:
    """Examples of one length, ten whole batches of them and one held out: the mean of both shares' losses is the whole
    batch's. No dropout, which each process draws for itself."""
    file = tmp_path / "ids.jsonl"
    draw = random.Random(0)
    examples = [{"prompt_ids": [n], "response_ids": draw.choices(range(2, 300), k=11)} for n in range(41)]
    file.write_text("".join(json.dumps(example) + "\n" for example in examples))
    options = "--steps 4 --batch-size 4 --context 16 --lora 2 --p-max 0 --interval 2 --dtype float32 --save-every 2"
    arguments: Any = ["train", tiny_llama, "--method", "layerskip", "--data", file, *options.split()]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, start in (("one", [sys.executable]), ("two", torchrun)):
        command = [*start, "-m", "edgeskip", *map(str, arguments), "-o", str(tmp_path / name)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == [str(tmp_path / name)], "said once"
    one, two = (read_losses(tmp_path / name / "losses.csv") for name in ("one", "two"))
    assert [row[:3] for row in one] == [row[:3] for row in two]
    assert [row[3] for row in two] == pytest.approx([row[3] for row in one], rel=1e-4)
