"""No input but gives its result or one clear error. Oracle: that contract; `fuzz_harness.py` tells what broke it.

A finding names reader, seed and input:  python fuzz_harness.py fuzz_readers READER --seed S --first INPUT --inputs 1
EDGESKIP_FUZZ_SEED chooses another seed for the slow test, EDGESKIP_FUZZ_SHARE a part of its inputs (0.1 = a tenth).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
# Readers that need no torch, for every run of the tests.
QUICK = {"bench-compare": 25, "eval-log": 40, "sweep": 30, "texts": 40, "eval-data": 15, "trimmed-head": 40}
MANY = {
    "bench-compare": 1200, "bench-report": 250, "bench-png": 40, "bench-targets": 700, "bench-drafts": 600,
    "run": 500, "run-exits": 700, "run-skip-plan": 300, "inspect": 500, "inspect-profile": 500, "plan": 400,
    "plan-budget": 700, "search-log": 800, "eval-log": 1200, "eval-data": 500, "sweep": 1000, "training": 600,
    "exit-cache": 400, "self-data": 400,
    "texts": 800, "model": 300, "model-shards": 300, "peft": 500, "trimmed-head": 500,
}  # fmt: skip
NEEDS = {"trimmed-head": "llama_cpp"}


def run(reader: str, inputs: int, seed: int = 0) -> dict[str, Any]:
    """The summary of `inputs` inputs, in a process that has no threads of ours: the harness forks."""
    module = NEEDS.get(reader)
    if module is not None and find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    command = [sys.executable, "fuzz_harness.py", "fuzz_readers", reader, "--inputs", str(inputs), "--seed", str(seed)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    answer = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr[-2000:]
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def test_the_slow_test_reads_what_there_is() -> None:
    """Every reader, 10,000 inputs together."""
    code = "import fuzz_readers; print(*[reader.name for reader in fuzz_readers.READERS])"
    names = subprocess.run([sys.executable, "-c", code], cwd=HERE, capture_output=True, text=True, check=True).stdout
    assert set(names.split()) == set(MANY)
    assert sum(MANY.values()) >= 10_000


@pytest.mark.parametrize("reader", QUICK)
def test_a_few_inputs(reader: str) -> None:
    summary = run(reader, QUICK[reader])
    assert not summary["findings"], "\n".join(summary["findings"])
    assert summary["inputs"] == QUICK[reader]
    assert summary["counts"].get("error"), "no damage was noticed: is it read at all?"


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("reader", MANY)
def test_many_inputs(reader: str) -> None:
    share = float(os.environ.get("EDGESKIP_FUZZ_SHARE", "1"))
    inputs = max(1, round(share * MANY[reader]))
    summary = run(reader, inputs, int(os.environ.get("EDGESKIP_FUZZ_SEED", "0")))
    print(json.dumps({name: summary[name] for name in ("reader", "seed", "inputs", "counts")}))
    assert not summary["findings"], "\n".join(summary["findings"])
