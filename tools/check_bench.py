"""Does `edgeskip bench` measure what others do? The same folder in onnxruntime-genai, the same file in llama-bench.

    python tools/check_bench.py --artifact demo/dense-fp32 --gguf demo/dense.gguf --llama-bench PATH

Rounds in turns, a fresh process for every figure. pp: a prompt of random tokens, logits of its last position. tg behind
that prompt; of llama-bench also tg in an empty context, its default. onnxruntime-genai is timed as its own
benchmark_e2e.py does it, around `append_tokens` and `generate_next_token`, by `harness/workers/genai_worker.py`.
The goal is a ratio within 10 %.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

sys.path.append(str(Path(__file__).parent / "benchmarks"))  # what the checks share with them
from harness.driver import Contestant, run_afresh
from harness.environments import environment
from harness.llama_bench import llama_bench
from harness.machine import describe
from peer_runtimes import default_work

from edgeskip.artifacts.manifest import read_manifest
from edgeskip.bench.analysis.statistics import paired_ratio
from edgeskip.bench.schema import RoundResult
from edgeskip.core.child_exit import how_it_ended
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import replace_file

GOAL = 0.10
Figures = dict[str, float]


def check_bench(
    artifact: Annotated[list[Path] | None, typer.Option(help="Artifact folder, repeatable.")] = None,
    gguf: Annotated[list[Path] | None, typer.Option(help="GGUF file, repeatable.")] = None,
    llama_bench_program: Annotated[
        Path | None, typer.Option("--llama-bench", help="llama.cpp's llama-bench, of the same build.")
    ] = None,
    genai_python: Annotated[Path | None, typer.Option(help="Python that has onnxruntime-genai.")] = None,
    prompt_tokens: Annotated[int, typer.Option("-p", min=1)] = 512,
    new_tokens: Annotated[int, typer.Option("-n", min=2)] = 128,
    threads: Annotated[int, typer.Option("-t", min=1)] = 2,
    rounds: Annotated[int, typer.Option("-r", min=2)] = 7,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every figure there.")] = None,
) -> None:
    """Measure both, print the ratios with their intervals; exit 1 where one is further off than 10 %."""
    if gguf and llama_bench_program is None:
        raise EdgeSkipError("--gguf is compared with llama-bench: name it with --llama-bench")
    theirs: dict[Path, Callable[[], Figures]] = {}
    for folder in artifact or []:
        python = genai_python or environment("genai", default_work())
        theirs[folder] = partial(genai_figures, python, folder, prompt_tokens, new_tokens, threads)
    for file in gguf or []:
        assert llama_bench_program is not None
        theirs[file] = partial(llama_bench_figures, llama_bench_program, file, prompt_tokens, new_tokens, threads)
    if not theirs:
        raise EdgeSkipError("nothing to compare: give --artifact or --gguf")
    ours = {path: partial(our_figures, path, prompt_tokens, new_tokens, threads) for path in theirs}
    found: dict[str, list[Figures]] = {}
    for number in range(rounds):
        pairs = [(path, who, side[path]) for path in theirs for who, side in (("edgeskip", ours), ("peer", theirs))]
        for path, who, measure in pairs if number % 2 == 0 else reversed(pairs):
            found.setdefault(f"{path} {who}", []).append(measure())
            print(f"round {number + 1}: {path.name} {who}: {found[f'{path} {who}'][-1]}", file=sys.stderr)
    rows, missed = [], False
    for path in theirs:
        a, b = found[f"{path} edgeskip"], found[f"{path} peer"]
        for test in b[0]:
            ratio = paired_ratio([one[test] for one in a], [one[test] for one in b])
            near = abs(ratio.value - 1) <= GOAL
            missed |= not near
            rows.append((path.name, test, [one[test] for one in a], [one[test] for one in b], ratio, near))
            print(
                f"{path.name} {test}: edgeskip bench {statistics.median(rows[-1][2]):.1f}, peer "
                f"{statistics.median(rows[-1][3]):.1f} tokens/s, ratio {ratio.value:.3f} "
                f"[{ratio.low or 0:.3f}–{ratio.high or 0:.3f}]{'' if near else '  more than 10 % apart'}"
            )
    if json_file:
        lines = [
            {"target": name, "test": test, "edgeskip": x, "peer": y, "ratio": vars(ratio), "within_goal": near}
            for name, test, x, y, ratio, near in rows
        ]
        text = json.dumps({"machine": describe(), "threads": threads, "rows": lines}, indent=1) + "\n"
        replace_file(json_file, text.encode())
    raise typer.Exit(1 if missed else 0)


def our_figures(path: Path, prompt: int, new: int, threads: int) -> Figures:
    """What `edgeskip bench` says: one round, a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "edgeskip", "bench", str(path), "-r", "1", "-t", str(threads), "-o", "jsonl"),
            *("-p", str(prompt), "-n", str(new), "-d", f"0,{prompt}", "--num-prompts", "0", "--no-quality"),
            *("--log", f"{folder}/log.jsonl"),
        ]
        lines = [json.loads(line) for line in _output(command).splitlines()]
    (sample,) = [RoundResult.model_validate(line) for line in lines if line["kind"] == "sample"]
    seconds = {(t.test, t.depth): t.seconds for t in sample.tests}
    return {
        f"pp{prompt}": prompt / seconds["pp", 0],
        f"tg{new}": new / seconds["tg", 0],
        f"tg{new} @ d{prompt}": new / seconds["tg", prompt],
    }


def llama_bench_figures(program: Path, file: Path, prompt: int, new: int, threads: int) -> Figures:
    """llama-bench's own."""
    run = llama_bench(program, file, prompt_tokens=prompt, new_tokens=new, threads=threads)
    command = [str(program), "-m", str(file), "-r", "1", "-t", str(threads), "-o", "json", "-p", "0", "-n", str(new)]
    (row,) = json.loads(_output(command))
    return {
        f"pp{prompt}": prompt / run.prefill_s,
        f"tg{new}": row["avg_ts"],
        f"tg{new} @ d{prompt}": len(run.token_s) / sum(run.token_s),
    }


def genai_figures(python: Path, folder: Path, prompt: int, new: int, threads: int) -> Figures:
    """onnxruntime-genai over the same folder."""
    vocabulary = read_manifest(folder).graph.vocab_size
    ids: list[Any] = np.random.default_rng(1).integers(0, vocabulary, prompt).tolist()
    contestant = Contestant("genai", "peer", "", python, "genai_worker.py", folder.resolve())
    run = run_afresh(contestant, ids, new, threads=threads, logs=default_work() / "logs")
    return {f"pp{prompt}": prompt / run.prefill_s, f"tg{new} @ d{prompt}": len(run.token_s) / sum(run.token_s)}


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    if done.returncode:
        words = done.stderr.strip().splitlines() or ["it said nothing"]
        raise EdgeSkipError(f"{' '.join(command[:4])} {how_it_ended(done.returncode)}: {words[-1]}")
    return done.stdout


if __name__ == "__main__":
    try:
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command()(check_bench)
        app()
    except EdgeSkipError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
