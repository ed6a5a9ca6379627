"""Artifacts brought to another machine: checked, once, resumed. Oracles: the files there and the bytes sent."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loopback_sshd import Loopback
from ssh_rounds import Make, Open, bytes_sent, quiet, wait_for

from edgeskip.bench.devices.ssh import transfer as copying_module
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import sha256_of


def test_nothing_is_copied_twice(far: Loopback, launch: Open, artifact: Path) -> None:
    first = launch()
    path = Path(first.prepare(artifact, quiet))
    before = {file.name: file.stat().st_mtime_ns for file in path.iterdir()}
    code = sorted(far.cache.glob("code-*"))
    told: list[str] = []
    second = launch()
    assert second.prepare(artifact, told.append) == str(path)
    assert {file.name: file.stat().st_mtime_ns for file in path.iterdir()} == before
    assert sorted(far.cache.glob("code-*")) == code
    assert told == []


def test_a_damaged_copy_is_noticed_and_copied_again(launch: Open, artifact: Path) -> None:
    launcher = launch()
    copy = Path(launcher.prepare(artifact, quiet)) / "model.onnx.data"
    with copy.open("r+b") as file:
        file.write(b"not the weights")
    told: list[str] = []
    launcher.prepare(artifact, told.append)
    assert copy.read_bytes() == (artifact / "model.onnx.data").read_bytes()
    assert "its copy of model.onnx.data is damaged, copying again" in told[0]


def test_a_cut_copy_goes_on_where_it_stopped(far: Loopback, launch: Open, artifact: Path) -> None:
    launcher = launch()
    path = Path(launcher.prepare(artifact, quiet)) / "model.onnx.data"
    part = path.with_name("model.onnx.data.part")
    path.rename(part)
    with part.open("r+b") as file:
        file.truncate(1_234_567)
    inode, sent = part.stat().st_ino, bytes_sent(launcher)
    launcher.prepare(artifact, quiet)
    assert path.read_bytes() == (artifact / "model.onnx.data").read_bytes()
    assert path.stat().st_ino == inode
    assert sum(sent) == 3_000_000 - 1_234_567  # the tail alone


def test_a_part_of_another_file_is_thrown_away(launch: Open, artifact: Path) -> None:
    launcher = launch()
    path = Path(launcher.prepare(artifact, quiet)) / "model.onnx.data"
    path.unlink()
    path.with_name("model.onnx.data.part").write_bytes(bytes(2_000_000))
    launcher.prepare(artifact, quiet)
    assert path.read_bytes() == (artifact / "model.onnx.data").read_bytes()


def test_a_connection_that_breaks_while_copying_is_made_again(
    far: Loopback, launch: Open, make_artifact: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying_module, "_REPORT_EVERY_S", 0.0)
    launcher, artifact = launch(), make_artifact(60_000_000)
    cuts, told = [20, 40], []

    def cut(message: str) -> None:
        told.append(message)
        done = re.search(r"(\d+) of 60 MB", message)
        if cuts and done and int(done[1]) >= cuts[0]:
            del cuts[0]
            far.cut()

    path = launcher.prepare(artifact, cut)
    assert sha256_of(Path(path) / "model.onnx.data") == sha256_of(artifact / "model.onnx.data")
    assert sum("connecting again" in message for message in told) == 2
    assert not list(Path(path).glob("*.part"))


def test_a_line_that_breaks_again_and_again_is_given_up(far: Loopback, launch: Open, make_artifact: Make) -> None:
    launcher, artifact = launch(), make_artifact(30_000_000)

    def refuse(message: str) -> None:
        if "copying" in message:
            far.stop()

    with pytest.raises(EdgeSkipError, match=r"nothing answers ssh .*; what was copied is kept"):
        launcher.prepare(artifact, refuse)


def test_ctrl_c_while_copying_keeps_what_came(
    far: Loopback, launch: Open, make_artifact: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher, artifact = launch(), make_artifact(30_000_000)
    pieces = copying_module._Copy._pieces

    def interrupted(self: Any, file: Any, start: int) -> Iterator[bytes]:
        for number, piece in enumerate(pieces(self, file, start)):
            if number == 12:
                wait_for(lambda: any(part.stat().st_size > 10**7 for part in far.cache.glob("artifacts/*/*.data.part")))
                os.kill(os.getpid(), signal.SIGINT)
            if number > 12:
                time.sleep(0.05)
            yield piece

    with monkeypatch.context() as patch:
        patch.setattr(copying_module._Copy, "_pieces", interrupted)
        with pytest.raises(KeyboardInterrupt):
            launcher.prepare(artifact, quiet)
    (part,) = far.cache.glob("artifacts/*/model.onnx.data.part")
    wait_for(lambda: not [command for command in far.running() if "-P -c" in command])
    have, sent = part.stat().st_size, bytes_sent(launcher)
    assert 10**7 < have < 30_000_000
    launcher.prepare(artifact, quiet)
    assert sha256_of(part.with_name("model.onnx.data")) == sha256_of(artifact / "model.onnx.data")
    assert 30_000_000 - have <= sum(sent) < 30_000_000


def test_two_at_once_share_what_is_there(far: Loopback, launch: Open, artifact: Path) -> None:
    launchers = [launch(), launch()]
    paths: list[str] = []
    threads = [
        threading.Thread(target=lambda one=one: paths.append(one.prepare(artifact, quiet)))  # type: ignore[misc]
        for one in launchers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(paths) == 2
    assert len(set(paths)) == 1
    assert sha256_of(Path(paths[0]) / "model.onnx.data") == sha256_of(artifact / "model.onnx.data")
    assert not list(Path(paths[0]).glob("*.part"))


def test_a_cache_elsewhere(launch: Open, artifact: Path, tmp_path: Path) -> None:
    path = launch(cache=str(tmp_path / "elsewhere")).prepare(artifact, quiet)
    assert Path(path).is_relative_to(tmp_path / "elsewhere" / "bench" / "artifacts")


def test_too_little_room(launch: Open, artifact: Path, small_disk: Path) -> None:
    launcher = launch(cache=str(small_disk))
    with pytest.raises(
        EdgeSkipError, match=r"has \d MB free in .*, copying takes 35 MB: free some, or .*--remote-cache"
    ):
        launcher.prepare(artifact, quiet)
    assert not list(small_disk.rglob("*.part"))


def test_a_disk_that_fills_up_while_copying(
    launch: Open, small_disk: Path, make_artifact: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying_module, "SPARE_BYTES", -(10**9))  # someone else takes the room that was there
    with pytest.raises(EdgeSkipError, match=r"no space left for"):
        launch(cache=str(small_disk)).prepare(make_artifact(9_000_000), quiet)


def test_an_artifact_that_is_not_what_was_exported(launch: Open, artifact: Path) -> None:
    launcher = launch()
    (artifact / "model.onnx.data").write_bytes(b"other")
    with pytest.raises(
        EdgeSkipError, match=r"model\.onnx\.data is not the file that was exported \(its sha256 differs\)"
    ):
        launcher.prepare(artifact, quiet)
    (artifact / "model.onnx.data").unlink()
    with pytest.raises(EdgeSkipError, match=r"model\.onnx\.data is missing"):
        launcher.prepare(artifact, quiet)


def test_a_manifest_cannot_reach_out_of_its_folder(launch: Open, artifact: Path) -> None:
    path = artifact / "edgeskip.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["../../../outside"] = hashlib.sha256(b"").hexdigest()
    path.write_text(json.dumps(manifest))
    with pytest.raises(EdgeSkipError, match=r"is damaged: it lists '\.\./\.\./\.\./outside'"):
        launch().prepare(artifact, quiet)
