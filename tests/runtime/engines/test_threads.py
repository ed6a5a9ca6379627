"""How many threads may be asked for, and where. Oracle: the affinity of this process, and `os` made to differ."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_graph import TinyArtifact

from edgeskip.core.errors import EdgeSkipError
from edgeskip.profiling.measure import open_dense
from edgeskip.runtime.engines import threads as module
from edgeskip.runtime.engines.onnxruntime.engine import OnnxRuntimeEngine
from edgeskip.runtime.engines.threads import default_threads, most_threads, threads_or_default
from edgeskip.runtime.loader import open_artifact

BAD: list[Any] = [0, -1, 5000, 10**6, 2**31, 2**64, True, False, 1.0, 2.5, float("nan"), "2", "", [2], np.float32(2)]


@pytest.mark.parametrize(("processors", "most"), [(1, 8), (2, 8), (3, 12), (64, 256)])
def test_the_bound_is_the_machines(processors: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(processors)), raising=False)
    assert most_threads() == most
    assert (threads_or_default(1), threads_or_default(most)) == (1, most)
    with pytest.raises(EdgeSkipError) as raised:
        threads_or_default(most + 1)
    assert f"from 1 to {most}, not {most + 1}: this machine has {processors} logical processors" in str(raised.value)


@pytest.mark.parametrize("threads", BAD, ids=repr)
def test_what_is_no_number_of_threads(threads: Any) -> None:
    with pytest.raises(EdgeSkipError, match=r"^threads must be a whole number from 1 to \d+, not ") as raised:
        threads_or_default(threads)
    assert len(str(raised.value)) < 250


def test_what_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert threads_or_default(np.int64(2)) == 2  # type: ignore[arg-type]
    assert threads_or_default(None) == default_threads()
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # macOS, Windows
    assert most_threads() == max(8, 4 * (os.cpu_count() or 1))


@pytest.mark.parametrize("threads", [5000, 10**6, 0, True, 2.5])
def test_every_way_in_refuses_before_it_starts_any(threads: Any, tiny_artifact: TinyArtifact, tmp_path: Path) -> None:
    """`load`, `run`, `eval`, `sweep` open by `open_artifact`; a file that is not there shows that nothing was read."""
    gguf = tmp_path / "x.gguf"
    for attempt in (
        lambda: OnnxRuntimeEngine(tiny_artifact.folder, tiny_artifact.manifest, threads=threads),
        lambda: open_artifact(tiny_artifact.folder, threads=threads),
        lambda: open_artifact(gguf, threads=threads),
        lambda: open_dense(gguf, threads=threads),
    ):
        with pytest.raises(EdgeSkipError, match=r"^threads must be"):
            attempt()


@pytest.mark.parametrize("threads", ["5000", "1000000", "0", "-3"])
def test_the_command_line(threads: str, tiny_artifact: TinyArtifact) -> None:
    """Real processes: 5000 hung for minutes, a million ended by SIGSEGV."""
    (tiny_artifact.folder / "edgeskip.json").write_text(tiny_artifact.manifest.model_dump_json())
    commands = [["run", "-p", "x"], ["bench", "-p", "8", "-n", "2", "-r", "1"], ["profile-device", "-o", "device.json"]]
    for verb, *options in commands[: 1 if threads != "5000" else 3]:
        command = [sys.executable, "-m", "edgeskip", verb, str(tiny_artifact.folder), *options, "--threads", threads]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2, done.stderr
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("edgeskip: error: ")
        assert "threads must be" in last or last.startswith("edgeskip: error: -t ")
        assert "Traceback" not in done.stderr


def test_a_roofline_is_bounded_too() -> None:
    """The process that measures a device, here or over ssh."""
    command = [sys.executable, "-m", "edgeskip.bench.runner.child", "--device", "--roofline", "cpu:5000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, "threads must be a whole number" in done.stdout) == (2, True)


def test_one_place_checks_them() -> None:
    """Nothing else in the package makes the default or the bound."""
    root = Path(module.__file__).parents[2]
    files = [path for folder in ("edgeskip", "exporters", "runtime") for path in (root / folder).rglob("*.py")]
    users = [path for path in files if "default_threads()" in path.read_text(encoding="utf-8")]
    assert {path.name for path in users} <= {"threads.py", "asked.py", "device.py", "config.py"}
