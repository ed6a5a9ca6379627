"""Rooflines measured again, and who is asked for them. Oracle: by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_graph import build_tiny_artifact

from edgeskip.bench.benchmark import Reporter, run_jobs
from edgeskip.bench.config import BenchArgs, BenchConfig
from edgeskip.bench.runner.launcher import StatusCallback
from edgeskip.bench.runner.request import RoundRequest
from edgeskip.bench.runner.roofline import merge_rooflines
from edgeskip.bench.runner.run_file import RunLog
from edgeskip.bench.runner.schedule import Job
from edgeskip.bench.schema import BenchCell, Device, ExecutionInfo, Roofline, RoundResult
from edgeskip.core.errors import EdgeSkipError


def roof(provider: str, threads: int, read: float | None, done: float | None, how: str = "") -> Roofline:
    return Roofline(provider=provider, threads=threads, bytes_per_s=read, flops_per_s=done, how=how)


def test_the_better_of_each_counts() -> None:
    device = Device(id="d", type="local", name="d", rooflines=[roof("cpu", 1, 5, 7), roof("cpu", 2, 6, None)])
    again = [roof("cpu", 1, 4, 8), roof("cuda", 1, 9, 9)]
    expected = [roof("cpu", 1, 5, 8), roof("cpu", 2, 6, None), roof("cuda", 1, 9, 9)]
    assert merge_rooflines(device, again).rooflines == expected
    assert merge_rooflines(device, []) == device


def test_how_is_that_of_what_was_measured() -> None:
    device = Device(id="d", type="local", name="d", rooflines=[roof("web", 1, None, None, "no workers")])
    assert merge_rooflines(device, [roof("web", 1, 3, None, "read")]).rooflines == [roof("web", 1, 3, None, "read")]
    (kept,) = merge_rooflines(device, [roof("web", 1, None, None, "again none")]).rooflines
    assert (kept.bytes_per_s, kept.flops_per_s) == (None, None)


class Remeasured:
    """A launcher whose device gives more the second time; `again` None = it cannot be measured again."""

    def __init__(self, identifier: str, again: float | None) -> None:
        self.device = Device(id=identifier, type="ssh", name=identifier, rooflines=[roof("cpu", 1, 5, None)])
        self.again = again

    def prepare(self, path: Path, progress: StatusCallback) -> str:
        return str(path)

    def run(self, request: RoundRequest, progress: StatusCallback) -> RoundResult:
        ran = ExecutionInfo(engine="onnxruntime", version="1", provider="cpu", threads=1)
        return RoundResult(cell=request.cell, round=request.round, created="now", ran=ran, load_s=1)

    def rooflines_again(self, progress: StatusCallback) -> list[Roofline]:
        if self.again is None:
            raise EdgeSkipError("the line is dead")
        return [roof("cpu", 1, self.again, None)] if self.again else []

    def close(self) -> None: ...


def test_every_device_is_measured_again_after_the_rounds(tmp_path: Path) -> None:
    folder = build_tiny_artifact(tmp_path / "tiny").folder
    words = BenchArgs(
        targets=[str(folder)], prompt_tokens="8", new_tokens="0", depths="0", threads="1", provider="cpu",
        strategy="plain", prompts=None, num_prompts=0, max_tokens=4, rounds=1, baselines=[], allow_fallback=False,
        pythons=[], seed=0,
    )  # fmt: skip
    config, notes = BenchConfig.from_args(words), list[str]()
    log = RunLog(config.header, tmp_path / "run.jsonl")
    devices = [Remeasured("better", 9), Remeasured("worse", 2), Remeasured("gone", None), Remeasured("none", 0)]
    cells = [BenchCell(target="tiny", device=d.device.id, provider="cpu", threads=1, strategy="plain") for d in devices]
    jobs = [Job(cell, device, "/tiny") for cell, device in zip(cells, devices, strict=True)]
    run_jobs(config, jobs, log, Reporter(note=notes.append))
    found = {name: device.rooflines[0].bytes_per_s for name, device in log.run.devices.items()}
    assert found == {"better": 9, "worse": 5, "gone": 5, "none": 5}
    (note,) = notes
    assert "gone" in note
    assert note.endswith("the line is dead")


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), 1e30])
def test_a_figure_that_cannot_be_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="bytes_per_s"):
        roof("web", 1, value, None)
