"""Python's own share of a decode step: everything but the calls into the inference runtime.

    python tools/benchmarks/python_share.py ARTIFACT --json share.json

Makes a figure of docs/results/peers.md. Streams tokens as `edgeskip run` does (engine, sampler, detokenizer, stop
strings) by several sampling policies; the engine counts the seconds it spends inside ONNX Runtime or llama.cpp, and
medians are over all steps. Then the parts of the rest are timed one by one (in warm caches: within a step they take
longer).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from harness.command import JsonFile, Rounds, main
from harness.results import Results, Table
from numpy.typing import NDArray

import edgeskip
from edgeskip.core.held_out import HELD_OUT_TEXT
from edgeskip.runtime.detokenizer import StopStrings, TextDecoder
from edgeskip.runtime.sampling import TokenSampler

POLICIES = {
    "greedy": edgeskip.Sampling(),
    "top-k 40, top-p 0.95": edgeskip.Sampling(temperature=0.8, top_k=40, top_p=0.95, seed=1),
    "top-p 0.95": edgeskip.Sampling(temperature=0.8, top_p=0.95, seed=1),
    "temperature": edgeskip.Sampling(temperature=0.8, seed=1),
    "greedy, repetition penalty": edgeskip.Sampling(repetition_penalty=1.1),
}
REPEATS = 200


def python_share(
    artifact: Annotated[Path, typer.Argument(help="Artifact folder or .gguf file.")],
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of the prompt.")] = 512,
    new_tokens: Annotated[int, typer.Option(min=2, help="Tokens to generate.")] = 128,
    rounds: Rounds = 3,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads (default: the physical cores).")] = None,
    json_file: JsonFile = None,
) -> None:
    """Measure a decode step by sampling policy, inside the inference runtime and outside it; tables to stdout."""
    shares, parts = {}, {}
    with edgeskip.load(artifact, threads=threads) as session:
        session.end_tokens = frozenset()  # always the same number of steps
        text = session.encode(HELD_OUT_TEXT.read_text(encoding="utf-8"), chat=False)
        prompt = np.resize(text, prompt_tokens)  # after real text, real distributions
        for name, policy in POLICIES.items():
            steps = [one for _ in range(rounds) for one in steps_of(session, prompt, policy, new_tokens)]
            step_s, python_s = np.median(steps, axis=0).tolist()
            shares[name] = {"step_s": step_s, "python_s": python_s, "share": python_s / step_s}
        parts = {name: median_s(part) for name, part in parts_of(session).items()}
        threads = session.engine.threads
    columns = ["sampling", "a step, ms", "Python, µs", "share"]
    rows = [
        [name, f"{1e3 * one['step_s']:.2f}", f"{1e6 * one['python_s']:.0f}", f"{one['share']:.2%}"]
        for name, one in shares.items()
    ]
    Results(
        name="python_share",
        setting={
            "artifact": artifact.name, "prompt_tokens": prompt_tokens, "new_tokens": new_tokens, "threads": threads,
            "rounds": rounds,
        },
        tables=[
            Table("Python's share of a decode step", columns, rows),
            Table("Its parts", ["part", "µs"], [[name, f"{1e6 * s:.1f}"] for name, s in parts.items()]),
        ],
        data={"policies": shares, "parts_s": parts},
    ).publish(json_file)  # fmt: skip


def steps_of(
    session: edgeskip.Session, prompt: NDArray[np.int64], policy: edgeskip.Sampling, new_tokens: int
) -> Iterator[tuple[float, float]]:
    """Seconds of each decode step, and those of it in Python. Steps that gave one piece of text share."""
    engine = session.engine
    stream = session.stream(prompt, sampling=policy, max_tokens=new_tokens, stop="\0stop")
    next(stream)
    while True:
        length, inside, begin = engine.length, engine.run_s, time.perf_counter()
        try:
            next(stream)
        except StopIteration:
            return
        seconds = time.perf_counter() - begin
        if count := engine.length - length:
            yield seconds / count, (seconds - (engine.run_s - inside)) / count


def parts_of(session: edgeskip.Session) -> dict[str, Callable[[], object]]:
    """Return what a step does outside the inference runtime, piece by piece."""
    tokens = np.arange(min(512, session.engine.vocab_size))
    logits = session.logits(tokens[:8])[-1].copy()
    decoder, stops = TextDecoder(session.tokenizer), StopStrings(["\0stop"])
    parts: dict[str, Callable[[], object]] = {
        f"pick: {name}": partial(TokenSampler(policy).pick, logits, tokens) for name, policy in POLICIES.items()
    }
    parts["text and stop strings"] = lambda: stops.push(decoder.push(300))
    return parts


def median_s(part: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        part()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


if __name__ == "__main__":
    main(python_share)
