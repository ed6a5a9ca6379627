"""What it costs in llama.cpp to go on with a file that skips more FFNs, and what it gains (edgeskip export --online).

    edgeskip export PROFILE --target gguf --online -o m.gguf
    python tools/benchmarks/handover_cost.py m.gguf --json handover.json

The decode plan is a file of its own with a KV cache of its own: time to open it and memory for it, time to copy the
cache, and decode steps before and after, in turns. How far the answer moves is measured in two ways, over the same
tokens: against the first file (what skipping changes), and against the second file run from the start (what the first
file's cache rows change).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from harness.command import LICENSE, JsonFile, PromptText, Rounds, Threads, main, numbers
from harness.results import Results, Spread, Table
from numpy.typing import NDArray

from edgeskip.artifacts.gguf.manifest import GgufManifest
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.metrics import compare_logits
from edgeskip.runtime.decoding.handover import HandoverEngine
from edgeskip.runtime.engines.interface import Engine
from edgeskip.runtime.engines.prefill import prefill
from edgeskip.runtime.session import load
from edgeskip.runtime.sublayer_times import QUARTILE


def handover_cost(
    file: Annotated[Path, typer.Argument(help="A GGUF that names a file to take over while decoding.")],
    text: PromptText = LICENSE,
    contexts: Annotated[str, typer.Option(help="Tokens in the KV cache when it is handed over.")] = "512,2048",
    tokens: Annotated[int, typer.Option(min=2, help="Decode steps a turn.")] = 32,
    rounds: Rounds = 5,
    threads: Threads = 2,
    json_file: JsonFile = None,
) -> None:
    """Measure the handover; a table to stdout."""
    lengths = numbers("--contexts", contexts, int, 1)
    with load(file, threads=threads) as session:
        engine, manifest = session.engine, session.manifest
        if not isinstance(engine, HandoverEngine) or not isinstance(manifest, GgufManifest) or not manifest.decode:
            raise EdgeSkipError(f"{file} has no file beside it that takes over: export it with  --online")
        content = text.read_text(encoding="utf-8")
        ids = session.encode(content * 8, chat=False)[: max(lengths) + tokens]
        engine.reserve(len(ids))
        prefill(engine, ids[: lengths[0]])
        before, begin = resident_bytes(), time.perf_counter()
        engine.prepare()
        opening_s = time.perf_counter() - begin
        rows = [measured(engine, ids[: length + tokens], length, rounds) for length in lengths]
        memory = resident_bytes() - before
        decode = file.with_name(manifest.decode)
        with load(decode, threads=threads) as second:
            for row, length in zip(rows, lengths, strict=True):
                row |= divergences(engine, second.engine, ids[: length + tokens], length)
    Results(
        name="handover_cost",
        setting={
            "file": file.name, "skipped": len(manifest.plan.skip),
            "more_FFNs_skipped_by_the_second_file": len(manifest.decode_skipped),
            "ms_to_open_it": round(1e3 * opening_s), "MB_more_memory": round(memory / 1e6), "threads": threads,
            "rounds": rounds,
        },
        tables=[table_of(rows)],
        data={"rows": rows, "opening_s": opening_s, "memory_bytes": memory, "decode_skipped": manifest.decode_skipped},
    ).publish(json_file)  # fmt: skip


def measured(engine: HandoverEngine, ids: NDArray[np.int64], length: int, rounds: int) -> dict[str, Any]:
    """Seconds of the handover and of steps on both sides of it, behind the same `length` tokens."""
    handover, one, two = [], [], []
    for number in range(rounds + 1):
        engine.truncate(0)
        prefill(engine, ids[:length])
        first = steps_s(engine, ids, length)
        engine.truncate(length)
        engine.hand_over()
        second = steps_s(engine, ids, length)
        if number:
            handover.append(engine.handover_s)
            one.append(first)
            two.append(second)
    return {
        "context": length,
        "handover_s": Spread.of(handover),
        "step_before_s": Spread.of(one),
        "step_after_s": Spread.of(two),
        "speedup": Spread.of_ratios(one, two),
    }


def steps_s(engine: Engine, ids: NDArray[np.int64], length: int) -> float:
    """The lower quartile of the seconds of single steps over the tokens after the first `length`."""
    times = []
    for position in range(length, len(ids)):
        begin = time.perf_counter()
        engine.step(ids[position : position + 1])
        times.append(time.perf_counter() - begin)
    return float(np.quantile(times[1:], QUARTILE))


def divergences(engine: HandoverEngine, second: Engine, ids: NDArray[np.int64], length: int) -> dict[str, float]:
    """Mean KL and share of equal argmax over the tokens after `length`: handed over against the first file and
    against the second from the start."""
    engine.truncate(0)
    prefill(engine, ids[:length])
    first = logits_of(engine, ids, length)
    engine.truncate(length)
    engine.hand_over()
    over = logits_of(engine, ids, length)
    second.truncate(0)
    prefill(second, ids[:length])
    alone = compare_logits(logits_of(second, ids, length), over)
    moved = compare_logits(first, over)
    return {
        "kl_to_first": moved.kl_divergence,
        "top1_as_first": moved.top1_agreement,
        "kl_to_second_alone": alone.kl_divergence,
        "top1_as_second_alone": alone.top1_agreement,
    }


def logits_of(engine: Engine, ids: NDArray[np.int64], length: int) -> NDArray[np.float32]:
    """Logits [n, vocab_size] after each token behind the first `length`."""
    return np.concatenate([engine.step(ids[i : i + 1]).copy() for i in range(length, len(ids))])


def resident_bytes() -> int:
    """Bytes of this process in memory, mapped files included; 0 if the system does not say."""
    try:
        fields = Path("/proc/self/statm").read_text(encoding="ascii").split()
    except OSError:
        return 0
    import resource

    return int(fields[1]) * resource.getpagesize()


def table_of(rows: list[dict[str, Any]]) -> Table:
    columns = ["tokens held", "handover ms", "step before, ms", "after", "speedup", "KL to first", "top-1"]
    lines = [
        [
            str(row["context"]),
            row["handover_s"].times(1e3).text(2),
            f"{1e3 * row['step_before_s'].median:.2f}",
            f"{1e3 * row['step_after_s'].median:.2f}",
            row["speedup"].text(3),
            f"{row['kl_to_first']:.4f}",
            f"{row['top1_as_first']:.0%}",
            f"{row['kl_to_second_alone']:.4f}",
        ]
        for row in rows
    ]
    return Table("Handover to a decode plan in llama.cpp", [*columns, "KL to second alone"], lines)


if __name__ == "__main__":
    main(handover_cost)
