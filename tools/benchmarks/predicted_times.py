"""Predicted against measured times of skip plans: does a device profile tell what a plan's artifact really takes?

    edgeskip profile-device DENSE -o device.json --threads 2
    python tools/benchmarks/predicted_times.py DENSE SKIP4 SKIP8 --device device.json --json check.json
    python tools/benchmarks/predicted_times.py DENSE.gguf SKIP4.gguf SKIP8.gguf

Makes the table of docs/results/predicted-times.md. The first artifact is dense; without `--device` it is profiled
first. Then `edgeskip bench` measures all of them, every figure in a process of its own (several open models slow each
other by a few per cent, the dense one most). A machine's speed drifts between profile and check, so two ratios are
given: predicted over measured seconds, and predicted over measured *speedup*, paired by round, in which drift cancels.
The bound is on the second; exit code 1 if it is missed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from harness.bench import prefill_and_decode
from harness.command import JsonFile, Rounds, Threads, check_names, main
from harness.processes import show_progress
from harness.results import Results, Spread, Table

from edgeskip.artifacts.gguf.header import read_gguf_header
from edgeskip.artifacts.gguf.manifest import read_gguf_manifest
from edgeskip.artifacts.manifest import read_manifest
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.sublayers import Sublayer, parse_sublayer
from edgeskip.profiles.device_profile import DeviceProfile, read_device_profile
from edgeskip.profiling.measure import measure_device, open_dense, settle
from edgeskip.runtime.engines.prefill import PREFILL_CHUNK

BOUND = 0.05


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
    named = {path.stem if path.is_file() else path.name: path for path in artifacts}
    check_names([path.stem if path.is_file() else path.name for path in artifacts])
    skips = {name: skips_of(path, profile) for name, path in named.items()}
    if skips[next(iter(named))]:
        raise EdgeSkipError(f"{artifacts[0]} skips sublayers: name the dense artifact first")
    prompt = profile.prefill.tokens
    prefill, decode, others = prefill_and_decode(named, prompt=prompt, new=new, rounds=rounds, threads=threads)
    context = prompt + new // 2
    prefill_s = {name: [prompt / speed for speed in speeds] for name, speeds in prefill.items()}
    decode_s = {name: [1 / speed for speed in speeds] for name, speeds in decode.items()}
    rows = rows_of(skips, prefill_s, decode_s, profile, context)
    Results(
        name="predicted_times",
        setting={
            "device_profile": profile.name, "profiled": profile.created, "prompt_tokens": prompt, "context": context,
            "threads": threads, "rounds": rounds,
        },
        tables=[table_of(rows)],
        data=[asdict(row) | {"speedup_ratio": row.speedup_ratio, "met": row.met} for row in rows],
        others_cores=others,
    ).publish(json_file)  # fmt: skip
    if not all(row.met for row in rows):
        raise typer.Exit(1)


def profiled(path: Path, new: int, threads: int) -> DeviceProfile:
    opened = open_dense(path, threads=threads)
    show_progress(f"profiling {path}")
    prompt = min(PREFILL_CHUNK, opened.context_length - new)
    return measure_device(opened, settle(opened, prompt, (prompt, prompt + new - 1), 4))


def skips_of(path: Path, profile: DeviceProfile) -> frozenset[Sublayer]:
    """Raise EdgeSkipError if the artifact is not one whose time the profile can tell."""
    engine = "llama.cpp" if path.is_file() else "onnxruntime"
    manifest = read_gguf_manifest(read_gguf_header(path).metadata, str(path)) if path.is_file() else read_manifest(path)
    if manifest is None or manifest.plan.num_blocks != profile.model.num_blocks or engine != profile.engine:
        raise EdgeSkipError(f"{path} and the device profile ({profile.name}) are not of one model and engine")
    return frozenset(parse_sublayer(name, manifest.plan.num_blocks) for name in manifest.plan.skip)


def rows_of(
    skips: Mapping[str, frozenset[Sublayer]],
    prefill_s: Mapping[str, Sequence[float]],
    decode_s: Mapping[str, Sequence[float]],
    profile: DeviceProfile,
    context: int,
) -> list[Row]:
    """Two rows for each artifact after the first, from seconds by round of a prompt and of a token."""
    dense, *others = skips
    rows = []
    for name in others:
        skip = skips[name]
        predicted_s = profile.prefill_s(skip), profile.decode_s(skip, context)
        phases = zip(
            ("prefill", "decode"), (prefill_s, decode_s), predicted_s, profile.speedups(skip, context), strict=True
        )
        for phase, seconds, expected_s, expected in phases:
            speedup, measured = Spread.of_ratios(seconds[dense], seconds[name]), Spread.of(seconds[name])
            rows.append(Row(name, len(skip), phase, measured, expected_s, speedup, expected))
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
