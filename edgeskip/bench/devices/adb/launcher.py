"""The launcher for an Android phone over adb: pushes a GGUF file and the user's llama-bench, runs it, reads it."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from edgeskip.bench.devices.adb.adb import Adb, AdbTimeoutError, ShellResult
from edgeskip.bench.devices.adb.llama_bench import LlamaBenchResult, check_abi, llama_bench_arguments, parse_llama_bench
from edgeskip.bench.devices.adb.phone import (
    CoolingPolicy,
    CoolingResult,
    free_bytes,
    read_phone,
    read_power,
    read_temperature,
    wait_until_cool,
)
from edgeskip.bench.runner.launcher import StatusCallback
from edgeskip.bench.runner.request import RoundRequest
from edgeskip.bench.schema import Device, ExecutionInfo, Roofline, RoundResult, SystemConditions, timestamp
from edgeskip.core.errors import EdgeSkipError, MissingExtraError
from edgeskip.core.files import sha256_of

FOLDER = "/data/local/tmp/edgeskip"  # the shell's own user may write and run things there
SPARE_BYTES = 64_000_000  # left free
PUSH_RATE = 1e6  # bytes a second of the slowest cable
HASH_RATE = 2e7
_PID = f"{FOLDER}/running"
_KILLED = 128
# What a shell says of a program by its exit code, and what to do.
_ENDS = {
    126: "cannot be run there: give one built for Android with its NDK",
    127: "cannot be run there: give one built for Android with its NDK, its libraries beside it",
    _KILLED + 4: "met an instruction that the phone's processor lacks: build it for an older Arm",
    _KILLED + 6: "ended itself (SIGABRT)",
    _KILLED + 7: "was ended by SIGBUS: a file was cut short or memory misaligned",
    _KILLED + 9: "was ended by SIGKILL, as Android ends what takes much memory: close its apps or try a smaller model",
    _KILLED + 11: "crashed (segmentation fault)",
}


@dataclass(frozen=True)
class AdbSettings:
    """`llama_bench`: a program of the phone's architecture that the user has; libraries (*.so) beside it go along."""

    llama_bench: Path
    adb: str = "adb"
    serial: str | None = None
    cooling: CoolingPolicy = field(default_factory=CoolingPolicy)
    limit_s: float = 3600.0  # of one round


