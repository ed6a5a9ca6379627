"""llama-bench: which processor a build is for, its command line for the tests of a request, its JSON as times."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgeskip.bench.runner.request import SyntheticTest
from edgeskip.bench.schema import SyntheticResult
from edgeskip.core.bounds import first_problem
from edgeskip.core.errors import EdgeSkipError

_ALL_LAYERS = 99


class _Row(BaseModel):
    """One test of llama-bench; other fields are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    build_commit: str
    backends: str = ""
    n_threads: int
    n_prompt: int
    n_gen: int
    n_depth: int = 0  # builds without depths lack it
    samples_ns: list[Annotated[int, Field(gt=0)]] = Field(min_length=1)


@dataclass(frozen=True)
class LlamaBenchResult:
    """`backends`: those built in besides the CPU's, or "CPU"."""

    commit: str
    backends: str
    threads: int
    tests: tuple[SyntheticResult, ...]


def llama_bench_arguments(tests: Sequence[SyntheticTest], *, model: str, threads: int, gpu: bool) -> list[list[str]]:
    """Return command lines, without the program, that together run exactly these tests, each once."""
    # llama-bench runs every combination: depths that want the same lengths go into one call.
    by_depth: dict[int, tuple[list[int], list[int]]] = {}
    for test in dict.fromkeys((t.test, t.tokens, t.depth) for t in tests):
        lengths = by_depth.setdefault(test[2], ([], []))
        lengths[0 if test[0] == "pp" else 1].append(test[1])
    calls: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
    for depth, (prompts, news) in by_depth.items():
        calls.setdefault((tuple(prompts), tuple(news)), []).append(depth)
    common = ["-m", model, "-r", "1", "-t", str(threads), "-ngl", str(_ALL_LAYERS if gpu else 0), "-o", "json"]
    return [
        [*common, "-p", _list(prompts), "-n", _list(news), *(["-d", _list(depths)] if any(depths) else [])]
        for (prompts, news), depths in calls.items()
    ]


def parse_llama_bench(text: str, tests: Sequence[SyntheticTest], *, threads: int) -> LlamaBenchResult:
    """Parse what the calls printed. Raises EdgeSkipError if it is not JSON, or not of these tests."""
    rows = _rows(text)
    found: dict[tuple[str, int, int], SyntheticResult] = {}
    for row in rows:
        if bool(row.n_prompt) == bool(row.n_gen):
            continue  # a prompt and what follows in one, which is not requested
        kind, tokens = ("pp", row.n_prompt) if row.n_prompt else ("tg", row.n_gen)
        seconds = sum(row.samples_ns) / len(row.samples_ns) / 1e9
        found[kind, tokens, row.n_depth] = SyntheticResult.model_validate(
            {"test": kind, "tokens": tokens, "depth": row.n_depth, "seconds": seconds}
        )
    wanted = list(dict.fromkeys((test.test, test.tokens, test.depth) for test in tests))
    if missing := [
        SyntheticTest(test=kind, tokens=n, depth=depth).name
        for kind, n, depth in wanted
        if (kind, n, depth) not in found
    ]:
        old = " (depths need a llama-bench of 2025)" if any("@" in name for name in missing) else ""
        raise EdgeSkipError(f"llama-bench did not measure {', '.join(missing)}{old}: is it another version?")
    if any(row.n_threads != threads for row in rows):
        raise EdgeSkipError(f"llama-bench ran with {rows[0].n_threads} threads instead of {threads}")
    last = rows[-1]
    return LlamaBenchResult(
        last.build_commit, last.backends or "CPU", last.n_threads, tuple(found[test] for test in wanted)
    )


def _rows(text: str) -> list[_Row]:
    """Return the rows of all arrays in `text`, skipping other lines between them."""
    decoder, rows, at = json.JSONDecoder(), [], 0
    while (start := text.find("[\n", at)) >= 0:
        try:
            values, at = decoder.raw_decode(text, start)
        except ValueError:
            at = start + 1
            continue
        try:
            rows += [_Row.model_validate(value) for value in values]
        except ValidationError as error:
            raise EdgeSkipError(f"cannot read llama-bench's answer ({first_problem(error)})") from None
    if not rows:
        raise EdgeSkipError(f"llama-bench printed no figures: {' '.join(text.split())[-200:] or 'nothing at all'}")
    return rows


def _list(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers)) or "0"


# e_machine of the ELF header -> its name; and of which machine code an Android ABI is.
_NAMES = {3: "x86", 40: "32-bit Arm", 62: "x86-64", 183: "64-bit Arm", 243: "RISC-V"}
_OF_ABI = {"arm64-v8a": 183, "armeabi-v7a": 40, "armeabi": 40, "x86_64": 62, "x86": 3, "riscv64": 243}


def check_abi(path: Path, abis: tuple[str, ...]) -> None:
    """Raise EdgeSkipError if the program or library at `path` is for none of a phone's ABIs."""
    machine = _machine(path)
    if machine not in {_OF_ABI.get(abi) for abi in abis}:
        raise EdgeSkipError(
            f"{path} is a program for {_NAMES.get(machine, f'processor {machine}')}, the phone runs {', '.join(abis)}: "
            "give a llama-bench built for Android with its NDK"
        )


def _machine(path: Path) -> int:
    try:
        with path.open("rb") as file:
            header = file.read(20)
    except OSError as error:
        raise EdgeSkipError(f"cannot read {path} ({error.strerror}): give the path of a llama-bench") from None
    if len(header) < 20 or header[:4] != b"\x7fELF":
        raise EdgeSkipError(
            f"{path} is not a program for Android (not an ELF file); give a llama-bench built with its NDK"
        )
    return int(struct.unpack("<H" if header[5] == 1 else ">H", header[18:20])[0])
