"""Runs a reader on damaged copies of real files, each in a child with limits, and sorts what became of it.

`Reader`s say what the files are and who reads them. The process that forks has imported what readers need and started
nothing: no thread, no session. What is not `ok` or a clear `error` is a finding. Everything follows from the seed.

    python fuzz_harness.py READERS_MODULE READER… [--first 0] [--inputs 1000] [--seed 0]  a JSON object each
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import mutations

CPU_S = 10  # for one input; none takes 2 s unharmed
WALL_S = 120.0  # the same for what sleeps: machines may be busy
MEMORY_BYTES = 1 << 30  # more than the process had when it was forked
FILE_BYTES = 256 << 20
LONGEST_LINE = 2000  # characters of an error that are still one clear line


@dataclass(frozen=True)
class Reader:
    """`prepare` fills a new folder with good files, in a process of its own; `read` reads a copy of it with damage in
    one of `files` (patterns of `Path.glob`), raising what the command line would meet.

    `mutate` is as `mutations.mutate`. `after` runs between damage and reading, e.g. to sign the damaged file again.
    `modules` are imported before anything is forked.
    """

    name: str
    prepare: Callable[[Path], None]
    files: tuple[str, ...]
    read: Callable[[Path], object]
    modules: tuple[str, ...] = ()
    mutate: Callable[[Random, str, bytes, Sequence[bytes]], bytes] = mutations.mutate
    after: Callable[[Random, Path], None] | None = None
    cpu_s: int = CPU_S
    wall_s: float = WALL_S
    memory_bytes: int = MEMORY_BYTES


@dataclass(frozen=True)
class Outcome:
    """What one input did: `ok`, `error` (one clear line), or a finding: `traceback`, `unclear`, `signal`, `hang`,
    `memory`. `where` is the place in our code, else what ended it."""

    kind: str
    where: str = ""
    message: str = ""

    @property
    def is_finding(self) -> bool:
        return self.kind not in ("ok", "error")


@dataclass
class Summary:
    """Counts by kind, and for each cause its first input: `--first INPUT --inputs 1` shows it again."""

    reader: str
    seed: int
    inputs: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    causes: dict[str, list[Any]] = field(default_factory=dict)  # cause -> [count, first input, message]

    def add(self, number: int, outcome: Outcome) -> None:
        self.inputs += 1
        self.counts[outcome.kind] += 1
        if outcome.is_finding:
            cause = self.causes.setdefault(f"{outcome.kind} {outcome.where}", [0, number, outcome.message[:300]])
            cause[0] += 1

    @property
    def findings(self) -> list[str]:
        """A line for each cause."""
        return [
            f"{self.reader} seed {self.seed} input {number}: {cause} ({count} times): {message}"
            for cause, (count, number, message) in self.causes.items()
        ]


def fuzz(
    reader: Reader, *, seed: int = 0, first: int = 0, inputs: int = 100, shown: Callable[[str], None] | None = None
) -> Summary:
    """Runs inputs number `first` … `first + inputs − 1` of `seed`."""
    for module in reader.modules:
        importlib.import_module(module)
    summary = Summary(reader.name, seed)
    with tempfile.TemporaryDirectory(prefix=f"fuzz-{reader.name}-") as folder:
        good = Path(folder) / "good"
        good.mkdir()
        prepared = _in_child(lambda: reader.prepare(good), cpu_s=300, wall_s=600)
        unharmed = _one(reader, good, Path(folder) / "unharmed", None) if prepared.kind == "ok" else prepared
        if unharmed.kind != "ok":
            raise AssertionError(f"{reader.name} does not read its own unharmed files: {unharmed}")
        for number in range(first, first + inputs):
            copy = Path(folder) / "bad"
            outcome = _one(reader, good, copy, Random(f"{reader.name} {seed} {number}"))
            summary.add(number, outcome)
            if shown is not None and outcome.kind != "ok":
                shown(f"{number}: {outcome.kind} {outcome.where} {outcome.message}")
            shutil.rmtree(copy, ignore_errors=True)
    return summary


def _one(reader: Reader, good: Path, copy: Path, random: Random | None) -> Outcome:
    def run() -> None:
        # All files keep their names within the copy, so a message about one is about the same path each time.
        shutil.copytree(good, copy)
        if random is not None:
            damage(reader, copy, random)
        os.chdir(copy)
        reader.read(copy)

    return _in_child(run, cpu_s=reader.cpu_s, wall_s=reader.wall_s, memory_bytes=reader.memory_bytes)


def damage(reader: Reader, folder: Path, random: Random) -> None:
    """Mutates one file of `folder`, rarely two."""
    files = sorted({path for pattern in reader.files for path in folder.glob(pattern) if path.is_file()})
    patterns = [[path for path in files if path.match(pattern)] for pattern in reader.files]
    for _ in range(random.choice((1, 1, 1, 2))):
        path = random.choice(random.choice([some for some in patterns if some]))  # each kind of file alike often
        small = [other.read_bytes() for other in files if other.stat().st_size < 1 << 20]
        path.write_bytes(reader.mutate(random, path.name, path.read_bytes(), small))
    if reader.after is not None:
        reader.after(random, folder)


def _in_child(run: Callable[[], None], *, cpu_s: int, wall_s: float, memory_bytes: int | None = None) -> Outcome:
    """What becomes of `run` in a forked child with these limits."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            os.write(writing, b"%d\n" % _resident())  # its own: a fork has not all that its parent has in memory
            _child(run, writing, cpu_s, memory_bytes)
        finally:
            os._exit(99)
    os.close(writing)
    told = b""
    end, killed = time.monotonic() + wall_s, False
    while True:
        ready, _, _ = select.select([reading], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            killed = True
            break
        block = os.read(reading, 1 << 16)
        if not block:
            break
        told += block
    os.close(reading)
    if killed:
        os.kill(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    first, _, told = told.partition(b"\n")
    grown = usage.ru_maxrss * 1024 - int(first or b"0")
    if killed or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
        limit = f"{wall_s:g} s" if killed else f"{cpu_s} s of computing"
        return Outcome("hang", f"over {limit}", told.decode(errors="replace"))
    if os.WIFSIGNALED(status):
        return Outcome("signal", signal.Signals(os.WTERMSIG(status)).name, told.decode(errors="replace"))
    try:
        outcome = Outcome(**json.loads(told))
    except ValueError:
        return Outcome("signal", f"exit code {os.waitstatus_to_exitcode(status)}", told.decode(errors="replace"))
    if memory_bytes is not None and grown > memory_bytes and not outcome.is_finding:
        return Outcome("memory", f"{outcome.kind} after more than {memory_bytes >> 20} MB", outcome.message)
    return outcome


def _child(run: Callable[[], None], writing: int, cpu_s: int, memory_bytes: int | None) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 5))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    if memory_bytes is not None:
        # Twice: what is mapped is more than what is used, and what is used is looked at afterwards.
        limit = _mapped() + 2 * memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
    faulthandler.disable()  # pytest's: a signal is an outcome like others
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2) if "FUZZ_SHOWN" not in os.environ else (0,):
        os.dup2(nowhere, number)
    try:
        run()
        outcome = Outcome("ok")
    except BaseException as error:
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        outcome = _judge(error)
    with suppress(BrokenPipeError):
        os.write(writing, json.dumps(asdict(outcome)).encode()[: 1 << 16])
    os._exit(0)


