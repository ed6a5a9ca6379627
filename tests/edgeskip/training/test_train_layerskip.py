"""Training with the recipe, whole. Oracles: an uninterrupted run's losses, transformers' and peft's own reading of the
result, and the folder's listing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgeskip.core.errors import EdgeSkipError
from edgeskip.models.source import open_model
from edgeskip.models.torch_reference.load import load_torch_model
from edgeskip.training.config import LayerSkipConfig, LowRankConfig, OptimizerConfig
from edgeskip.training.data import Data
from edgeskip.training.loop import Report
from edgeskip.training.loss_log import read_losses
from edgeskip.training.train_layerskip import train_layerskip

IDS = torch.arange(3, 40)[None]


class StopError(Exception):
    pass


def run(
    model: Path,
    data: Path,
    folder: Path,
    *,
    steps: int = 6,
    lora: LowRankConfig | None = None,
    stop: int = 0,
    seed: int = 0,
) -> Any:
    """Steps of 4 pairs, a checkpoint every 2; with `stop` it breaks off after that step."""

    def progress(report: Report) -> None:
        if report.step == stop:
            raise StopError

    return train_layerskip(
        open_model(str(model)),
        Data((str(data),), 64, held_out=0.1),
        LayerSkipConfig(interval=2),
        OptimizerConfig(1e-3, 4, steps=steps, warmup=2, save_every=2, seed=seed),
        lora,
        folder,
        dtype="float32",
        progress=progress,
    )


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


@pytest.fixture(scope="module")
def whole(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that trained all weights; read only."""
    folder = tmp_path_factory.mktemp("layerskip")
    data = folder / "pairs.jsonl"
    records = [{"prompt": f"skip {n}", "response": "what is not needed"[: 2 + n % 16]} for n in range(40)]
    data.write_text("".join(json.dumps(record) + "\n" for record in records))
    run(tiny_llama, data, folder / "run")
    return folder / "run"


def test_the_folder_is_a_model(whole: Path, tiny_llama: Path) -> None:
    """transformers opens it, with the logits EdgeSkip's own reading gives; they are no longer the base's."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    theirs = AutoModelForCausalLM.from_pretrained(whole, dtype=torch.float32)
    ours = load_torch_model(open_model(str(whole)))
    torch.testing.assert_close(logits(theirs), logits(ours), rtol=0, atol=1e-5)
    assert (logits(ours) - logits(load_torch_model(open_model(str(tiny_llama))))).abs().max() > 0.01
    before, after = (AutoTokenizer.from_pretrained(folder) for folder in (tiny_llama, whole))
    assert after("Skip it, and say so.").input_ids == before("Skip it, and say so.").input_ids
    assert after.chat_template == before.chat_template


def test_what_a_finished_run_leaves(whole: Path) -> None:
    names = {path.name for path in whole.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "train.json", "losses.csv", "loss.png"} <= names
    assert not names & {"checkpoint.safetensors", "run.json", "cache"}
    card = json.loads((whole / "train.json").read_text())
    rows = read_losses(whole / "losses.csv")
    last = [loss for _, _, part, loss in rows if part == "last"]
    assert len(last) == 6
    assert card["losses"]["last"] == pytest.approx(np.mean(last), rel=1e-5)
    assert last[-1] < last[0], "it learns"
    assert card["examples"] == {"learned": 36, "held_out": 4, "too_long": {}}
    assert set(card["held_out"]["exits"]) == {"1", "2", "3"}
    assert card["files"][0]["name"] == "pairs.jsonl"


def test_the_model_given_is_not_touched(tiny_llama: Path, pairs_file: Path, tmp_path: Path) -> None:
    """Its float32 weights are mapped from the file into the memory that is trained."""
    before = (tiny_llama / "model.safetensors").read_bytes()
    run(tiny_llama, pairs_file, tmp_path / "run", steps=1)
    assert (tiny_llama / "model.safetensors").read_bytes() == before


def test_a_lora_is_a_model_too(tiny_llama: Path, pairs_file: Path, tmp_path: Path) -> None:
    """Oracle: peft's own reading of the folder on transformers' reading of the base."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    card = run(tiny_llama, pairs_file, tmp_path / "run", lora=LowRankConfig(4, early_rank=8, early_blocks=2))
    base = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(base, tmp_path / "run")
    ranks = {name: p.shape[0] for name, p in theirs.named_parameters() if "lora_A" in name}
    assert {rank for name, rank in ranks.items() if ".layers.1." in name} == {8}
    assert {rank for name, rank in ranks.items() if ".layers.2." in name} == {4}
    assert len(ranks) == 4 * 7
    ours = load_torch_model(open_model(str(tmp_path / "run")))
    torch.testing.assert_close(logits(ours), logits(theirs.eval()), rtol=0, atol=1e-4)
    with theirs.disable_adapter():
        assert (logits(ours) - logits(theirs)).abs().max() > 0.01
    assert card["settings"]["lora"]["rank"] == 4


