"""What it costs in llama.cpp to go on with a file that skips more FFNs, and what it gains (edgeskip export --online).

    edgeskip export --profile PROFILE --target gguf --online -o m.gguf
    python tools/benchmarks/handover_cost.py m.gguf --json handover.json

The decode plan is a file of its own with a KV cache of its own: time to open it and memory for it, time to copy the
cache, and decode steps before and after, in turns. How far the answer moves is told in two ways, over the same tokens:
against the first file (what skipping changes), and against the second file run from the start (what the first file's
cache rows change). Wants a quiet machine.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from harness.figures import Spread
from harness.machine import describe
from numpy.typing import NDArray
from peer_runtimes import LICENSE

from edgeskip.artifacts.gguf.manifest import GgufManifest
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import replace_file
from edgeskip.runtime.decoding.handover import HandoverEngine
from edgeskip.runtime.engines.interface import Engine
from edgeskip.runtime.engines.prefill import prefill
from edgeskip.runtime.session import load


def handover_cost(
    file: Annotated[Path, typer.Argument(help="A GGUF that names a file to take over while decoding.")],
    text: Annotated[Path, typer.Option(help="Text whose first tokens are run.")] = LICENSE,
    contexts: Annotated[str, typer.Option(help="Tokens in the KV cache when it is handed over.")] = "512,2048",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, after one that warms up.")] = 5,
    tokens: Annotated[int, typer.Option(min=2, help="Decode steps a turn.")] = 32,
    threads: Annotated[int, typer.Option(min=1, help="Threads.")] = 2,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write everything there.")] = None,
) -> None:
    """Measure the handover; a table to stdout."""
    lengths = [int(number) for number in contexts.split(",")]
    with load(file, threads=threads) as session:
        engine, manifest = session.engine, session.manifest
        if not isinstance(engine, HandoverEngine) or not isinstance(manifest, GgufManifest) or not manifest.decode:
            raise EdgeSkipError(f"{file} has no file beside it that takes over: export it with  --online")
        content = text.read_text(encoding="utf-8")
        ids = session.encode(content * 8, chat=False)[: max(lengths) + tokens]
        engine.reserve(len(ids))
        prefill(engine, ids[: lengths[0]])
        before, begin = resident(), time.perf_counter()
        engine.prepare()
        opening_s = time.perf_counter() - begin
        rows = [measured(engine, ids[: length + tokens], length, rounds) for length in lengths]
        after = resident()
        decode = file.with_name(manifest.decode)
        with load(decode, threads=threads) as second:
            for row, length in zip(rows, lengths, strict=True):
                row |= divergences(engine, second.engine, ids[: length + tokens], length)
    found = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "file": file.name,
        "skipped": len(manifest.plan.skip),
        "skipped_besides": list(manifest.decode_skipped),
        "threads": threads,
        "opening_s": opening_s,
        "memory_before_bytes": before,
        "memory_after_bytes": after,
        "file_bytes": [file.stat().st_size, decode.stat().st_size],
        "rows": rows,
        "machine": describe(),
    }
    if json_file:
        replace_file(json_file, (json.dumps(found, indent=1) + "\n").encode())
    print(as_markdown(found))


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
    ratios = [a / b for a, b in zip(one, two, strict=True)]
    return {
        "context": length,
        "handover_s": spread(handover),
        "step_before_s": spread(one),
        "step_after_s": spread(two),
        "speedup": spread(ratios),
    }


def steps_s(engine: Engine, ids: NDArray[np.int64], length: int) -> float:
    """The lower quartile of the seconds of single steps over the tokens after the first `length`."""
    times = []
    for position in range(length, len(ids)):
        begin = time.perf_counter()
        engine.step(ids[position : position + 1])
        times.append(time.perf_counter() - begin)
    return float(np.quantile(times[1:], 0.25))


def divergences(engine: HandoverEngine, second: Engine, ids: NDArray[np.int64], length: int) -> dict[str, float]:
    """Mean KL and share of equal argmax over the tokens after `length`: handed over against the first file and
    against the second from the start."""
    engine.truncate(0)
    prefill(engine, ids[:length])
    first = rows_of(engine, ids, length)
    engine.truncate(length)
    engine.hand_over()
    over = rows_of(engine, ids, length)
    second.truncate(0)
    prefill(second, ids[:length])
    alone = rows_of(second, ids, length)
    return {
        "kl_to_first": divergence(first, over),
        "top1_as_first": float((first.argmax(1) == over.argmax(1)).mean()),
        "kl_to_second_alone": divergence(alone, over),
        "top1_as_second_alone": float((alone.argmax(1) == over.argmax(1)).mean()),
    }


def rows_of(engine: Engine, ids: NDArray[np.int64], length: int) -> NDArray[np.float64]:
    """Log-probabilities [n, vocab_size] after each token behind the first `length`."""
    logits = np.concatenate([engine.step(ids[i : i + 1]).copy() for i in range(length, len(ids))]).astype(np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def divergence(expected: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    """Mean KL(expected ‖ found), nats."""
    return float((np.exp(expected) * (expected - found)).sum(axis=1).mean())


def spread(values: list[float]) -> list[float]:
    """Median, least and greatest."""
    found = Spread.of(values)
    return [found.median, found.low, found.high]


def resident() -> int:
    """Bytes of this process in memory, mapped files included; 0 where the system does not say."""
    try:
        fields = Path("/proc/self/statm").read_text(encoding="ascii").split()
    except OSError:
        return 0
    import resource

    return int(fields[1]) * resource.getpagesize()


def as_markdown(found: dict[str, Any]) -> str:
    more = found["memory_after_bytes"] - found["memory_before_bytes"]
    lines = [
        f"{found['file']}, {len(found['skipped_besides'])} FFNs besides {found['skipped']} sublayers; second file "
        f"opened in {1e3 * found['opening_s']:.0f} ms, {more / 1e6:.0f} MB more memory; {found['threads']} threads",
        "",
        "| tokens held | handover ms | step before, ms | after | speedup | KL to first | top-1 | KL to second alone |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        handover, before, after, ratio = (row[k] for k in ("handover_s", "step_before_s", "step_after_s", "speedup"))
        lines.append(
            f"| {row['context']} | {1e3 * handover[0]:.2f} [{1e3 * handover[1]:.2f} – {1e3 * handover[2]:.2f}] "
            f"| {1e3 * before[0]:.2f} | {1e3 * after[0]:.2f} | {ratio[0]:.3f} [{ratio[1]:.3f} – {ratio[2]:.3f}] "
            f"| {row['kl_to_first']:.4f} | {row['top1_as_first']:.0%} | {row['kl_to_second_alone']:.4f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command()(handover_cost)
        app()
    except EdgeSkipError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
