"""The phone of `phone.transcript`, which was written by hand: none was at hand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from adb_transcript import Entry, Transcript, read_transcript
from played_phone import ARM64, HERE, REAL, Clock, Phone, call, elf, write_gguf

from edgeskip.bench.devices.adb.launcher import FOLDER
from edgeskip.core.files import sha256_of


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Phone:
    program, model = tmp_path / "llama-bench", tmp_path / "tiny.gguf"
    program.write_bytes(elf(ARM64))
    write_gguf(model)
    adb = tmp_path / "adb"
    adb.write_text(f"#!/bin/sh\nexec '{sys.executable}' '{HERE / 'fake_adb.py'}' \"$@\"\n")
    adb.chmod(0o755)
    monkeypatch.setenv("FAKE_ADB", str(tmp_path / "played.json"))
    text = (HERE / "phone.transcript").read_text(encoding="utf-8")
    for name, path in (("PROGRAM", program), ("MODEL", model)):
        text = text.replace(f"{{{name}}}", str(path)).replace(f"{{{name}_SHA}}", sha256_of(path))
        text = text.replace(f"{{{name}_DIR}}", f"{FOLDER}/{sha256_of(path)[:16]}")
    made = Phone(tmp_path, program, model, read_transcript(text), Clock())
    made.transcript = Transcript((*made.transcript.entries, Entry(call(made, "-p 32 -n 8 -d 0,64"), out=REAL)))
    return made
