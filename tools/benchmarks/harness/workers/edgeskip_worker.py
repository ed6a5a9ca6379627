"""Benchmark worker: this runtime, through the same prefill and decode loop that `edgeskip run` uses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from protocol import Record, Start, Step, serve


def load(record: Record, *, folder: str, threads: int, capacity: int) -> Start:
    """Yield an artifact folder or a GGUF file.

    Notes of a run: `runtime_s`, the part of its decode seconds spent inside ONNX Runtime or llama.cpp; the rest is
    Python's.
    """
    import numpy as np

    from edgeskip.runtime.decoding.autoregressive import decode
    from edgeskip.runtime.decoding.interface import DecodeRequest, History
    from edgeskip.runtime.engines.prefill import prefill
    from edgeskip.runtime.sampling import Sampling, TokenSampler

    engine, settings = open_artifact(Path(folder), threads)
    record.settings.update(threads=engine.threads, provider=engine.provider, **settings)

    def start(prompt: list[int]) -> Step:
        ids = np.array(prompt, dtype=np.int64)
        engine.truncate(0)
        engine.reserve(capacity)

        def generate() -> Iterator[int]:
            logits = prefill(engine, ids)
            inside = engine.run_s
            tokens = decode(engine, DecodeRequest(logits, History(ids), TokenSampler(Sampling())))
            for token in tokens:
                record.notes["runtime_s"] = engine.run_s - inside
                yield token

        generator = generate()
        return lambda: int(next(generator))

    return start


def open_artifact(path: Path, threads: int) -> tuple[Any, dict[str, Any]]:
    """Return the engine, and what the artifact says of itself.

    A folder's tokenizer stays unread: peers read none either.
    """
    if path.is_dir():
        from edgeskip.artifacts.manifest import read_manifest
        from edgeskip.runtime.engines.onnxruntime.engine import OnnxRuntimeEngine

        manifest = read_manifest(path)
        return OnnxRuntimeEngine(path, manifest, threads=threads), {
            "label": manifest.label,
            "precision": manifest.graph.precision,
            "quantisation": manifest.graph.quantisation,
            "skip": manifest.plan.skip,
            "compensation": manifest.plan.compensation,
        }
    import edgeskip

    session = edgeskip.load(path, threads=threads)
    return session.engine, {"label": session.label}


if __name__ == "__main__":
    serve(load, ("edgeskip", "onnxruntime", "llama-cpp-python", "numpy"))
