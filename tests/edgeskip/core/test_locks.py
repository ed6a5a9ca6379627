"""Outputs that two processes want at once, and what killed ones leave. Oracle: the folder's listing and which process
says that it succeeded; the processes are real and start together."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import replace_file, staged_files, staged_folder
from edgeskip.core.leftovers import leftovers_in
from edgeskip.core.locks import claim, hold, is_claimed, let_go

PROLOGUE = """
import sys, time, pathlib
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import replace_file, staged_files, staged_folder
from edgeskip.core.locks import claim
name, start = sys.argv[1], pathlib.Path(sys.argv[2])
target = pathlib.Path(sys.argv[3])
print("ready", flush=True)
while not start.exists():
    time.sleep(0.001)
try:
"""
EPILOGUE = """
    print("won", flush=True)
except EdgeSkipError as error:
    print("refused:", error, flush=True)
"""


def race(body: str, target: Path, count: int = 4) -> list[str]:
    """The last line of each of `count` processes that run `body` from the same moment on."""
    code = PROLOGUE + textwrap.indent(textwrap.dedent(body), "    ") + EPILOGUE
    start = target.parent / "start"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(number), str(start), str(target)], stdout=subprocess.PIPE, text=True
        )
        for number in range(count)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    start.touch()
    lines = [process.communicate(timeout=60)[0].strip() for process in processes]
    start.unlink()
    assert not any(process.returncode for process in processes)
    return lines


FOLDER = """
with staged_folder(target, overwrite=False) as staging:
    (staging / "who").write_text(name)
    {wait}
"""
FILES = """
with staged_files([target, target.with_name("second")], overwrite=False) as staged:
    for path in staged:
        path.write_text(name)
    {wait}
"""
FILE = """
{wait}
replace_file(target, name.encode(), overwrite=False)
"""


@pytest.mark.parametrize("wait", ["pass", "time.sleep(0.3)"])
@pytest.mark.parametrize("body", [FOLDER, FILES, FILE], ids=["folder", "files", "file"])
def test_exactly_one_wins(tmp_path: Path, body: str, wait: str) -> None:
    target = tmp_path / "out"
    lines = race(body.format(wait=wait), target)
    won = [str(number) for number, line in enumerate(lines) if line == "won"]
    assert len(won) == 1
    assert all("refused: " in line and "\n" not in line for line in lines if line != "won")
    found = {path.name: path for path in tmp_path.iterdir()}
    assert set(found) == ({"out", "second"} if body is FILES else {"out"})
    texts = {(path / "who" if path.is_dir() else path).read_text() for path in found.values()}
    assert texts == set(won)


def test_with_overwrite_files_of_two_processes_do_not_mix(tmp_path: Path) -> None:
    target = tmp_path / "out"
    for _ in range(3):
        lines = race(FILES.format(wait="pass").replace("overwrite=False", "overwrite=True"), target)
        assert "won" in lines
        assert (tmp_path / "out").read_text() == (tmp_path / "second").read_text()


def test_the_second_is_told_who_is_first(tmp_path: Path) -> None:
    code = "import sys, time; from pathlib import Path; from edgeskip.core.locks import claim\n"
    code += "with claim(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)"
    target = tmp_path / "new" / "out"
    process = subprocess.Popen([sys.executable, "-c", code, str(target)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    assert is_claimed(target)
    told = rf"another edgeskip process \(pid {process.pid}\) is writing to .*out"
    with pytest.raises(EdgeSkipError, match=told), claim(target):
        pass
    process.kill()  # the system frees the lock, the file stays, and does no harm
    process.wait()
    assert not is_claimed(target)
    with claim(target):
        assert is_claimed(target)
    assert list((tmp_path / "new").iterdir()) == []


def test_a_claim_again_by_the_same_thread_and_by_another(tmp_path: Path) -> None:
    import threading

    told: list[str] = []

    def other() -> None:
        try:
            with claim(tmp_path / "out"):
                pass
        except EdgeSkipError as error:
            told.append(str(error))

    with claim(tmp_path / "out"):
        with claim(tmp_path / "out"):
            pass
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert is_claimed(tmp_path / "out")
    assert len(told) == 1
    hold(tmp_path / "out")
    assert is_claimed(tmp_path / "out")
    let_go()
    assert list(tmp_path.iterdir()) == []


def test_a_link_and_what_it_points_to_are_one_output(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with claim(tmp_path / "link"):
        assert is_claimed(tmp_path / "real")


def killed_within(body: str, target: Path) -> None:
    code = PROLOGUE + textwrap.indent(textwrap.dedent(body), "    ") + EPILOGUE
    start = target.parent / "start"
    start.touch()
    process = subprocess.Popen(
        [sys.executable, "-c", code, "killed", str(start), str(target)], stdout=subprocess.PIPE, text=True
    )
    for _ in range(600):
        if (target.parent / "go").exists():
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (target.parent / "go").unlink()
    start.unlink()


WAIT = "target.with_name('go').touch(); time.sleep(60)"


@pytest.mark.parametrize("body", [FOLDER, FILES], ids=["folder", "files"])
def test_what_a_killed_process_left_is_told_and_cleared(
    tmp_path: Path, body: str, caplog: pytest.LogCaptureFixture
) -> None:
    target = tmp_path / "out"
    killed_within(body.format(wait=WAIT), target)
    (leftover,) = [found for found in leftovers_in(tmp_path) if found.target == target]
    assert not leftover.is_old
    (tmp_path / ".out.mine").mkdir()  # nobody else's
    (tmp_path / ".other.abcdefgh.edgeskip-part").mkdir()
    caplog.set_level("INFO", "edgeskip")
    if body is FOLDER:
        with staged_folder(target, overwrite=False) as folder:
            (folder / "who").write_text("new")
    else:
        with staged_files([target, target.with_name("second")], overwrite=False) as files:
            for file in files:
                file.write_text("new")
        (tmp_path / "second").unlink()
    (told,) = caplog.messages
    assert f"removing {leftover.folder}" in told
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [".other.abcdefgh.edgeskip-part", ".out.mine", "out"]


def test_killed_between_two_renames_the_old_is_put_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The old folder was moved away, the new one has not its name yet."""
    target = tmp_path / "out"
    target.mkdir()
    (target / "who").write_text("old")
    body = """
    def rename(self, to, real=pathlib.Path.rename):
        if (self / "new").exists():
            target.with_name('go').touch(); time.sleep(60)
        return real(self, to)
    pathlib.Path.rename = rename
    with staged_folder(target, overwrite=True) as staging:
        (staging / "new").touch()
    """
    killed_within(body, target)
    caplog.set_level("INFO", "edgeskip")
    assert not target.exists()
    with pytest.raises(EdgeSkipError, match="exists"), staged_folder(target, overwrite=False):
        pass
    assert (target / "who").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert "put back" in caplog.text