@pytest.mark.parametrize("stop", [1, 3, 6])
def test_a_broken_off_run_goes_on(tiny_llama: Path, pairs_file: Path, tmp_path: Path, stop: int) -> None:
    """Before the first checkpoint, between two, and after the last step: losses to the digit, weights to the bit."""
    run(tiny_llama, pairs_file, tmp_path / "whole")
    with pytest.raises(StopError):
        run(tiny_llama, pairs_file, tmp_path / "broken", stop=stop)
    run(tiny_llama, pairs_file, tmp_path / "broken")
    for name in ("losses.csv", "model.safetensors"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_another_run_does_not_go_on_there(tiny_llama: Path, pairs_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(StopError):
        run(tiny_llama, pairs_file, folder, stop=2)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(EdgeSkipError, match="another optimisation"):
        run(tiny_llama, pairs_file, folder, seed=1)
    with pytest.raises(EdgeSkipError, match="another lora"):
        run(tiny_llama, pairs_file, folder, lora=LowRankConfig(4))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_damaged_checkpoint(tiny_llama: Path, pairs_file: Path, tmp_path: Path) -> None:
    with pytest.raises(StopError):
        run(tiny_llama, pairs_file, tmp_path / "run", stop=2)
    file = tmp_path / "run" / "checkpoint.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(EdgeSkipError, match="damaged"):
        run(tiny_llama, pairs_file, tmp_path / "run")


def test_an_exit_that_is_not_there(tiny_llama: Path, pairs_file: Path, tmp_path: Path) -> None:
    data, policy = Data((str(pairs_file),), 64), OptimizerConfig(1e-3)
    with pytest.raises(EdgeSkipError, match="exit layer 4 is not possible: the model has 4 blocks"):
        train_layerskip(open_model(str(tiny_llama)), data, LayerSkipConfig(exits=(4,)), policy, None, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_example_is_too_few(tiny_llama: Path, tmp_path: Path) -> None:
    """Said before the first step, not when there is nothing to measure after the last."""
    (tmp_path / "t.txt").write_text("Skip it.")
    with pytest.raises(EdgeSkipError, match="one example only"):
        run(tiny_llama, tmp_path / "t.txt", tmp_path / "run")
    assert not (tmp_path / "run").exists()


STEPS = 120  # of a few ms each: time for a signal to arrive in the middle


def start(model: Path, data: Path, folder: Path) -> subprocess.Popen[str]:
    options = f"--lora 2 --steps {STEPS} --batch-size 4 --context 64 --save-every 2 --interval 2 --dtype float32"
    head = ["-m", "edgeskip", "train", str(model), "--method", "layerskip", "--data", str(data)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, *head, "-o", str(folder), *options.split()]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_killed_process_goes_on(tiny_llama: Path, pairs_file: Path, tmp_path: Path) -> None:
    """Interrupted, then killed in the middle of training, then left alone: the losses of a run that was not."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert start(tiny_llama, pairs_file, whole).wait(300) == 0
    reached = 0
    for number in (signal.SIGINT, signal.SIGKILL):
        process = start(tiny_llama, pairs_file, broken)
        deadline = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < deadline:
            rows = read_losses(broken / "losses.csv") if (broken / "losses.csv").exists() else []
            if rows and rows[-1][0] >= reached + 5:
                break
            time.sleep(0.005)
        process.send_signal(number)
        _, told = process.communicate(timeout=60)
        assert process.returncode == {signal.SIGINT: 130, signal.SIGKILL: -signal.SIGKILL}[number], told
        if number == signal.SIGINT:
            assert told.strip().splitlines()[-1].startswith("edgeskip: interrupted")
            assert "Traceback" not in told
        reached = read_losses(broken / "losses.csv")[-1][0]
        assert reached < STEPS, "it was to be broken off in the middle"
        assert (broken / "checkpoint.safetensors").exists()
    last = start(tiny_llama, pairs_file, broken)
    out, told = last.communicate(timeout=300)
    assert last.returncode == 0, told
    assert out.strip() == str(broken)
    assert f"{STEPS} of {STEPS}" in told or "steps" not in told  # a fast machine is done before it would say how far
    share = json.loads((broken / "train.json").read_text())["held_out"]["exits"]["2"]["agreement"]
    assert f"exit 2  {share:.1%}\n" in told
    assert (broken / "losses.csv").read_bytes() == (whole / "losses.csv").read_bytes()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes()
