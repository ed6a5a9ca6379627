"""Speed of GGUF files beside each other: prefill and decode, the ratio to the first file and what its work predicts.

    python tools/benchmarks/gguf_plans.py dense.gguf skip4.gguf skip8.gguf --json bench.json
    python tools/benchmarks/gguf_plans.py dense.gguf skip8.gguf --llama-bench PATH --artifact-onnx int4=DIR

The first file is the baseline. Every figure is taken in a process of its own that loads, warms up and runs once;
files take turns, in an order that is rotated, so that a machine whose speed drifts slows all of them, and ratios are
paired round by round. The prediction: decoding takes time as it reads weights and keys and values or computes,
whichever of the two shrinks less; prefill as it computes. `--llama-bench` puts llama.cpp's own figures of the same
files into the same rounds (tools/build_llamacpp.py builds it). Wants a quiet machine.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from harness.driver import Contestant, Run, run_afresh, take_turns
from harness.gguf_report import Entry, as_json, as_markdown, rows_of, targets_of
from harness.llama_bench import llama_bench as run_llama_bench
from harness.machine import describe
from harness.work_left import prediction, work_of
from peer_runtimes import LICENSE, default_work

from edgeskip.artifacts.gguf.header import read_gguf_header
from edgeskip.artifacts.gguf.manifest import read_gguf_manifest
from edgeskip.artifacts.manifest import read_manifest
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import replace_file


def bench_gguf(
    files: Annotated[list[Path], typer.Argument(help="GGUF files; the first is the baseline.")],
    artifact_onnx: Annotated[
        list[str] | None, typer.Option(help="NAME=DIR, repeatable: an ONNX artifact in the same rounds.")
    ] = None,
    llama_bench: Annotated[
        Path | None, typer.Option(help="The program llama-bench: its figures of the same files in the same rounds.")
    ] = None,
    text: Annotated[Path, typer.Option(help="Text whose first tokens are the prompt.")] = LICENSE,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of the prompt.")] = 512,
    new: Annotated[int, typer.Option(min=2, help="Tokens to generate.")] = 128,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; medians are over them.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="Threads of everything.")] = 2,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write everything there, single runs too.")] = None,
) -> None:
    """Measure GGUF files against the first of them; a table to stdout, progress to stderr.

    Every figure is taken in a process of its own that loads, warms up and runs once. Files take turns; ratios are of
    seconds, over the first file's in the same round. Predicted: decoding as the larger of bytes read (weights of
    blocks and head, keys and values at the mean position) and operations; prefill as operations.
    """
    folders = [named_folder(argument) for argument in artifact_onnx or []]
    named = [*files, *(folder for _, folder in folders), *([llama_bench] if llama_bench else [])]
    for path in named:
        if not path.exists():
            raise EdgeSkipError(f"{path} does not exist")
    ids = prompt_ids(files[0], text, prompt)
    setting = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "prompt_tokens": prompt,
        "new_tokens": new,
        "threads": threads,
        "rounds": rounds,
        "machine": describe(),
    }
    afresh = partial(run_afresh, prompt=ids, new_tokens=new, threads=threads, logs=default_work() / "logs")
    entries = gguf_entries(files, lambda file: partial(afresh, contestant(file)), prompt, new)
    if llama_bench:
        program = partial(run_llama_bench, llama_bench, prompt_tokens=prompt, new_tokens=new, threads=threads)
        entries += gguf_entries(files, lambda file: partial(program, file), prompt, new, prefix="llama-bench ")
    for name, folder in folders:
        label = read_manifest(folder).label
        entries.append(Entry(f"onnx {name}", label, partial(afresh, contestant(folder))))
    check_names([entry.name for entry in entries])
    begin = time.perf_counter()
    runs = take_turns({entry.name: entry.run for entry in entries}, rounds=rounds, warm_up=False)
    setting["seconds"] = time.perf_counter() - begin
    setting["load_average_after"] = describe()["load_average"]
    rows = rows_of(entries, runs, prompt)
    targets = targets_of(rows)
    if json_file:
        replace_file(json_file, (json.dumps(as_json(rows, targets, runs, setting), indent=1) + "\n").encode())
    print(as_markdown(rows, targets, setting))


def gguf_entries(
    files: Sequence[Path], runner: Callable[[Path], Callable[[], Run]], prompt: int, new: int, *, prefix: str = ""
) -> list[Entry]:
    """An entry for each file, those after the first with what their work predicts against it."""
    works = [work_of(file, prompt_tokens=prompt, new_tokens=new) for file in files]
    entries = [Entry(prefix + files[0].stem, label_of(files[0]), runner(files[0]))]
    for file, work in zip(files[1:], works[1:], strict=True):
        predicted = prediction(work, works[0])
        entries.append(Entry(prefix + file.stem, label_of(file), runner(file), entries[0].name, predicted))
    return entries


def label_of(file: Path) -> str:
    """What the file calls itself; empty where EdgeSkip did not write it. EdgeSkipError for half a model."""
    manifest = read_gguf_manifest(read_gguf_header(file).metadata, str(file))
    if manifest and manifest.part != "whole":
        raise EdgeSkipError(f"{file} is half of a pair: measure the pair with tools/benchmarks/split_cost.py")
    return manifest.label if manifest else ""


def contestant(path: Path) -> Contestant:
    return Contestant(path.name, "ours", "", Path(sys.executable), "edgeskip_worker.py", path.resolve())


def prompt_ids(file: Path, text: Path, count: int) -> list[int]:
    """The first `count` token ids of a text, by the file's own tokenizer."""
    import edgeskip

    with edgeskip.load(file) as session:
        ids = [int(token) for token in session.encode(text.read_text(encoding="utf-8"), chat=False)]
    if len(ids) < count:
        raise EdgeSkipError(f"{text} has only {len(ids)} tokens: give a longer --text or a smaller --prompt")
    return ids[:count]


def named_folder(argument: str) -> tuple[str, Path]:
    """NAME=DIR."""
    name, separator, folder = argument.partition("=")
    if not separator or not name:
        raise EdgeSkipError(f"--artifact-onnx {argument}: write NAME=DIR")
    return name, Path(folder)


def check_names(names: Sequence[str]) -> None:
    """EdgeSkipError where two entries would share a line."""
    if twice := [name for name in names if names.count(name) > 1]:
        raise EdgeSkipError(f"two entries are called {twice[0]}: rename a file, so that the table can tell them apart")


if __name__ == "__main__":
    try:
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command()(bench_gguf)
        app()
    except EdgeSkipError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
