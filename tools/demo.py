"""What `make demo` runs: the default model from fetch to a table that compares dense with skipped, in a few minutes.

Every step before the table is an `edgeskip` command, printed as it is run; the last of them is an artifact that drafts
for itself, answering plainly and speculatively. The table is measured with the Python API: speed in turns, so that a
busy moment of the machine hits all artifacts alike, and quality on `edgeskip/core/quality.txt`, a text written for
this purpose that nothing was calibrated on.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

import edgeskip
from edgeskip.core.child_exit import how_it_ended
from edgeskip.core.held_out import HELD_OUT_TEXT
from edgeskip.core.metrics import compare_logits
from edgeskip.evaluation.perplexity import negative_log_likelihood

MODEL = "smollm2-135m-instruct"
SKIPPED = 4  # sublayers: twice as many and int4, and this model repeats itself
INT4 = ("--block-size", 32, "--head-bits", 8)  # what costs less than the defaults
EXIT_LAYER, DRAFT_TOKENS = 4, 8192  # of the artifact that drafts for itself
PROMPT = "Why is the sky blue?"
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
    """Run the steps and print the table; everything is left in --output."""
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
            run("export", profile, "-o", artifacts[-1], *options, "--overwrite")
    if find_spec("llama_cpp") is None:
        say("GGUF files are left out: they need llama-cpp-python, which  make llamacpp  installs")
    else:
        for profile in (dense, skipped):
            artifacts.append(folder / f"{profile.stem}.gguf")
            run("export", profile, "-o", artifacts[-1], "--target", "gguf", "--overwrite")
    drafting = folder / f"exit{EXIT_LAYER}-int4"
    drafts = ("--draft", "early-exit", "--exit-layer", EXIT_LAYER, "--draft-vocab", DRAFT_TOKENS)
    run("export", dense, "-o", drafting, "--precision", "int4", *drafts, "--overwrite")
    run("run", drafting, "-p", PROMPT, "--max-tokens", 60, "--compare")

    say(f"measuring: {ROUNDS} rounds in turns, prompt {PROMPT_TOKENS} tokens, {NEW_TOKENS} new ones")
    rows = compare(artifacts, threads=arguments.threads)
    show(rows)
    for artifact in artifacts[:2]:
        run("run", artifact, "-p", PROMPT, "--max-tokens", 60)
    (folder / "comparison.json").write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    say(f"{time.perf_counter() - begin:.0f} s in all; profiles, artifacts, figure and numbers are in {folder}/")


def run(command: str, *arguments: object) -> None:
    """Run one `edgeskip` command after printing it; the demo ends if it fails."""
    words = [command, *map(str, arguments)]
    say(f"$ edgeskip {shlex.join(words)}")
    code = subprocess.run([sys.executable, "-m", "edgeskip", *words], check=False).returncode
    if code != 0:
        sys.exit(code if code > 0 else f"edgeskip {command} {how_it_ended(code)}")


def say(line: str) -> None:
    print(f"\n== {line}", flush=True)


def compare(artifacts: list[Path], *, threads: int | None) -> list[Row]:
    """Measure the artifacts in one process; the first is the reference of the quality columns."""
    sessions = {artifact: edgeskip.load(artifact, threads=threads) for artifact in artifacts}
    first = sessions[artifacts[0]]
    tokens = first.encode(HELD_OUT_TEXT.read_text(encoding="utf-8"), chat=False)[:QUALITY_TOKENS]
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

    reference = first.logits(tokens)
    rows: list[Row] = []
    for artifact, session in sessions.items():
        here = session.logits(tokens)
        compared = compare_logits(reference[:-1], here[:-1])
        rows.append(
            Row(
                artifact=artifact.name,
                label=session.label,
                size_bytes=sum(file.stat().st_size for file in [artifact, *artifact.glob("*")] if file.is_file()),
                prefill_tokens_per_s=median(prefill[artifact]),
                decode_tokens_per_s=median(decode[artifact]),
                perplexity=float(np.exp(negative_log_likelihood(here, tokens) / (len(tokens) - 1))),
                kl_divergence=compared.kl_divergence,
                top1_agreement=compared.top1_agreement,
            )
        )
    return rows


def show(rows: list[Row]) -> None:
    """The table; ratios are to the first row."""
    first = rows[0]
    table = Table(
        box=box.SIMPLE_HEAD,
        caption=f"tokens/s with a {PROMPT_TOKENS}-token prompt, median of {ROUNDS} rounds in turns (× = against "
        f"{first.artifact}); perplexity, KL and top-1 agreement with {first.artifact} over {QUALITY_TOKENS} tokens of "
        f"{HELD_OUT_TEXT.name}",
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
