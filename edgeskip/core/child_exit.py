"""How a child process ended, in words: the signal, what is known about it, and memory only where there is evidence."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path

_MEANINGS = {
    "SIGSEGV": "native code touched memory that is not its own, or the processor refused an instruction",
    "SIGILL": "the processor does not have an instruction that the library uses: it was compiled for another one",
    "SIGBUS": "a mapped file was cut short, its disk failed, or memory was misaligned",
    "SIGABRT": "native code found an error and ended itself",
    "SIGFPE": "native code divided an integer by zero",
    "SIGTRAP": "native code found an error and ended itself",
    "SIGSYS": "a sandbox forbids a system call that it made",
    "SIGXCPU": "it reached its limit on processor time",
    "SIGXFSZ": "it reached the limit on file sizes",
    "SIGTERM": "another process asked it to end",
    "SIGHUP": "its terminal was closed",
    "SIGINT": "it was interrupted",
    "SIGKILL": "the system or another process ended it",
}
# Windows reports what Unix sends as a signal by these exit codes (ntstatus.h).
_WINDOWS = {
    0xC0000005: "SIGSEGV",  # STATUS_ACCESS_VIOLATION
    0xC000001D: "SIGILL",  # STATUS_ILLEGAL_INSTRUCTION
    0xC0000096: "SIGILL",  # STATUS_PRIVILEGED_INSTRUCTION
    0xC0000094: "SIGFPE",  # STATUS_INTEGER_DIVIDE_BY_ZERO
    0xC0000409: "SIGABRT",  # STATUS_STACK_BUFFER_OVERRUN, which abort() raises as well
}
_MEMORY_SIGNALS = ("SIGKILL", "SIGABRT", "SIGSEGV", "SIGBUS")  # what a process without memory can end by
_NEAR = 0.9  # of what there is: a process that had so much was about to get no more
_CGROUPS = Path("/sys/fs/cgroup")
_REMEDY = "close other programs or use a smaller model or context"


def signal_name(code: int | None) -> str | None:
    """Return the name of the signal that ended a process with exit code `code` (as `subprocess` has it).

    None = none did.
    """
    if code is None:
        return None
    if code < 0:
        return signal.Signals(-code).name if -code in {s.value for s in signal.Signals} else f"signal {-code}"
    return _WINDOWS.get(code) if sys.platform == "win32" else None


@dataclass(frozen=True)
class MemoryWatch:
    """What the system counts about memory, noted before a child starts; `evidence` compares with it afterwards."""

    oom_kills: int | None = field(default_factory=lambda: count_oom_kills())
    largest_child: int = field(default_factory=lambda: _peak_bytes(children=True))

    def evidence(self) -> str:
        """Return what shows that memory ran out since, in a few words; '' if nothing does."""
        kills = count_oom_kills()
        if kills is not None and self.oom_kills is not None and kills > self.oom_kills:
            return "the system's out-of-memory killer ended a process meanwhile"
        peak, limit = _peak_bytes(children=True), memory_limit()
        # A child counts what its parent had when it was started (getrusage(2) of the time before exec), so only a
        # peak above the parent's own, and above those of earlier children, is surely this child's.
        if limit and peak > max(self.largest_child, _peak_bytes(children=False)) and peak >= _NEAR * limit:
            return f"it had grown to {peak / 1e9:.1f} GB of the {limit / 1e9:.1f} GB that there are"
        return ""


def how_it_ended(code: int | None, watch: MemoryWatch | None = None) -> str:
    """Return a predicate for a sentence about a child that ended with `code`: "was ended by SIGSEGV (…)", "ended with
    code 3".

    `watch` was made before it started; memory is named only if it has evidence.
    """
    name = signal_name(code)
    if name is None:
        return f"ended with code {code}"
    known = [meaning] if (meaning := meaning_of(name)) else []
    if name in _MEMORY_SIGNALS and watch is not None:
        if evidence := watch.evidence():
            known.append(f"{evidence}: {_REMEDY}")
        elif name == "SIGKILL":
            known.append("nothing shows that memory ran out")
    return f"was ended by {name}" + (f" ({'; '.join(known)})" if known else "")


def meaning_of(name: str) -> str:
    """Return what a signal says of the process that it ended; '' if nothing is known."""
    return _MEANINGS.get(name, "")


def count_oom_kills() -> int | None:
    """Return how many processes the out-of-memory killer has ended in this process's control group; None if unknown.

    Control groups v2 count them in memory.events, v1 in memory.oom_control. Without either, those of the machine.
    """
    for folder in _memory_groups():
        for name in ("memory.events", "memory.oom_control"):
            for line in _read(folder / name).splitlines():
                key, _, value = line.partition(" ")
                if key == "oom_kill" and value.strip().isdigit():
                    return int(value)
    for line in _read(Path("/proc/vmstat")).splitlines():
        key, _, value = line.partition(" ")
        if key == "oom_kill" and value.strip().isdigit():
            return int(value)
    return None


def memory_limit() -> int | None:
    """Return bytes that this process and its children may take: the least of the machine's memory and its control
    groups'."""
    lines = _read(Path("/proc/meminfo")).splitlines()
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal:")]
    for folder in _memory_groups():
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read(folder / name).strip()
            if text.isdigit():
                found.append(int(text))
    return min(found, default=None)


def _memory_groups() -> list[Path]:
    """Return the control groups with memory accounting that this process is in, its own first, then those above."""
    found: list[Path] = []
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            roots = [_CGROUPS, _CGROUPS / "unified"]
        elif "memory" in controllers.split(","):
            roots = [_CGROUPS / "memory"]
        else:
            continue
        for root in roots:
            group = root / path.strip("/")
            # In a container the path may be that outside of it, where the root is the container's own group.
            chain = [group, *(p for p in group.parents if p.is_relative_to(root))] if group.is_dir() else [root]
            found += [folder for folder in chain if folder.is_dir()]
    return found


def _peak_bytes(*, children: bool) -> int:
    """Return the largest resident set of this process, or of any child that has ended; 0 if the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes there, KiB elsewhere


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def without_core_dump() -> None:
    """Called by a child that may crash: it leaves no core file behind."""
    if os.name == "posix":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
