"""Does `edgeskip bench` measure what others do? The same folder in onnxruntime-genai, the same file in llama-bench.

    python tools/check_bench.py --artifact demo/dense-fp32 --gguf demo/dense.gguf --llama-bench PATH

Rounds in turns, a fresh process for every figure. pp: a prompt of random tokens, logits of its last position. tg behind
that prompt; of llama-bench also tg in an empty context, its default. onnxruntime-genai is timed as its own
benchmark_e2e.py does it, around `append_tokens` and `generate_next_token`. The goal is a ratio within 10 %. Files after
the first are also compared with it: time over the first one's, and that over what the remaining work predicts (decoding
takes as long as it reads or computes, whichever shrinks less; prefill as it computes): the table of
docs/results/gguf.md.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer

sys.path.append(str(Path(__file__).parent / "benchmarks"))  # what the checks share with them
from harness.bench import bench, prefill_and_decode
from harness.command import JsonFile, Rounds, Threads, cache_folder, main
from harness.llama_bench import llama_bench, output_of
from harness.peers import environment
from harness.processes import take_turns
from harness.results import Results, Table
from harness.runtimes import Contestant, run_afresh
from harness.work_left import prediction, work_of

from edgeskip.artifacts.manifest import read_manifest
from edgeskip.bench.analysis.statistics import Ratio, paired_ratio
from edgeskip.core.errors import EdgeSkipError

GOAL = 0.10
Figures = dict[str, float]


@dataclass(frozen=True)
class Row:
    """One test of one target, tokens/s by round. `over_first`: seconds over the first target's, also as `predicted`."""

    target: str
    test: str
    edgeskip: list[float]
    peer: list[float]
    ratio: Ratio
    over_first: Ratio | None = None
    predicted: float | None = None

    @property
    def within_goal(self) -> bool:
        return abs(self.ratio.value - 1) <= GOAL


def check_bench(
    artifact: Annotated[list[Path] | None, typer.Option(help="Artifact folder, repeatable.")] = None,
    gguf: Annotated[list[Path] | None, typer.Option(help="GGUF file, repeatable.")] = None,
    llama_bench_program: Annotated[
        Path | None, typer.Option("--llama-bench", help="llama.cpp's llama-bench, of the same build.")
    ] = None,
    genai_python: Annotated[Path | None, typer.Option(help="Python that has onnxruntime-genai.")] = None,
    prompt_tokens: Annotated[int, typer.Option("--prompt-tokens", "-p", min=1)] = 512,
    new_tokens: Annotated[int, typer.Option("--new-tokens", "-n", min=2)] = 128,
    threads: Threads = 2,
    rounds: Rounds = 7,
    json_file: JsonFile = None,
) -> None:
    """Measure both, print the ratios with their intervals; exit 1 if one is further off than 10 %."""
    if gguf and llama_bench_program is None:
        raise EdgeSkipError("--gguf is compared with llama-bench: name it with --llama-bench")
    work = (prompt_tokens, new_tokens, threads)
    theirs: dict[Path, Callable[[], Figures]] = {}
    for folder in artifact or []:
        python = genai_python or environment("genai", cache_folder())
        theirs[folder] = partial(genai_figures, python, folder, *work)
    for file in gguf or []:
        assert llama_bench_program is not None
        theirs[file] = partial(llama_bench_figures, llama_bench_program, file, *work)
    if not theirs:
        raise EdgeSkipError("nothing to compare: give --artifact or --gguf")
    cells: dict[str, Callable[[], Figures]] = {}
    for path, measure in theirs.items():
        cells |= {f"{path} edgeskip": partial(our_figures, path, *work), f"{path} peer": measure}
    found = take_turns(cells, rounds=rounds, pause_s=0)
    rows = [row for paths in (artifact or [], gguf or []) for row in rows_of(paths, found, prompt_tokens, new_tokens)]
    Results(
        name="check_bench",
        folder="tools",
        setting={"prompt_tokens": prompt_tokens, "new_tokens": new_tokens, "threads": threads, "rounds": rounds},
        tables=[table_of(rows)],
        data=[{**vars(row), "within_goal": row.within_goal} for row in rows],
    ).publish(json_file)
    raise typer.Exit(0 if all(row.within_goal for row in rows) else 1)


