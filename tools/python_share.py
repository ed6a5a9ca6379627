"""Measures Python's own share of a decode step: everything but the call into ONNX Runtime.

Streams tokens from an artifact as `edgeskip run` does (engine, sampler, detokenizer, stop strings) and subtracts from
the decode time the seconds spent inside `InferenceSession.run_with_iobinding`, which the engine counts with two clock
readings a step. Medians over all steps, so that other work on the machine counts little. Then the parts of the rest
are timed one by one, on their own (in warm caches: in a step they take longer).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import edgeskip
from edgeskip.runtime.sampling import Sampler
from edgeskip.runtime.text import StopStrings, TextDecoder

POLICIES = {
    "greedy": edgeskip.Sampling(),
    "top-k 40, top-p 0.95": edgeskip.Sampling(temperature=0.8, top_k=40, top_p=0.95, seed=1),
    "top-p 0.95": edgeskip.Sampling(temperature=0.8, top_p=0.95, seed=1),
    "temperature": edgeskip.Sampling(temperature=0.8, seed=1),
    "greedy, repetition penalty": edgeskip.Sampling(repetition_penalty=1.1),
}
REPEATS = 200


def main() -> None:
    """Prints a line per sampling policy, then the parts; `--json` prints one object."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    with edgeskip.load(arguments.artifact, threads=arguments.threads) as session:
        session.end_tokens = frozenset()  # always the same number of steps
        prompt = np.random.default_rng(0).integers(0, session.manifest.graph.vocab_size, arguments.prompt_tokens)
        policies: dict[str, dict[str, float]] = {}
        for name, policy in POLICIES.items():
            steps = [
                step for _ in range(arguments.rounds) for step in _steps(session, prompt, policy, arguments.new_tokens)
            ]
            step_s, python_s = (statistics.median(values) for values in zip(*steps, strict=True))
            policies[name] = {"step_s": step_s, "python_s": python_s, "python_share": python_s / step_s}
        parts = {name: _median_s(part) for name, part in _parts(session).items()}

    if arguments.json:
        print(json.dumps({"artifact": str(arguments.artifact), "policies": policies, "parts_s": parts}, indent=2))
        return
    for name, row in policies.items():
        print(f"{name:28} step {1e3 * row['step_s']:7.2f} ms   Python {1e6 * row['python_s']:6.0f} µs   "
              f"{row['python_share']:6.2%}")  # fmt: skip
    for name, seconds in parts.items():
        print(f"  {name:26} {1e6 * seconds:6.1f} µs")


def _steps(
    session: edgeskip.Session, prompt: NDArray[np.int64], policy: edgeskip.Sampling, new_tokens: int
) -> Iterator[tuple[float, float]]:
    """Seconds of each decode step, whole and outside ONNX Runtime. Pieces of text that took several steps share."""
    stream = session.stream(prompt, sampling=policy, max_tokens=new_tokens, stop="\0stop")
    engine = session.engine
    next(stream)
    while True:
        begin, run_s, length = time.perf_counter(), engine.run_s, engine.length
        try:
            next(stream)
        except StopIteration:
            return
        elapsed, inside, count = time.perf_counter() - begin, engine.run_s - run_s, engine.length - length
        if count:
            yield elapsed / count, (elapsed - inside) / count


def _parts(session: edgeskip.Session) -> dict[str, Callable[[], object]]:
    """What a step does outside ONNX Runtime, piece by piece."""
    tokens = np.arange(512)
    logits = session.logits(tokens[:8])[-1].copy()
    decoder, stops = TextDecoder(session.tokenizer), StopStrings(["\0stop"])
    parts: dict[str, Callable[[], object]] = {
        f"pick: {name}": partial(Sampler(policy).pick, logits, tokens) for name, policy in POLICIES.items()
    }
    parts["text and stop strings"] = lambda: stops.push(decoder.push(300))
    return parts


def _median_s(part: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        part()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


if __name__ == "__main__":
    main()
