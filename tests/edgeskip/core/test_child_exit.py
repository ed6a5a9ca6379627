"""How a child's end is told. Oracle: real children that end themselves by each signal; for memory, files by hand."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgeskip.core import child_exit
from edgeskip.core.child_exit import MemoryWatch, count_oom_kills, how_it_ended, memory_limit, signal_name

NAMES = ["SIGSEGV", "SIGILL", "SIGBUS", "SIGABRT", "SIGFPE", "SIGTRAP", "SIGSYS", "SIGTERM", "SIGHUP", "SIGKILL"]


def end_by(number: int) -> int:
    code = f"import resource as r, os; r.setrlimit(r.RLIMIT_CORE, (0, 0)); os.kill(os.getpid(), {number})"
    return subprocess.run([sys.executable, "-S", "-c", code], check=False).returncode


@pytest.mark.parametrize("name", NAMES)
def test_every_signal_has_its_name_and_no_memory_is_guessed(name: str) -> None:
    watch = MemoryWatch()
    told = how_it_ended(end_by(getattr(signal, name)), watch)
    assert told.startswith(f"was ended by {name} (")
    assert "\n" not in told
    assert ("memory ran out" in told) == (name == "SIGKILL")
    if name == "SIGKILL":
        assert told.endswith("; nothing shows that memory ran out)")


def test_a_real_invalid_access_is_sigsegv() -> None:
    code = "import ctypes, resource as r; r.setrlimit(r.RLIMIT_CORE, (0, 0)); ctypes.string_at(8)"
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL, check=False)
    assert how_it_ended(done.returncode, MemoryWatch()).startswith("was ended by SIGSEGV (native code touched memory")


def test_signals_without_a_name_and_plain_codes() -> None:
    """By hand: real-time signals have no name of their own, codes above 0 are no signals."""
    assert how_it_ended(end_by(signal.SIGRTMIN + 3)) == f"was ended by signal {signal.SIGRTMIN + 3}"
    assert (how_it_ended(3), how_it_ended(None)) == ("ended with code 3", "ended with code None")
    assert (signal_name(0), signal_name(139)) == (None, None)


def test_windows_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    """ntstatus.h: STATUS_ACCESS_VIOLATION and STATUS_ILLEGAL_INSTRUCTION, as subprocess returns them there."""
    monkeypatch.setattr(sys, "platform", "win32")
    assert (signal_name(0xC0000005), signal_name(0xC000001D), signal_name(1)) == ("SIGSEGV", "SIGILL", None)


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree of control groups in place of the system's; `cgroup` and `meminfo` in it stand for those of /proc."""
    read = child_exit._read
    monkeypatch.setattr(child_exit, "_CGROUPS", tmp_path)
    proc = {"/proc/self/cgroup": "cgroup", "/proc/meminfo": "meminfo", "/proc/vmstat": "vmstat"}
    monkeypatch.setattr(child_exit, "_read", lambda path: read(tmp_path / proc.get(str(path), str(path))))
    (tmp_path / "meminfo").write_text("MemTotal:       1000 kB\nMemFree: 1 kB\n")
    return tmp_path


def test_kills_and_limits_of_control_groups_v2(groups: Path) -> None:
    """Kernel documentation, cgroup-v2: memory.events and memory.max, "max" being none; the least limit above counts."""
    (groups / "cgroup").write_text("0::/user/me\n")
    (groups / "user" / "me").mkdir(parents=True)
    (groups / "user" / "memory.max").write_text("512000\n")
    (groups / "user" / "me" / "memory.max").write_text("max\n")
    events = groups / "user" / "me" / "memory.events"
    events.write_text("low 0\nhigh 0\nmax 4\noom 1\noom_kill 1\noom_group_kill 0\n")
    assert (count_oom_kills(), memory_limit()) == (1, 512000)
    watch = MemoryWatch()
    assert watch.evidence() == ""
    events.write_text("oom_kill 2\n")
    told = how_it_ended(-9, watch)
    assert "out-of-memory killer ended a process meanwhile: close other programs" in told
    assert "nothing shows" not in told


def test_kills_and_limits_of_control_groups_v1(groups: Path) -> None:
    """cgroup-v1: memory.oom_control and memory.limit_in_bytes; in a container the path may be that of the host."""
    (groups / "cgroup").write_text("5:cpu,memory:/docker/abc\n1:name=systemd:/\n")
    (groups / "memory").mkdir()
    (groups / "memory" / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    (groups / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert (count_oom_kills(), memory_limit()) == (3, 1000 * 1024)


def test_without_control_groups_the_machine_counts(groups: Path) -> None:
    (groups / "cgroup").write_text("")
    assert count_oom_kills() is None
    (groups / "vmstat").write_text("pgfault 7\noom_kill 5\n")
    assert count_oom_kills() == 5


def test_a_child_that_had_nearly_all_memory_is_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child really takes 300 MB; the limit is made 310 MB, then 3 GB. It is more than this process or others took."""
    code = "import os; held = bytearray(300_000_000); held[::4096] = b'x' * len(held[::4096]); os.kill(os.getpid(), 9)"
    own = child_exit._peak_bytes
    monkeypatch.setattr(child_exit, "_peak_bytes", lambda *, children: own(children=True) if children else 0)
    watch = MemoryWatch(largest_child=0)
    dead = subprocess.run([sys.executable, "-S", "-c", code], check=False).returncode
    monkeypatch.setattr(child_exit, "memory_limit", lambda: own(children=True) + 10_000_000)
    assert "it had grown to " in how_it_ended(dead, watch)
    monkeypatch.setattr(child_exit, "memory_limit", lambda: 10 * own(children=True))
    assert "nothing shows that memory ran out" in how_it_ended(dead, watch)


def test_what_the_parent_holds_is_not_the_childs(monkeypatch: pytest.MonkeyPatch) -> None:
    """getrusage counts a child's peak before exec too, when it still is a copy of this process."""
    monkeypatch.setattr(child_exit, "memory_limit", lambda: child_exit._peak_bytes(children=False))
    watch = MemoryWatch(largest_child=0)
    monkeypatch.setattr(child_exit, "_peak_bytes", lambda *, children: 10**9)
    assert watch.evidence() == ""


def test_no_core_file_is_left(tmp_path: Path) -> None:
    code = "from edgeskip.core.child_exit import *; without_core_dump(); import os; os.abort()"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, stderr=subprocess.DEVNULL, check=False)
    assert (done.returncode, list(tmp_path.iterdir())) == (-signal.SIGABRT, [])