def rows_of(paths: Sequence[Path], found: dict[str, list[Figures]], prompt: int, new: int) -> list[Row]:
    """Of targets of one kind, the first of which the others are compared with."""
    rows = []
    works = [work_of(path, prompt_tokens=prompt, new_tokens=new) for path in paths] if len(paths) > 1 else []
    for number, path in enumerate(paths):
        ours, peers, first = (found[name] for name in (f"{path} edgeskip", f"{path} peer", f"{paths[0]} edgeskip"))
        for test in peers[0]:
            own = [one[test] for one in ours]
            other = [one[test] for one in peers]
            over_first = predicted = None
            if number:
                over_first = paired_ratio([one[test] for one in first], own)
                left = prediction(works[number], works[0])
                predicted = left.prefill_flops_ratio if test.startswith("pp") else left.decode
            rows.append(Row(path.name, test, own, other, paired_ratio(own, other), over_first, predicted))
    return rows


def table_of(rows: Sequence[Row]) -> Table:
    columns = ["target", "test", "edgeskip bench, tok/s", "peer, tok/s", "edgeskip / peer", "within 10 %"]
    lines = []
    for row in rows:
        cells = [row.target, row.test, f"{median(row.edgeskip):.1f}", f"{median(row.peer):.1f}", _text(row.ratio)]
        cells += ["yes" if row.within_goal else "NO", _text(row.over_first) if row.over_first else ""]
        over = row.over_first.value / row.predicted if row.over_first and row.predicted else None
        lines.append([*cells, "" if over is None else f"{over:.3f}"])
    return Table("edgeskip bench beside others", [*columns, "time ÷ the first's", "÷ predicted"], lines)


def _text(ratio: Ratio) -> str:
    return f"{ratio.value:.3f} [{ratio.low or 0:.3f} – {ratio.high or 0:.3f}]"


def our_figures(path: Path, prompt: int, new: int, threads: int) -> Figures:
    """Return what `edgeskip bench` says: one round, a process of its own."""
    prefill, decode, _ = prefill_and_decode({"it": path}, prompt=prompt, new=new, rounds=1, threads=threads)
    empty = bench({"it": path}, prompt_tokens=0, new_tokens=new, rounds=1, threads=threads)
    (at_start,) = (row.median for row in empty.rows if row.unit == "tokens/s")
    return {f"pp{prompt}": prefill["it"][0], f"tg{new}": at_start, f"tg{new} @ d{prompt}": decode["it"][0]}


def llama_bench_figures(program: Path, file: Path, prompt: int, new: int, threads: int) -> Figures:
    """llama-bench's own."""
    run = llama_bench(program, file, prompt_tokens=prompt, new_tokens=new, threads=threads)
    command = [str(program), "-m", str(file), "-r", "1", "-t", str(threads), "-o", "json", "-p", "0", "-n", str(new)]
    (row,) = json.loads(output_of(command))
    return {
        f"pp{prompt}": prompt / run.prefill_s,
        f"tg{new}": row["avg_ts"],
        f"tg{new} @ d{prompt}": run.decode_tokens_per_s,
    }


def genai_figures(python: Path, folder: Path, prompt: int, new: int, threads: int) -> Figures:
    """onnxruntime-genai over the same folder."""
    vocabulary = read_manifest(folder).graph.vocab_size
    ids: list[Any] = np.random.default_rng(1).integers(0, vocabulary, prompt).tolist()
    contestant = Contestant("genai", python, "genai_worker.py", folder.resolve())
    run = run_afresh(contestant, ids, new, threads=threads, logs=cache_folder() / "logs")
    return {f"pp{prompt}": prompt / run.prefill_s, f"tg{new} @ d{prompt}": run.decode_tokens_per_s}


if __name__ == "__main__":
    main(check_bench)
