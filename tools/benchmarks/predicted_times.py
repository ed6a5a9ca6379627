"""Does a device profile predict what a plan's artifact really takes? Predicted against measured seconds, in turns.

    edgeskip profile-device DENSE -o device.json --threads 2
    python tools/benchmarks/predicted_times.py DENSE SKIP4 SKIP8 --device device.json --json check.json
    python tools/benchmarks/predicted_times.py DENSE.gguf SKIP4.gguf SKIP8.gguf

The first artifact is dense; without `--device` it is profiled first. Then every figure is taken in a process of its
own that loads, warms up and runs once (several open models slow each other by a few per cent, the dense one most), in
turns whose order is rotated. A machine's speed drifts between profile and check, so two ratios are given: predicted
over measured seconds, and predicted over measured *speedup*, paired by round, in which drift cancels. The bound is on
the second. Wants a quiet machine.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from harness.driver import Contestant, run_afresh, take_turns
from harness.figures import Spread
from harness.machine import describe
from peer_runtimes import default_work

from edgeskip.artifacts.gguf.header import read_gguf_header
from edgeskip.artifacts.gguf.manifest import read_gguf_manifest
from edgeskip.artifacts.manifest import read_manifest
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import replace_file
from edgeskip.core.sublayers import Sublayer, parse_sublayer
from edgeskip.profiles.device_profile import DeviceProfile, read_device_profile
from edgeskip.profiling.measure import measure_device, open_dense, settle
from edgeskip.runtime.engines.prefill import PREFILL_CHUNK
from edgeskip.runtime.sublayer_times import QUARTILE, random_tokens

BOUND = 0.05
BUSY = 0.1  # cores


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


def predict_check(
    artifacts: Annotated[list[Path], typer.Argument(help="Artifacts of one model and precision; the first is dense.")],
    device: Annotated[Path | None, typer.Option(help="A device profile of the first.  [default: measured now]")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; medians are over them.")] = 7,
    new: Annotated[int, typer.Option(min=4, help="Tokens to decode behind the prompt.")] = 64,
    threads: Annotated[int, typer.Option(min=1, help="Threads, as the profile has.")] = 2,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write everything there.")] = None,
) -> None:
    """Compare predicted with measured times; a table to stdout, exit code 1 where the bound is missed."""
    profile = read_device_profile(device) if device else profiled(artifacts[0], new, threads)
    if profile.threads != threads:
        raise EdgeSkipError(f"the device profile is of {profile.threads} threads: give --threads {profile.threads}")
    subjects = [subject_of(path, profile) for path in artifacts]
    if subjects[0].skip:
        raise EdgeSkipError(f"{artifacts[0]} skips sublayers: name the dense artifact first")
    if len({subject.name for subject in subjects}) < len(subjects):
        raise EdgeSkipError("two artifacts have one name: rename one, so that the table can tell them apart")
    prompt = [int(token) for token in random_tokens(profile.prefill.tokens, profile.model.vocab_size)]
    cells = {
        subject.name: partial(
            run_afresh, contestant(path), prompt=prompt, new_tokens=new, threads=threads, logs=default_work() / "logs"
        )
        for subject, path in zip(subjects, artifacts, strict=True)
    }
    begin = time.perf_counter()
    runs = take_turns(cells, rounds=rounds, warm_up=False)
    for subject in subjects:
        for run in runs[subject.name]:
            subject.prefill_s.append(run.prefill_s)
            subject.decode_s.append(float(np.quantile(run.token_s, QUARTILE)))
    context = profile.prefill.tokens + new // 2
    rows = rows_of(subjects, profile, context)
    busy = [run.others_cores for one in runs.values() for run in one if run.others_cores is not None]
    setting = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "device_profile": profile.name,
        "profiled": profile.created,
        "prompt_tokens": profile.prefill.tokens,
        "context": context,
        "threads": threads,
        "rounds": rounds,
        "seconds": time.perf_counter() - begin,
        "others_cores": max(busy, default=None),
        "machine": describe(),
    }
    if json_file:
        replace_file(json_file, (json.dumps(as_json(rows, setting), indent=1) + "\n").encode())
    print(as_markdown(rows, setting))
    if not all(row.met for row in rows):
        raise typer.Exit(1)


def profiled(path: Path, new: int, threads: int) -> DeviceProfile:
    opened = open_dense(path, threads=threads)
    print(f"profiling {path}", file=sys.stderr)
    prompt = min(PREFILL_CHUNK, opened.context_length - new)
    return measure_device(opened, settle(opened, prompt, (prompt, prompt + new - 1), 4))


def subject_of(path: Path, profile: DeviceProfile) -> Subject:
    """EdgeSkipError where the artifact is not one whose time the profile can tell."""
    engine = "llama.cpp" if path.is_file() else "onnxruntime"
    manifest = read_gguf_manifest(read_gguf_header(path).metadata, str(path)) if path.is_file() else read_manifest(path)
    if manifest is None or manifest.plan.num_blocks != profile.model.num_blocks or engine != profile.engine:
        raise EdgeSkipError(f"{path} and the device profile ({profile.name}) are not of one model and engine")
    skip = frozenset(parse_sublayer(name, manifest.plan.num_blocks) for name in manifest.plan.skip)
    return Subject(path.stem if path.is_file() else path.name, skip)


def contestant(path: Path) -> Contestant:
    return Contestant(path.name, "ours", "", Path(sys.executable), "edgeskip_worker.py", path.resolve())


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
            ratios = Spread.of(a / b for a, b in zip(whole, measured, strict=True))
            rows.append(
                Row(subject.name, len(subject.skip), phase, Spread.of(measured), predicted_s, ratios, predicted)
            )
    return rows


def as_json(rows: list[Row], setting: dict[str, Any]) -> dict[str, Any]:
    return {
        "setting": setting,
        "bound": BOUND,
        "rows": [
            {
                "name": row.name,
                "skipped": row.skipped,
                "phase": row.phase,
                "measured_s": row.measured_s.median,
                "predicted_s": row.predicted_s,
                "measured_speedup": row.speedup.median,
                "measured_speedup_range": [row.speedup.low, row.speedup.high],
                "predicted_speedup": row.predicted_speedup,
                "predicted_over_measured_s": row.seconds_ratio,
                "predicted_over_measured_speedup": row.speedup_ratio,
                "met": row.met,
            }
            for row in rows
        ],
    }


def as_markdown(rows: list[Row], setting: dict[str, Any]) -> str:
    lines = [
        f"{setting['device_profile']}; prompt {setting['prompt_tokens']}, context {setting['context']}, "
        f"{setting['rounds']} rounds, {setting['created']}",
        "",
        "| artifact | skipped | phase | measured ms | predicted ms | ratio | measured speedup | predicted | ratio | |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.name} | {row.skipped} | {row.phase} | {1e3 * row.measured_s.median:.2f} | {1e3 * row.predicted_s:.2f} "
        f"| {row.seconds_ratio:.3f} | {row.speedup.median:.3f} [{row.speedup.low:.3f} – {row.speedup.high:.3f}] "
        f"| {row.predicted_speedup:.3f} | {row.speedup_ratio:.3f} | {'ok' if row.met else 'NO'} |"
        for row in rows
    ]
    if setting["others_cores"] and setting["others_cores"] > BUSY:
        lines += ["", f"Doubtful: other processes kept {setting['others_cores']:.2f} cores busy in the worst run."]
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command()(predict_check)
        app()
    except EdgeSkipError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
