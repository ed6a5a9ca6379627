"""Measures Python's own share of a decode step: everything but the call into ONNX Runtime.

Streams tokens from an artifact as `edgeskip run` does (engine, sampler, detokenizer, stop strings) with a clock around
`InferenceSession.run_with_iobinding`, and takes medians over all steps. Twice: in wall time, and in CPU time of the
thread that calls, which other work on the machine does not touch (and which means nothing on a GPU). Then the parts
of the rest are timed one by one, on their own (in warm caches: within a step they take longer).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

import edgeskip
from edgeskip.runtime.detokenizer import StopStrings, TextDecoder
from edgeskip.runtime.sampling import TokenSampler

POLICIES = {
    "greedy": edgeskip.Sampling(),
    "top-k 40, top-p 0.95": edgeskip.Sampling(temperature=0.8, top_k=40, top_p=0.95, seed=1),
    "top-p 0.95": edgeskip.Sampling(temperature=0.8, top_p=0.95, seed=1),
    "temperature": edgeskip.Sampling(temperature=0.8, seed=1),
    "greedy, repetition penalty": edgeskip.Sampling(repetition_penalty=1.1),
}
# As the prompt: after real text, real distributions.
TEXT = Path(__file__).parents[2] / "edgeskip" / "core" / "quality.txt"
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
        text = session.encode(TEXT.read_text(encoding="utf-8"), chat=False)
        prompt = np.resize(text, arguments.prompt_tokens)
        inside = _Inside()
        policies: dict[str, dict[str, float]] = {}
        for name, policy in POLICIES.items():
            steps = [
                step
                for _ in range(arguments.rounds)
                for step in _steps(session, prompt, policy, arguments.new_tokens, inside)
            ]
            step_s, python_s, step_cpu_s, python_cpu_s = (float(median) for median in np.median(steps, axis=0))
            policies[name] = {
                "step_s": step_s,
                "python_s": python_s,
                "python_share": python_s / step_s,
                "step_cpu_s": step_cpu_s,
                "python_cpu_s": python_cpu_s,
                "python_cpu_share": python_cpu_s / step_cpu_s,
            }
        parts = {name: _median_s(part) for name, part in _parts(session).items()}

    if arguments.json:
        print(json.dumps({"artifact": str(arguments.artifact), "policies": policies, "parts_s": parts}, indent=2))
        return
    print(f"{'':28}{'wall: step':>12}{'Python':>10}{'share':>8}{'CPU: step':>12}{'Python':>10}{'share':>8}")
    for name, row in policies.items():
        wall = f"{1e3 * row['step_s']:9.2f} ms{1e6 * row['python_s']:7.0f} µs{row['python_share']:8.2%}"
        cpu = f"{1e3 * row['step_cpu_s']:9.2f} ms{1e6 * row['python_cpu_s']:7.0f} µs{row['python_cpu_share']:8.2%}"
        print(f"{name:28}{wall}{cpu}")
    for name, seconds in parts.items():
        print(f"  {name:34}{1e6 * seconds:6.1f} µs")


class _Inside:
    """Seconds spent inside ONNX Runtime since it was installed: wall, and CPU of the calling thread."""

    def __init__(self) -> None:
        self.wall_s = self.cpu_s = 0.0
        run = onnxruntime.InferenceSession.run_with_iobinding
        wall, cpu = time.perf_counter, time.thread_time

        def timed(session: Any, *arguments: Any) -> None:
            begin, begin_cpu = wall(), cpu()
            run(session, *arguments)
            self.cpu_s += cpu() - begin_cpu
            self.wall_s += wall() - begin

        onnxruntime.InferenceSession.run_with_iobinding = timed


def _steps(
    session: edgeskip.Session, prompt: NDArray[np.int64], policy: edgeskip.Sampling, new_tokens: int, inside: _Inside
) -> Iterator[tuple[float, float, float, float]]:
    """Seconds of each decode step: wall, wall in Python, CPU, CPU in Python. Steps that gave one piece share."""
    stream = session.stream(prompt, sampling=policy, max_tokens=new_tokens, stop="\0stop")
    next(stream)
    wall, cpu = time.perf_counter, time.thread_time
    while True:
        length, inside.wall_s, inside.cpu_s = session.engine.length, 0.0, 0.0
        begin, begin_cpu = wall(), cpu()
        try:
            next(stream)
        except StopIteration:
            return
        cpu_s, wall_s = cpu() - begin_cpu, wall() - begin
        count = session.engine.length - length
        if count:
            yield wall_s / count, (wall_s - inside.wall_s) / count, cpu_s / count, (cpu_s - inside.cpu_s) / count


def _parts(session: edgeskip.Session) -> dict[str, Callable[[], object]]:
    """What a step does outside ONNX Runtime, piece by piece."""
    tokens = np.arange(512)
    logits = session.logits(tokens[:8])[-1].copy()
    decoder, stops = TextDecoder(session.tokenizer), StopStrings(["\0stop"])
    parts: dict[str, Callable[[], object]] = {
        f"pick: {name}": partial(TokenSampler(policy).pick, logits, tokens) for name, policy in POLICIES.items()
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
