"""GGUF files damaged in thousands of ways: each is read or refused in one line; no signal, traceback, hang or blow-up.

Oracle: the system, which counts signals, time and memory of the child that each input is given to.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from fuzz_harness import Reader, fuzz
from gguf_readers import READERS, mutate
from raw_gguf import RawGguf
from talking_gguf import talking_gguf

pytestmark = pytest.mark.trial
BY_NAME = {reader.name: reader for reader in READERS}
FAST = {"gguf-inspect": 40, "gguf-export": 30, "gguf-run": 30}
SLOW = {"gguf-inspect": 1500, "gguf-export": 1500, "gguf-run": 1500}


def _check(reader: Reader, inputs: int, seed: int) -> None:
    summary = fuzz(reader, seed=seed, inputs=inputs)
    assert summary.findings == []
    assert summary.counts["error"] > inputs // 2  # the damage is met
    assert summary.counts["ok"] > 0


@pytest.mark.parametrize("name", FAST)
def test_a_few_damaged_files(name: str) -> None:
    _check(BY_NAME[name], FAST[name], seed=0)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", SLOW)
def test_many_damaged_files(name: str) -> None:
    _check(BY_NAME[name], SLOW[name], seed=1)


def test_most_damage_keeps_a_file_that_can_be_taken_apart(tmp_path: Path) -> None:
    """Were it not so, the readers' first check would hide all others."""
    data = talking_gguf(tmp_path / "x.gguf")[0].read_bytes()
    whole = 0
    for number in range(200):
        changed = mutate(Random(number), "x.gguf", data, [data])
        try:
            whole += bool(RawGguf.parse(changed).keys)
        except Exception:
            continue
    assert whole > 80
