"""What skipping costs and gains, method by method: quality against *measured* speed-up, in tables and one figure.

    python tools/benchmarks/methods.py                  everything; hours, goes on where it was
    python tools/benchmarks/methods.py --rows 8 --speedups '' --tasks '' --methods adaskip,budget    a small part of it
    python tools/benchmarks/methods.py --report-only    tables and figure from what is measured already

Makes the tables of docs/results/methods.md. Calibrates and searches on wikitext2_valid, tests on wikitext2_test and the
tasks of `edgeskip eval`. AdaSkip and the other baselines skip what their rule says (scale compensation, as AdaSkip has
it); ours is `plan --method budget` with the device profile of this machine: by number of sublayers, and by speed-up.
Every artifact is exported, measured and deleted; speed by `edgeskip bench` beside the dense artifact, fresh processes
in turns that ask for huge pages. All but dense are lossy-skip and are labelled so by the artifact itself.
What was measured in another way than this run would (threads, rounds, search, text, machine's settings …) is measured
again, and left out of the report.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from harness.bench import prefill_and_decode
from harness.command import (
    DATA,
    DEFAULT_MODEL,
    DataFolder,
    JsonFile,
    Model,
    Rounds,
    Threads,
    Work,
    cache_folder,
    main,
    numbers,
    words,
)  # fmt: skip
from harness.methods_report import check_figure, plot, tables_of
from harness.processes import show_progress
from harness.product import delete_artifact, edgeskip, exported, model_folder, planned
from harness.results import Results

from edgeskip.artifacts.manifest import read_manifest
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import replace_file, sha256_of
from edgeskip.core.machine import this_machine
from edgeskip.evaluation.runner import evaluate
from edgeskip.evaluation.summary import summarize
from edgeskip.evaluation.task import EvalSettings
from edgeskip.evaluation.tasks import tasks_named
from edgeskip.profiles.device_profile import read_device_profile
from edgeskip.profiles.schema import read_profile

BASELINES = ("adaskip", "early-exit", "skipdecode", "unified", "least-similar")
OURS, AFFINE = "budget", "budget-affine"
PROMPT, NEW = 512, 48
# What the search keeps: far beyond what anyone would use, so that fast plans are on the front too.
SEARCH = ("--search-kl", "2.0", "--max-skips", "24")


@dataclass(frozen=True)
class Setting:
    """One plan that is asked for; `wanted` a number of sublayers or, with a point, a predicted decode speed-up."""

    method: str
    wanted: str

    @property
    def name(self) -> str:
        return f"{self.method}-{self.wanted}"

    @property
    def by_speed(self) -> bool:
        return "." in self.wanted


def methods(
    model: Model = DEFAULT_MODEL,
    rows: Annotated[str, typer.Option(help="Numbers of sublayers to skip.")] = "4,8,12,16",
    speedups: Annotated[str, typer.Option(help="Decode speed-ups to ask of ours, and to compare all at.")] = (
        "1.10,1.20,1.30"
    ),
    more_rows: Annotated[
        str, typer.Option(help="Further numbers for the baselines, so that they reach the speed-ups.")
    ] = "20,24",
    methods: Annotated[
        str, typer.Option(help="Baselines, budget, and budget-affine: its sublayers, affine.")
    ] = ",".join((*BASELINES, OURS, AFFINE)),
    tasks: Annotated[str, typer.Option(help="Tasks of edgeskip eval for the rows; empty = none.")] = (
        "cnn_dailymail,trec"
    ),
    limit: Annotated[int, typer.Option(min=1, help="Samples of each task.")] = 10,
    precision: Annotated[str, typer.Option(help="Of the exports.")] = "fp32",
    rounds: Rounds = 10,
    threads: Threads = 2,
    data: DataFolder = DATA,
    work: Work = None,
    report_only: Annotated[bool, typer.Option("--report-only", help="Measure nothing.")] = False,
    json_file: JsonFile = None,
    figure: Annotated[Path | None, typer.Option(help="Write the figure there (.png, .svg or .pdf).")] = None,
) -> None:
    """Measure the methods at the same numbers of sublayers and the same speed-ups; tables to stdout."""
    folder = model_folder(model, work or cache_folder()) / f"frontier-{precision}"
    chosen = methods.split(",")
    if unknown := set(chosen) - {*BASELINES, OURS, AFFINE}:
        raise EdgeSkipError(f"--methods {sorted(unknown)[0]}: choose from {', '.join((*BASELINES, OURS, AFFINE))}")
    speeds = numbers("--speedups", speedups, float, 1) if speedups else []
    for option, text in (("--rows", rows), ("--more-rows", more_rows)):
        numbers(option, text or "1", int, 1)
    named = words(tasks)
    tasks_named(named or ["perplexity"])
    if figure:
        check_figure(figure)
    measuring = Bench(model, precision, folder, data, threads, rounds)
    failed = []
    if not report_only:
        measuring.prepare()
        for setting in settings_of(chosen, words(rows), words(more_rows), words(speedups)):
            try:
                measuring.measure(setting, named if setting.wanted in ("0", *words(rows)) else [], limit)
            except EdgeSkipError as error:
                failed.append(f"{setting.name} is left out: {error}")
                show_progress(failed[-1])
    results = measuring.results(limit)
    if not results:
        raise EdgeSkipError(f"nothing is measured yet in {folder}: leave --report-only out")
    if figure:
        plot(results, figure, model)
    Results(
        name="methods",
        setting={
            "model": model, "precision": precision, "prompt_tokens": PROMPT, "new_tokens": NEW, "threads": threads,
            "rounds": rounds, "samples_of_each_task": limit,
        },
        tables=tables_of(results, words(rows), speeds, (OURS, AFFINE)),
        data=results,
        notes=failed,
        others_cores=[result.get("others_cores") for result in results],
    ).publish(json_file)  # fmt: skip
    if failed:
        raise typer.Exit(1)


def settings_of(
    methods: Sequence[str], rows: Sequence[str], more_rows: Sequence[str], speedups: Sequence[str]
) -> list[Setting]:
    """Dense, then row by row every method, then what makes them comparable by speed."""
    found = [Setting("dense", "0")]
    found += [Setting(method, row) for row in rows for method in methods]
    found += [Setting(OURS, f"{float(speed):.2f}") for speed in speedups if OURS in methods]
    found += [Setting(method, row) for row in more_rows for method in methods if method in BASELINES]
    return found


class Bench:
    """One model on this machine; a result is a file, so what was measured is not measured again."""

    def __init__(self, model: str, precision: str, folder: Path, data: Path, threads: int, rounds: int) -> None:
        self._model, self._precision, self._folder = model, precision, folder
        self._data, self._threads, self._rounds = data, threads, rounds
        self._profile, self._device = folder / "wikitext2.json", folder / f"device-{threads}.json"
        self._dense = folder / "dense"

    def prepare(self) -> None:
        """Calibrate, exports the dense artifact, profiles this device and searches, each if it is not done yet."""
        self._folder.mkdir(parents=True, exist_ok=True)
        valid = self._data / "wikitext2_valid.txt"
        if not self._profile.exists():
            edgeskip("calibrate", self._model, "-o", self._profile, "--corpus", valid)
        if not (self._dense / "edgeskip.json").exists():
            # Not the profile itself: the search leaves a plan in it.
            without = planned(self._profile, self._folder / "dense.json", skip_sublayers=0)
            exported(self._model, without, self._dense, precision=self._precision)
        if read_manifest(self._dense).plan.skip:
            raise EdgeSkipError(f"{self._dense} is not dense: delete it")
        if not self._device.exists():
            edgeskip("profile-device", self._dense, "-o", self._device, "--threads", str(self._threads))
        if read_profile(self._profile).front is None:
            self._plan("--point", "1", *SEARCH, "--no-decode-set")

    def measure(self, setting: Setting, tasks: Sequence[str], limit: int) -> None:
        """Perplexity, speed and tasks of one setting, as far as they are missing."""
        path = self._folder / f"{setting.name}.result.json"
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        if found.get("made") != self._made(setting.method):
            found = {}
        missing = [task for task in tasks if found.get("tasks", {}).get(task, {}).get("limit") != limit]
        if found and not missing:
            return
        show_progress(f"== {setting.name}")
        artifact = self._artifact(setting)
        if not found:
            found = {"name": setting.name, "method": setting.method, "wanted": setting.wanted, "tasks": {}}
            found["made"] = self._made(setting.method)
            found |= self._facts(artifact) | self._speed(setting, artifact)
            found["perplexity"] = asdict(self._summary(artifact, "perplexity", None))
            _write(path, found)
        for task in missing:
            found["tasks"][task] = asdict(self._summary(artifact, task, limit)) | {"limit": limit}
            _write(path, found)
        if artifact != self._dense:
            delete_artifact(artifact)

    def results(self, limit: int) -> list[dict[str, Any]]:
        """Return everything measured as this run would, dense first, by method and then by what was asked for."""
        found = []
        for path in self._folder.glob("*.result.json"):
            result = json.loads(path.read_text())
            if result.get("made") != self._made(result["method"]):
                show_progress(f"{path.name} was measured in another way: left out")
                continue
            result["tasks"] = {name: task for name, task in result["tasks"].items() if task["limit"] == limit}
            found.append(result)
        return sorted(
            found, key=lambda r: (r["method"] != "dense", r["method"], "." in r["wanted"], float(r["wanted"]))
        )

    def _artifact(self, setting: Setting) -> Path:
        if setting.method == "dense":
            return self._dense
        target = self._folder / f"{setting.name}.json"
        wanted = ("--min-speedup" if setting.by_speed else "--skip-sublayers", setting.wanted)
        if setting.method in (OURS, AFFINE):
            target = self._folder / f"{OURS}-{setting.wanted}.json"
            self._plan(*wanted, "--no-decode-set", "-o", target, "--overwrite")
        if setting.method == AFFINE:
            plan = read_profile(target).plan
            skip = ",".join(plan.skip if plan else [])
            source, target = target, self._folder / f"{setting.name}.json"
            edgeskip(
                *("plan", source, "--skip", skip, "--fit", "--compensation", "affine", "--model", self._model),
                *("--corpus", self._data / "wikitext2_valid.txt", "-o", target, "--overwrite"),
            )
        elif setting.method != OURS:
            edgeskip(
                *("plan", self._profile, "--method", setting.method, "--compensation", "scale", *wanted),
                *("-o", target, "--overwrite"),
            )
        # Rounding is amplified by a model that is as good as destroyed: its check may fail, and the result says so.
        return exported(
            self._model, target, self._folder / setting.name, precision=self._precision,
            arguments=["--allow-mismatch"] if setting.method in BASELINES else [],
        )  # fmt: skip

    def _plan(self, *arguments: str | Path) -> None:
        edgeskip(
            *("plan", self._profile, "--method", "budget", "--device-profile", self._device),
            *("--corpus", self._data / "wikitext2_valid.txt", "--model", self._model, *arguments),
        )

    def _made(self, method: str) -> dict[str, Any]:
        """Return what a result rests on: if any of it is another, it is measured again."""
        profile = read_profile(self._profile)
        front = profile.front if method in (OURS, AFFINE) else None
        return {
            "calibration": profile.calibration.created,
            "front": front.created if front else None,
            "device": read_device_profile(self._device).created if front else None,
            "test": sha256_of(self._data / "wikitext2_test.txt"),
            "timing": [self._threads, self._rounds, PROMPT, NEW],
            "processor": this_machine().processor,
            "memory": os.environ.get("GLIBC_TUNABLES"),
        }

    def _facts(self, artifact: Path) -> dict[str, Any]:
        manifest = read_manifest(artifact)
        plan = manifest.plan
        checked = manifest.verification is not None and manifest.verification.passed
        return {"label": manifest.label, "skip": plan.skip, "compensation": plan.compensation, "checked": checked}

    def _speed(self, setting: Setting, artifact: Path) -> dict[str, Any]:
        """Speed-ups over dense, medians and quartiles over rounds; every round's; how busy the machine was at worst."""
        if setting.method == "dense":
            one = {"median": 1.0, "low": 1.0, "high": 1.0}
            return {"prefill": one, "decode": one, "tokens_per_s": {}, "others_cores": None}
        os.sync()  # the export is still being written to disk otherwise
        named = {"dense": self._dense, "own": artifact}
        prefill, decode, others = prefill_and_decode(
            named, prompt=PROMPT, new=NEW, rounds=self._rounds, threads=self._threads
        )
        speeds = {"prefill": prefill, "decode": decode}
        ratios = {phase: quartiles(found["own"], found["dense"]) for phase, found in speeds.items()}
        show_progress("   prefill {:.3f}, decode {:.3f}".format(*(one["median"] for one in ratios.values())))
        busiest = max((one for one in others if one is not None), default=None)
        return {**ratios, "tokens_per_s": speeds, "others_cores": busiest}

    def _summary(self, artifact: Path, task: str, limit: int | None) -> Any:
        settings = EvalSettings(limit=limit, threads=self._threads)
        return summarize(evaluate(artifact, [task], data=self._data, settings=settings))[0]


def quartiles(own: Sequence[float], dense: Sequence[float]) -> dict[str, float]:
    """Median and quartiles of own over dense, round by round."""
    low, median, high = np.quantile(np.divide(own, dense), (0.25, 0.5, 0.75)).tolist()
    return {"median": median, "low": low, "high": high}


def _write(path: Path, found: dict[str, Any]) -> None:
    replace_file(path, (json.dumps(found, indent=1) + "\n").encode())


if __name__ == "__main__":
    main(methods, huge_pages=True)
