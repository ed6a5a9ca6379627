"""Time the sublayers of an artifact's `model.onnx` through ONNX Runtime's own profiler, node by node.

The nodes of our graphs are called after their sublayer (`attn.5.norm`, `ffn.5.up`, …). One session does both: it times
its nodes until its profiling is ended, and runs plainly from then on; so a round opens the model once.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeskip.artifacts.manifest import Manifest
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.sublayers import sublayers_of
from edgeskip.runtime.engines.onnxruntime.graph import GraphRunner
from edgeskip.runtime.engines.onnxruntime.session import open_session, session_config, shape_of
from edgeskip.runtime.engines.prefill import PREFILL_CHUNK
from edgeskip.runtime.sublayer_times import ProfiledStep, StepTimes, random_tokens

_NAME = re.compile(r"(attn|ffn)\.\d+(?=[./]|$)")
_KERNEL = "_kernel_time"


class OnnxRuntimeProfiler:
    """A `Clock` over a dense artifact without a draft, on the CPU: elsewhere ONNX Runtime times a node's start only."""

    def __init__(self, folder: Path, manifest: Manifest, *, threads: int | None = None) -> None:
        self._folder, self._manifest = folder, manifest
        self._settings = session_config("cpu", threads, frugal=False)
        self._shape = shape_of(manifest.graph)
        self._parts = {str(s): s.index for s in sublayers_of(manifest.plan.num_blocks)}

    @property
    def threads(self) -> int:
        return self._settings.threads

    def sample(self, steps: Sequence[tuple[ProfiledStep, int]], advance: Callable[[], None]) -> list[StepTimes]:
        with tempfile.TemporaryDirectory(prefix="edgeskip-profile-") as scratch:
            settings = replace(self._settings, profile=Path(scratch) / "nodes")
            session = open_session(self._folder, self._manifest, self._shape, settings)
            runner = GraphRunner(session, self._shape, settings.provider)
            try:
                # Marked first: once ended, a session's profiling cannot begin again.
                runs = _run_all(runner, steps, self._shape.columns, advance)
                events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
                samples = self._samples(events, [number for number, _ in runs], len(steps))
                for number, seconds in _run_all(runner, steps, self._shape.columns, advance):
                    if number is not None:
                        samples[number].plain_s.append(seconds)
                return samples
            finally:
                runner.close()

    def close(self) -> None:
        """Do nothing: no model is open between samples."""

    def _samples(self, events: list[dict[str, Any]], runs: list[int | None], count: int) -> list[StepTimes]:
        """Return a sample for each of the `count` steps; `runs` has each run's step, None = it does not count."""
        times: dict[str, list[float]] = {}  # node -> microseconds of each run
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
                times.setdefault(event["name"].removesuffix(_KERNEL), []).append(float(event["dur"]))
        if not times or any(len(durations) != len(runs) for durations in times.values()):
            raise EdgeSkipError(f"{self._folder}: ONNX Runtime did not time every node of every run: export it again")
        parts = np.array([self._part_of(name) for name in times])
        missing = [name for name, part in self._parts.items() if part not in parts]
        if missing:
            raise EdgeSkipError(f"{self._folder}: its graph has no node called {missing[0]}…: export it again")
        table = np.array(list(times.values())) * 1e-6  # [nodes, runs]
        marks = np.bincount(parts, minlength=len(self._parts) + 1)
        samples = [StepTimes(marks) for _ in range(count)]
        for run, number in enumerate(runs):
            if number is not None:
                sums = np.bincount(parts, weights=table[:, run], minlength=len(marks))
                samples[number].parts_s.append(sums.astype(np.float64))
        return samples

    def _part_of(self, name: str) -> int:
        match = _NAME.match(name)
        return self._parts.get(match[0], len(self._parts)) if match else len(self._parts)


def _run_all(
    runner: GraphRunner, steps: Sequence[tuple[ProfiledStep, int]], vocab_size: int, advance: Callable[[], None]
) -> list[tuple[int | None, float]]:
    """Return for every run of the graph the number of its step (None = filling the cache, warm-up) and its seconds."""
    tokens = random_tokens(max(step.held + step.tokens for step, _ in steps), vocab_size)
    runner.reserve(len(tokens))
    runs: list[tuple[int | None, float]] = []

    def run(piece: NDArray[np.int64], number: int | None) -> None:
        begin = time.perf_counter()
        runner.append_tokens(piece, 1)
        runs.append((number, time.perf_counter() - begin))

    for number, (step, repeats) in enumerate(steps):
        if step.held < runner.length:
            runner.truncate(step.held)
        while runner.length < step.held:
            run(tokens[runner.length : min(runner.length + PREFILL_CHUNK, step.held)], None)
        for repeat in range(repeats + 1):
            run(tokens[step.held : step.held + step.tokens], number if repeat else None)
            runner.truncate(step.held)
            advance()
    return runs