class AdbLauncher:
    """A phone. Its rows are llama-bench's tests alone, without prompts, load time or memory."""

    def __init__(
        self,
        settings: AdbSettings,
        progress: StatusCallback,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Find the phone and push llama-bench. Raises EdgeSkipError if either fails."""
        self._settings, self._clock, self._sleep = settings, clock, sleep
        self._adb = Adb(settings.adb, settings.serial)
        self._phone = read_phone(self._adb)
        program = settings.llama_bench
        libraries = sorted(path for path in program.parent.glob("*.so") if path.is_file())
        for file in (program, *libraries):
            check_abi(file, self._phone.abis)
        self._folder = f"{FOLDER}/{sha256_of(program)[:16]}"
        for file in (program, *libraries):
            self._push(file, self._folder, progress)
        self._program = f"{self._folder}/{program.name}"
        self._must(self._adb.shell(f"chmod 755 {shlex.quote(self._program)}"), "make llama-bench executable")
        self._stop()  # what a broken connection left running would disturb

    @property
    def device(self) -> Device:
        return self._phone.device

    def prepare(self, path: Path, progress: StatusCallback) -> str:
        _check_gguf(path)
        return self._push(path, f"{FOLDER}/{sha256_of(path)[:16]}", progress)

    def run(self, request: RoundRequest, progress: StatusCallback) -> RoundResult:
        cell = request.cell
        if cell.strategy != "plain":
            raise EdgeSkipError(f"llama-bench on a phone decodes plainly, it cannot measure {cell.strategy}")
        if not request.tests:
            raise EdgeSkipError("llama-bench on a phone measures -p and -n only: give one of them")
        notes = read_power(self._adb)
        if request.prompts:
            notes.append("no serving figures: llama-bench answers no prompts")
        cooled = wait_until_cool(self._adb, self._settings.cooling, progress, clock=self._clock, sleep=self._sleep)
        if cooled.note:
            notes.append(f"began at {cooled.note}" if cooled.warmth.celsius is not None else cooled.note)
        created = timestamp()
        printed = self._bench(request, progress)
        benched = parse_llama_bench(printed, request.tests, threads=cell.threads)
        after = read_temperature(self._adb)
        if after.status:
            notes.append(f"throttling at the end of the round (thermal status {after.status})")
        provider = _provider(benched, cell.provider, request.allow_fallback, notes)
        return RoundResult(
            cell=cell,
            round=request.round,
            created=created,
            ran=ExecutionInfo(
                engine="llama.cpp", version=benched.commit[:100], provider=provider, threads=benched.threads
            ),
            load_s=None,
            tests=list(benched.tests),
            conditions=SystemConditions(temperature_c=_before_after(cooled, after.celsius)),
            notes=notes,
        )

    def rooflines_again(self, progress: StatusCallback) -> list[Roofline]:
        """Return nothing: llama-bench measures no roofline."""
        return []

    def close(self) -> None:
        with suppress(EdgeSkipError):
            self._stop()

    def _bench(self, request: RoundRequest, progress: StatusCallback) -> str:
        """Return what llama-bench prints, of all its calls. It is always ended, whatever happens."""
        cell, printed = request.cell, ""
        gpu = cell.provider != "cpu"
        ends = time.monotonic() + self._settings.limit_s
        for call in llama_bench_arguments(request.tests, model=request.path, threads=cell.threads, gpu=gpu):
            program = shlex.join([self._program, *call])
            inner = f"echo $$ > {_PID}; export LD_LIBRARY_PATH={self._folder}; exec {program}"
            progress("llama-bench: " + ", ".join(test.name for test in request.tests))
            try:
                answer = self._adb.shell(f"sh -c {shlex.quote(inner)}", limit_s=max(1.0, ends - time.monotonic()))
            except BaseException as error:
                with suppress(EdgeSkipError):
                    self._stop()
                if isinstance(error, AdbTimeoutError):
                    limit = f"{self._settings.limit_s:.0f} s"
                    raise EdgeSkipError(f"llama-bench on the phone took longer than {limit} and was ended") from None
                raise
            if answer.code:
                raise EdgeSkipError(f"llama-bench on the phone {_describe_exit(answer)}")
            printed += answer.out + "\n"
        return printed

    def _push(self, file: Path, folder: str, progress: StatusCallback) -> str:
        """Push a file unless the phone has it, check its checksum, and return its path there."""
        digest, size = sha256_of(file), file.stat().st_size
        target = f"{folder}/{file.name}"
        if self._digest(target, size) == digest:
            return target
        self._must(self._adb.shell(f"mkdir -p {folder}"), f"make {folder}")
        free = free_bytes(self._adb, FOLDER)
        if free is not None and free < size + SPARE_BYTES:
            raise EdgeSkipError(
                f"the phone has {free / 1e6:.0f} MB free in {FOLDER}, {file.name} takes "
                f"{(size + SPARE_BYTES) / 1e6:.0f} MB: free some"
            )
        progress(f"copying {file.name} to the phone, {size / 1e6:.0f} MB")
        part = f"{target}.part"
        self._adb.push(file, part, limit_s=120 + size / PUSH_RATE)
        if self._digest(part, size) != digest:
            with suppress(EdgeSkipError):
                self._adb.shell(f"rm -f {shlex.quote(part)}")
            raise EdgeSkipError(f"{file.name} arrived damaged on the phone: try another cable, then run it again")
        self._must(self._adb.shell(f"mv {shlex.quote(part)} {shlex.quote(target)}"), f"rename {part}")
        return target

    def _digest(self, path: str, size: int) -> str | None:
        """Return the hex sha256 of a file there, None if it is missing.

        Raises EdgeSkipError if the phone cannot hash.
        """
        answer = self._adb.shell(f"sha256sum {shlex.quote(path)}", limit_s=120 + size / HASH_RATE)
        if answer.code == 127:
            raise EdgeSkipError("the phone has no sha256sum: Android 8 or newer is needed")
        word = answer.out.split(" ", 1)[0].strip()
        return word if not answer.code and re.fullmatch(r"[0-9a-f]{64}", word) else None

    def _stop(self) -> None:
        """End a llama-bench that was started here and still runs."""
        self._adb.shell(
            f"p=$(cat {_PID} 2>/dev/null) && grep -q llama-bench /proc/$p/cmdline && kill -9 $p; rm -f {_PID}"
        )

    def _must(self, answer: ShellResult, what: str) -> None:
        if answer.code:
            raise EdgeSkipError(f"the phone cannot {what}: {answer.last_line}")


def _check_gguf(path: Path) -> None:
    """Raise EdgeSkipError if llama-bench could not measure the file, or would measure something else."""
    if path.is_dir():
        raise EdgeSkipError(f"{path} is a folder: phones over adb measure GGUF files, with llama-bench")
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise EdgeSkipError(f"cannot read {path} ({error.strerror}): check the path") from None
    if magic != b"GGUF":
        raise EdgeSkipError(f"{path} is not a GGUF file; phones over adb measure GGUF files, with llama-bench")
    if re.search(r"-\d{5}-of-\d{5}\.gguf$", path.name):
        raise EdgeSkipError(f"{path} is one part of several: merge them first (llama-gguf-split --merge)")
    try:
        from edgeskip.artifacts.gguf.inspection import inspect_gguf

        manifest = inspect_gguf(path).manifest
    except MissingExtraError:
        return  # llama-bench says what is wrong with it
    if manifest is not None and manifest.part != "whole":
        raise EdgeSkipError(f"{path} is one half of a pair, which llama-bench cannot run together: give a whole model")


def _provider(benched: LlamaBenchResult, wanted: str, allow_fallback: bool, notes: list[str]) -> str:
    """Return the provider that ran. Raises EdgeSkipError if the build lacks the one asked for and no other is
    allowed."""
    built = [name.strip() for name in benched.backends.split(",")]
    if wanted == "cpu":
        if built != ["CPU"]:
            notes.append(f"built with {benched.backends}: large products of a prompt may have run there")
        return "cpu"
    for name in built:
        if name.lower().startswith(wanted.lower()):
            return wanted
    if not allow_fallback:
        raise EdgeSkipError(f"this llama-bench is built with {benched.backends}, without {wanted}: give another build")
    notes.append(f"fell back to the CPU: llama-bench is built with {benched.backends}")
    return "cpu"


def _describe_exit(answer: ShellResult) -> str:
    said = answer.last_line
    known = _ENDS.get(answer.code)
    return f"{known} ({said})" if known else f"ended with code {answer.code}: {said}"


def _before_after(cooled: CoolingResult, after: float | None) -> list[float]:
    before = cooled.warmth.celsius
    return [before, after] if before is not None and after is not None else []
