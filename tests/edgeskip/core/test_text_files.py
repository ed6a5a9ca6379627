"""Texts from files and streams. Oracle: the bytes that were written."""

from __future__ import annotations

import io
import sys
import tracemalloc
from pathlib import Path

import pytest

from edgeskip.calibration.corpus import read_corpus
from edgeskip.core import text_files
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.text_files import read_bounded, read_text_file
from edgeskip.training.examples import read_prompts


def test_all_of_a_text_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "MAX_BYTES", 10)
    path = tmp_path / "x.txt"
    path.write_bytes(b"0123\r\n6789")
    assert read_text_file(path) == "0123\n6789"
    assert read_bounded(io.BytesIO(b"0123456789"), "stdin") == b"0123456789"


def test_a_short_text_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(b"a" * (3 << 20))  # whole pieces
    tracemalloc.start()
    assert read_bounded(path) == b"a" * (3 << 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 << 20


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no /dev/zero")
def test_a_text_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    endless = Path("/dev/zero")
    monkeypatch.setattr(text_files, "MAX_BYTES", 5 << 20)
    for read in (read_text_file, lambda path: read_corpus([path]), lambda path: read_prompts([str(path)])):
        with pytest.raises(EdgeSkipError, match=r"^/dev/zero has more than 5 MB of text: give a part of it$"):
            read(endless)


def test_standard_input_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeskip.cli.commands.run import _read_prompt

    monkeypatch.setattr(text_files, "MAX_BYTES", 1 << 20)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a" * ((1 << 20) + 1))))
    with pytest.raises(EdgeSkipError, match=r"^stdin has more than 1 MB of text"):
        _read_prompt("-", None)
