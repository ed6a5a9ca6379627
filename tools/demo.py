"""What `make demo` runs: the default model from fetch to a table that compares dense with skipped, in a few minutes.

Every step before the table is the `edgeskip` command, printed as it is run; the last of them is an artifact that drafts
for itself, answering plainly and speculatively. The table is measured with the Python API: speed in turns, so that a
busy moment of the machine hits all artifacts alike, and quality on `edgeskip/bench/quality.txt`, a text written for
this purpose that nothing was calibrated on.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

import edgeskip
from edgeskip.core.child_exit import how_it_ended

MODEL = "smollm2-135m-instruct"
SKIPPED = 4  # sublayers: twice as many and int4, and this model repeats itself
INT4 = ("--block-size", 32, "--head-bits", 8)  # what costs less than the defaults
EXIT_LAYER, DRAFT_TOKENS = 4, 8192  # of the artifact that drafts for itself
PROMPT = "Why is the sky blue?"
TEXT = Path(__file__).parents[1] / "edgeskip" / "core" / "quality.txt"
PROMPT_TOKENS, NEW_TOKENS, QUALITY_TOKENS, ROUNDS = 512, 64, 1024, 3


@dataclass(frozen=True)
class Row:
    """One artifact's line in the table. Quality is against the dense fp32 artifact, over the same tokens."""

    artifact: str
    label: str
    size_bytes: int
    prefill_tokens_per_s: float  # median of the rounds
    decode_tokens_per_s: float  # median of the rounds
    perplexity: float
    kl_divergence: float  # mean KL(dense fp32 ‖ this) per token, nats
    top1_agreement: float  # share of positions whose likeliest token is dense fp32's