def _judge(error: BaseException) -> Outcome:
    """As the command line does: EdgeSkipError and what `explain` knows are one line, all else a traceback."""
    from edgeskip.core.user_errors import explain

    where = _where(error)
    name = type(error).__name__
    if isinstance(error, SystemExit):
        return Outcome("ok" if error.code in (0, None) else "error", where, f"exit code {error.code}")
    if type(error).__module__.startswith(("click", "typer")):
        return Outcome("error", where, str(error)[:300])
    if isinstance(error, MemoryError):
        return Outcome("memory", f"{name} {where}", str(error)[:300])
    line = explain(error)
    if line is None:
        return Outcome("traceback", f"{name} {where}", str(error)[:300])
    if line.startswith("not enough memory"):
        return Outcome("memory", f"{name} {where}", line[:300])
    if len(line) > LONGEST_LINE or not line.strip():
        return Outcome("unclear", f"{len(line)} characters {where}", line[:200])
    return Outcome("error", where, line[:300])


def _where(error: BaseException) -> str:
    """The last place in our own code that the error came through."""
    import edgeskip

    roots = (str(Path(edgeskip.__file__).parents[1]), str(Path(__file__).parents[2]))  # installed, or the checkout
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        root = next((root for root in roots if frame.filename.startswith(root)), None)
        if root is not None and "/.venv/" not in frame.filename and "/tests/" not in frame.filename:
            return f"{frame.filename.removeprefix(root + '/')}:{frame.lineno}"
    return ""


def _mapped() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("module", help="a module with READERS, e.g. readers")
    parser.add_argument("readers", nargs="+")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--show", action="store_true", help="every outcome on stderr")
    arguments = parser.parse_args()
    readers = {reader.name: reader for reader in importlib.import_module(arguments.module).READERS}
    shown = (lambda line: print(line, file=sys.stderr)) if arguments.show else None
    for name in arguments.readers:
        summary = fuzz(
            readers[name], seed=arguments.seed, first=arguments.first, inputs=arguments.inputs, shown=shown
        )  # fmt: skip
        print(json.dumps(vars(summary) | {"findings": summary.findings}), flush=True)


if __name__ == "__main__":
    main()