def test_a_live_process_loses_nothing(tmp_path: Path) -> None:
    with staged_folder(tmp_path / "out", overwrite=False):
        assert leftovers_in(tmp_path) == []


@pytest.mark.parametrize("links", [True, False])
def test_what_appears_without_any_lock_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """Another program makes the file while ours is at work; file systems without hard links as well."""
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(1, "no links")))

    def stage_a_file() -> None:
        with staged_files([tmp_path / "out0"], overwrite=False) as (staged,):
            staged.write_text("ours")
            (tmp_path / "out0").write_text("theirs")

    def stage_a_folder() -> None:
        with staged_folder(tmp_path / "out1", overwrite=False):
            (tmp_path / "out1").mkdir()
            (tmp_path / "out1" / "x").touch()

    for stage in (stage_a_file, stage_a_folder):
        with pytest.raises(EdgeSkipError, match="made meanwhile"):
            stage()
    assert (tmp_path / "out0").read_text() == "theirs"
    with pytest.raises(EdgeSkipError, match="made meanwhile"):
        replace_file(tmp_path / "out0", b"ours", overwrite=False)
    replace_file(tmp_path / "new", b"ours", overwrite=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "out0", "out1"]


def test_ctrl_c_while_the_lock_is_opened_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler runs after `os.open` has made the file, before its number has a name."""
    opened, target = os.open, tmp_path / "new" / "x"

    def interrupted(path: object, *arguments: int) -> int:
        opened(path, *arguments)  # type: ignore[call-overload]
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "open", interrupted)
    with pytest.raises(KeyboardInterrupt), claim(target):
        pass
    assert list(tmp_path.rglob("*")) == []
    with claim(target):
        assert is_claimed(target)


def test_a_disk_without_room_for_the_number_keeps_no_lock_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with claim(tmp_path / "x"):
        assert list(tmp_path.iterdir()) == []
