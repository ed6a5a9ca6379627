"""Predicted against measured times of skip plans: does a device profile tell what a plan's artifact really takes?

    edgeskip profile-device DENSE -o device.json --threads 2
    python tools/benchmarks/predicted_times.py DENSE SKIP4 SKIP8 --device device.json --json check.json
    python tools/benchmarks/predicted_times.py DENSE.gguf SKIP4.gguf SKIP8.gguf

Makes the table of docs/results/predicted-times.md. The first artifact is dense; without `--device` it is profiled
first. Then every figure is taken in a process of its own that loads, warms up and runs once (several open models slow
each other by a few per cent, the dense one most), in turns. A machine's speed drifts between profile and check, so two
ratios are given: predicted over measured seconds, and predicted over measured *speedup*, paired by round, in which
drift cancels. The bound is on the second; exit code 1 if it is missed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from harness.command import JsonFile, Rounds, Threads, cache_folder, check_names, main
from harness.processes import take_turns, tell
from harness.results import Results, Spread, Table
from harness.runtimes import our_contestant, run_afresh

from edgeskip.artifacts.gguf.header import read_gguf_header
from edgeskip.artifacts.gguf.manifest import read_gguf_manifest
from edgeskip.artifacts.manifest import read_manifest
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.sublayers import Sublayer, parse_sublayer
from edgeskip.profiles.device_profile import DeviceProfile, read_device_profile
from edgeskip.profiling.measure import measure_device, open_dense, settle
from edgeskip.runtime.engines.prefill import PREFILL_CHUNK
from edgeskip.runtime.sublayer_times import QUARTILE, random_tokens

BOUND = 0.05


@dataclass(frozen=True)
class Subject:
    """An artifact, what it skips, and the seconds of each round: of the prompt, and of a token (the lower quartile,
    which is what the profile has too)."""

    name: str
    skip: frozenset[Sublayer]
    prefill_s: list[float] = field(default_factory=list)
    decode_s: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Row:
    """One artifact's prediction over measurement: 1 = right, more = promised too much time, or too much speed."""

    name: str
    skipped: int
    phase: str
    measured_s: Spread
    predicted_s: float
    speedup: Spread
    predicted_speedup: float

    @property
    def seconds_ratio(self) -> float:
        return self.predicted_s / self.measured_s.median

    @property
    def speedup_ratio(self) -> float:
        return self.predicted_speedup / self.speedup.median

    @property
    def met(self) -> bool:
        return abs(self.speedup_ratio - 1) <= BOUND


def predicted_times(
    artifacts: Annotated[list[Path], typer.Argument(help="Artifacts of one model and precision; the first is dense.")],
    device: Annotated[Path | None, typer.Option(help="A device profile of the first.  [default: measured now]")] = None,
    new: Annotated[int, typer.Option(min=4, help="Tokens to decode behind the prompt.")] = 64,
    rounds: Rounds = 7,
    threads: Threads = 2,
    json_file: JsonFile = None,
) -> None:
    """Compare predicted with measured times; a table to stdout, exit code 1 if the bound is missed."""
    profile = read_device_profile(device) if device else profiled(artifacts[0], new, threads)
    if profile.threads != threads:
        raise EdgeSkipError(f"the device profile is of {profile.threads} threads: give --threads {profile.threads}")
    subjects = [subject_of(path, profile) for path in artifacts]
    if subjects[0].skip:
        raise EdgeSkipError(f"{artifacts[0]} skips sublayers: name the dense artifact first")
    check_names([subject.name for subject in subjects])
    tokens, logs = profile.prefill.tokens, cache_folder() / "logs"
    prompt = [int(token) for token in random_tokens(tokens, profile.model.vocab_size)]
    cells = {
        subject.name: partial(
            run_afresh, our_contestant(path), prompt=prompt, new_tokens=new, threads=threads, logs=logs
        )
        for subject, path in zip(subjects, artifacts, strict=True)
    }
    runs = take_turns(cells, rounds=rounds)
    for subject in subjects:
        for run in runs[subject.name]:
            subject.prefill_s.append(run.prefill_s)
            subject.decode_s.append(float(np.quantile(run.token_s, QUARTILE)))
    context = tokens + new // 2
    rows = rows_of(subjects, profile, context)
    Results(
        name="predicted_times",
        setting={
            "device_profile": profile.name, "profiled": profile.created, "prompt_tokens": tokens, "context": context,
            "threads": threads, "rounds": rounds,
        },
        tables=[table_of(rows)],
        data=[{**asdict(row), "speedup_ratio": row.speedup_ratio, "met": row.met} for row in rows],
        others_cores=[run.others_cores for some in runs.values() for run in some],
    ).publish(json_file)  # fmt: skip
    if not all(row.met for row in rows):
        raise typer.Exit(1)


def profiled(path: Path, new: int, threads: int) -> DeviceProfile:
    opened = open_dense(path, threads=threads)
    tell(f"profiling {path}")
    prompt = min(PREFILL_CHUNK, opened.context_length - new)
    return measure_device(opened, settle(opened, prompt, (prompt, prompt + new - 1), 4))


def subject_of(path: Path, profile: DeviceProfile) -> Subject:
    """EdgeSkipError if the artifact is not one whose time the profile can tell."""
    engine = "llama.cpp" if path.is_file() else "onnxruntime"
    manifest = read_gguf_manifest(read_gguf_header(path).metadata, str(path)) if path.is_file() else read_manifest(path)
    if manifest is None or manifest.plan.num_blocks != profile.model.num_blocks or engine != profile.engine:
        raise EdgeSkipError(f"{path} and the device profile ({profile.name}) are not of one model and engine")
    skip = frozenset(parse_sublayer(name, manifest.plan.num_blocks) for name in manifest.plan.skip)
    return Subject(path.stem if path.is_file() else path.name, skip)


def rows_of(subjects: list[Subject], profile: DeviceProfile, context: int) -> list[Row]:
    """Two rows for each artifact after the first; ratios are paired round by round."""
    dense, rows = subjects[0], []
    for subject in subjects[1:]:
        speedups = profile.speedups(subject.skip, context)
        phases = (
            ("prefill", dense.prefill_s, subject.prefill_s, profile.prefill_s(subject.skip), speedups[0]),
            ("decode", dense.decode_s, subject.decode_s, profile.decode_s(subject.skip, context), speedups[1]),
        )
        for phase, whole, measured, predicted_s, predicted in phases:
            speedup = Spread.of_ratios(whole, measured)
            skipped = len(subject.skip)
            rows.append(Row(subject.name, skipped, phase, Spread.of(measured), predicted_s, speedup, predicted))
    return rows


def table_of(rows: list[Row]) -> Table:
    columns = ["artifact", "skipped", "phase", "measured ms", "predicted ms", "ratio", "measured speedup", "predicted"]
    lines = [
        [
            row.name,
            str(row.skipped),
            row.phase,
            f"{1e3 * row.measured_s.median:.2f}",
            f"{1e3 * row.predicted_s:.2f}",
            f"{row.seconds_ratio:.3f}",
            row.speedup.text(3),
            f"{row.predicted_speedup:.3f}",
            f"{row.speedup_ratio:.3f}",
            "ok" if row.met else "NO",
        ]
        for row in rows
    ]
    return Table("Predicted over measured speed-up", [*columns, "ratio", ""], lines)


if __name__ == "__main__":
    main(predicted_times)
