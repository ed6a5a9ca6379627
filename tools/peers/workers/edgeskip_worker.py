"""Benchmark worker: this runtime, through the same prefill and decode loop that `edgeskip run` uses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from protocol import Record, Start, Step, serve


def load(record: Record, *, folder: str, threads: int, capacity: int) -> Start:
    """Notes of a run: `runtime_s`, the part of its decode seconds spent inside ONNX Runtime; the rest is Python's."""
    import numpy as np

    from edgeskip.manifest import read_manifest
    from edgeskip.runtime.engines.onnxruntime_engine import OnnxRuntimeEngine
    from edgeskip.runtime.loops import History, decode, prefill
    from edgeskip.runtime.sampling import Sampler, Sampling

    manifest = read_manifest(Path(folder))
    engine = OnnxRuntimeEngine(Path(folder), manifest, threads=threads)
    record.settings.update(
        threads=engine.threads,
        provider=engine.provider,
        label=manifest.label,
        precision=manifest.graph.precision,
        quantisation=manifest.graph.quantisation,
        skip=manifest.plan.skip,
        compensation=manifest.plan.compensation,
    )

    def start(prompt: list[int]) -> Step:
        ids = np.array(prompt, dtype=np.int64)
        engine.truncate(0)
        engine.reserve(capacity)

        def generate() -> Iterator[int]:
            logits = prefill(engine, ids)
            inside = engine.run_s
            tokens = decode(engine, logits, History(ids), Sampler(Sampling()), max_tokens=None, end_tokens=frozenset())
            for token in tokens:
                record.notes["runtime_s"] = engine.run_s - inside
                yield token

        generator = generate()
        return lambda: int(next(generator))

    return start


if __name__ == "__main__":
    serve(load, ("edgeskip", "onnxruntime", "numpy"))
