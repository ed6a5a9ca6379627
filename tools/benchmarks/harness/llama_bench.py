"""llama.cpp's own `llama-bench` as a contestant: one call for the prompt, one for decoding behind it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeskip.core.child_exit import how_it_ended
from edgeskip.core.errors import EdgeSkipError
from harness.runtimes import Run

TIMEOUT_S = 1800


def llama_bench(program: Path, file: Path, *, prompt_tokens: int, new_tokens: int, threads: int) -> Run:
    """One repetition of each test, after llama-bench's own warm-up. It runs random tokens and reports no memory.

    Decoding is measured at depth `prompt_tokens`, as our own runs decode behind their prompt; llama-bench's default
    is an empty context.
    """
    common = [str(program), "-m", str(file), "-r", "1", "-t", str(threads), "-o", "json"]
    prefill = json.loads(output_of([*common, "-p", str(prompt_tokens), "-n", "0"]))
    decode = json.loads(output_of([*common, "-p", "0", "-n", str(new_tokens), "-d", str(prompt_tokens)]))
    return run_of(prefill, decode)


def run_of(prefill: Sequence[dict[str, Any]], decode: Sequence[dict[str, Any]]) -> Run:
    """Return a Run from llama-bench's JSON rows: one of a prompt, one of generation whose mean stands for every
    token."""
    (prompt_row,), (decode_row,) = prefill, decode
    if prompt_row["n_gen"] or decode_row["n_prompt"]:
        raise EdgeSkipError("llama-bench answered with other tests than those asked for")
    tokens = decode_row["n_gen"]
    return Run(
        tokens=(),
        prefill_s=prompt_row["avg_ns"] / 1e9,
        token_s=(decode_row["avg_ns"] / 1e9 / tokens,) * tokens,
        peak_rss_bytes=0,
        notes={"build": prompt_row["build_commit"], "kv": prompt_row["type_k"]},
    )


def output_of(command: Sequence[str]) -> str:
    """Return what a program that measures prints to stdout; EdgeSkipError with its last line if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EdgeSkipError(f"{command[0]} cannot be run: {error}") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it printed no error"])[-1]
        raise EdgeSkipError(f"{' '.join(command[:4])} {how_it_ended(done.returncode)}: {last}")
    return done.stdout
