"""A phone that answers adb from a transcript, for the tests of adb."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from adb_transcript import Transcript

from edgeskip.bench.devices.adb.launcher import FOLDER, AdbLauncher, AdbSettings
from edgeskip.bench.runner.request import RoundRequest
from edgeskip.bench.runner.request import SyntheticTest as RandomTest
from edgeskip.bench.schema import BenchCell, RoundResult
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import sha256_of

HERE = Path(__file__).parent


REAL = (HERE / "llama_bench.json").read_text(encoding="utf-8")


TESTS = [RandomTest(test=kind, tokens=n, depth=d) for d in (0, 64) for kind, n in (("pp", 32), ("tg", 8))]  # type: ignore[arg-type]


ARM64, X86_64 = 183, 62


KILL = "shell p=$(cat "


def elf(machine: int) -> bytes:
    """The start of a little-endian 64-bit ELF program."""
    return b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 3, machine) + bytes(4076)


@dataclass
class Clock:
    now: float = 0.0
    slept: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@dataclass
class Phone:
    """`transcript` is what the phone answers; `run` and `launch` play it from the start."""

    folder: Path
    program: Path
    model: Path
    transcript: Transcript
    clock: Clock
    told: list[str] = field(default_factory=list)

    @property
    def settings(self) -> AdbSettings:
        return AdbSettings(self.program, adb=str(self.folder / "adb"))

    @property
    def asked(self) -> list[str]:
        return (self.folder / "played.log").read_text(encoding="utf-8").splitlines()

    def launch(self, settings: AdbSettings | None = None) -> AdbLauncher:
        self.transcript.write(self.folder / "played.json")
        (self.folder / "played.log").unlink(missing_ok=True)
        settings = settings or self.settings
        return AdbLauncher(settings, self.told.append, clock=lambda: self.clock.now, sleep=self.clock.sleep)

    def run(self, settings: AdbSettings | None = None, request: RoundRequest | None = None) -> RoundResult:
        launcher = self.launch(settings)
        path = launcher.prepare(self.model, self.told.append)
        return launcher.run((request or asking()).model_copy(update={"path": path}), self.told.append)


def asking(**changes: object) -> RoundRequest:
    cell = BenchCell(target="tiny", device="x", provider="cpu", threads=2, strategy="plain")
    return RoundRequest(path="", cell=cell, round=3, tests=TESTS, prompts=[], max_tokens=8).model_copy(update=changes)


def write_gguf(path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    import numpy as np

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def call(phone: Phone, tests: str, *, ngl: int = 0, threads: int = 2) -> str:
    """The command that runs llama-bench."""
    program = f"{FOLDER}/{sha256_of(phone.program)[:16]}"
    model = f"{FOLDER}/{sha256_of(phone.model)[:16]}/tiny.gguf"
    bench = f"{program}/llama-bench -m {model} -r 1 -t {threads} -ngl {ngl} -o json {tests}"
    return f"shell sh -c 'echo $$ > {FOLDER}/running; export LD_LIBRARY_PATH={program}; exec {bench}'"


def complains(phone: Phone, message: str, work: Callable[[], object] | None = None) -> None:
    with pytest.raises(EdgeSkipError, match=message) as caught:
        (work or phone.run)()
    assert "\n" not in str(caught.value)