def main() -> None:
    """Runs the steps and prints the table; leaves everything in --output."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("-o", "--output", type=Path, default=Path("demo"), help="folder to fill (default: demo)")
    parser.add_argument("--threads", type=int, default=None, help="threads to compute with (default: physical cores)")
    arguments = parser.parse_args()
    folder: Path = arguments.output
    begin = time.perf_counter()

    dense, skipped = folder / "dense.json", folder / f"skip{SKIPPED}.json"
    run("fetch", MODEL)
    run("calibrate", MODEL, "-o", dense, "--exits", EXIT_LAYER, "--overwrite")
    run("plan", dense, "--skip-sublayers", SKIPPED, "--compensation", "affine", "-o", skipped, "--overwrite")
    run("inspect", skipped, "--plot", folder / "similarity.png")
    artifacts: list[Path] = []
    for precision in ("fp32", "int4"):
        for profile in (dense, skipped):
            artifacts.append(folder / f"{profile.stem}-{precision}")
            options = ("--precision", precision, *(INT4 if precision == "int4" else ()))
            run("export", "--profile", profile, "-o", artifacts[-1], *options, "--overwrite")
    if find_spec("llama_cpp") is None:
        say("GGUF files are left out: they need llama-cpp-python, which  make llamacpp  installs")
    else:
        for profile in (dense, skipped):
            artifacts.append(folder / f"{profile.stem}.gguf")
            run("export", "--profile", profile, "-o", artifacts[-1], "--target", "gguf", "--overwrite")
    drafting = folder / f"exit{EXIT_LAYER}-int4"
    drafts = ("--draft", "early-exit", "--exit-layer", EXIT_LAYER, "--draft-vocab", DRAFT_TOKENS)
    run("export", "--profile", dense, "-o", drafting, "--precision", "int4", *drafts, "--overwrite")
    run("run", drafting, "-p", PROMPT, "--max-tokens", 60, "--compare")

    say(f"measuring: {ROUNDS} rounds in turns, prompt {PROMPT_TOKENS} tokens, {NEW_TOKENS} new ones")
    rows = compare(artifacts, threads=arguments.threads)
    show(rows)
    for artifact in artifacts[:2]:
        run("run", artifact, "-p", PROMPT, "--max-tokens", 60)
    (folder / "comparison.json").write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    say(f"{time.perf_counter() - begin:.0f} s in all; profiles, artifacts, figure and numbers are in {folder}/")


def run(verb: str, *arguments: object) -> None:
    """Runs one `edgeskip` command, after saying so; the demo ends where it fails."""
    words = [verb, *map(str, arguments)]
    say(f"$ edgeskip {shlex.join(words)}")
    code = subprocess.run([sys.executable, "-m", "edgeskip", *words], check=False).returncode
    if code != 0:
        sys.exit(code if code > 0 else f"edgeskip {verb} {how_it_ended(code)}")


def say(line: str) -> None:
    print(f"\n== {line}", flush=True)


def compare(artifacts: list[Path], *, threads: int | None) -> list[Row]:
    """Measures the artifacts in one process; the first is the reference of the quality columns."""
    sessions = {artifact: edgeskip.load(artifact, threads=threads) for artifact in artifacts}
    first = sessions[artifacts[0]]
    tokens = first.encode(TEXT.read_text(encoding="utf-8"), chat=False)[:QUALITY_TOKENS]
    prefill: dict[Path, list[float]] = {artifact: [] for artifact in artifacts}
    decode: dict[Path, list[float]] = {artifact: [] for artifact in artifacts}
    for session in sessions.values():
        session.end_tokens = frozenset()  # every artifact generates the same number of tokens
        session.generate(tokens[:PROMPT_TOKENS], max_tokens=4)  # first touch of weights and buffers
    for _ in range(ROUNDS):
        for artifact, session in sessions.items():
            stats = session.generate(tokens[:PROMPT_TOKENS], max_tokens=NEW_TOKENS).stats
            prefill[artifact].append(stats.prefill_tokens_per_s)
            decode[artifact].append(stats.decode_tokens_per_s)

    reference = log_probabilities(first, tokens)
    rows: list[Row] = []
    for artifact, session in sessions.items():
        here = log_probabilities(session, tokens)
        rows.append(
            Row(
                artifact=artifact.name,
                label=session.label,
                size_bytes=sum(file.stat().st_size for file in [artifact, *artifact.glob("*")] if file.is_file()),
                prefill_tokens_per_s=statistics.median(prefill[artifact]),
                decode_tokens_per_s=statistics.median(decode[artifact]),
                perplexity=float(np.exp(-here[np.arange(len(tokens) - 1), tokens[1:]].mean())),
                kl_divergence=float((np.exp(reference) * (reference - here)).sum(axis=1).mean()),
                top1_agreement=float((reference.argmax(axis=1) == here.argmax(axis=1)).mean()),
            )
        )
    return rows


def log_probabilities(session: edgeskip.Session, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    """Log-probabilities of the next token after each of `tokens` [n] but the last: float32 [n-1, vocab_size]."""
    logits = session.logits(tokens)[:-1]
    logits -= logits.max(axis=1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return logits


def show(rows: list[Row]) -> None:
    """The table; ratios are to the first row."""
    first = rows[0]
    table = Table(
        box=box.SIMPLE_HEAD,
        caption=f"tokens/s with a {PROMPT_TOKENS}-token prompt, median of {ROUNDS} rounds in turns (× = against "
        f"{first.artifact}); perplexity, KL and top-1 agreement with {first.artifact} over {QUALITY_TOKENS} tokens of "
        f"{TEXT.name}",
    )
    table.add_column("artifact", no_wrap=True)
    table.add_column("label", no_wrap=True)
    for heading in ("MB", "prefill tok/s", "decode tok/s", "perplexity", "KL, nats", "top-1"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row.artifact,
            row.label,
            f"{row.size_bytes / 1e6:.0f}",
            f"{row.prefill_tokens_per_s:.0f} ({row.prefill_tokens_per_s / first.prefill_tokens_per_s:.2f}×)",
            f"{row.decode_tokens_per_s:.1f} ({row.decode_tokens_per_s / first.decode_tokens_per_s:.2f}×)",
            f"{row.perplexity:.2f}" + ("" if row is first else f" ({row.perplexity / first.perplexity - 1:+.1%})"),
            f"{row.kl_divergence:.4f}",
            f"{row.top1_agreement:.1%}",
        )
    terminal = Console(highlight=False)
    Console(highlight=False, width=max(terminal.width, 100)).print(table)


if __name__ == "__main__":
    main()
