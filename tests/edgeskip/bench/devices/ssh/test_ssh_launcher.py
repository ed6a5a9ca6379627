"""Rounds on another machine: a real sshd on loopback with a home of its own and a stand-in for what measures.

Oracles: the processes left on the other side, what the stand-in was asked for.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from loopback_sshd import Loopback
from ssh_rounds import HERE, Open, ours, quiet, request, wait_for

from edgeskip.bench.devices.ssh import connection as connection_module
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import sha256_of


def test_measures_there(far: Loopback, launch: Open, artifact: Path) -> None:
    launcher = launch(rooflines=(("cpu", 1), ("cpu", 2)))
    device = launcher.device
    assert (device.id, device.type, device.name) == (far.named, "ssh", "a made-up board")
    assert [(r.provider, r.threads) for r in device.rooflines] == [("cpu", 1), ("cpu", 2)]
    assert launcher.rooflines_again(quiet) == device.rooflines
    assert device.facts["remote"]["architecture"] == os.uname().machine
    path = launcher.prepare(artifact, quiet)
    assert path == f"{far.cache}/artifacts/{sha256_of(artifact / 'edgeskip.json')}"
    told: list[str] = []
    asked = request(path, "any", device.id)
    sample = launcher.run(asked, told.append)
    assert (sample.cell, sample.round, sample.load_s) == (asked.cell, 2, 0.5)
    assert [(test.test, test.tokens, test.seconds) for test in sample.tests] == [("pp", 64, 0.25)]
    assert sample.notes == [".lock,config.json,edgeskip.json,model.onnx,model.onnx.data"]
    assert told == ["starting"]
    for file in artifact.iterdir():
        assert (Path(path) / file.name).read_bytes() == file.read_bytes()
    launcher.close()
    far.wait_until_no_session()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("error", r": no such provider$"),
        ("crash", r": measuring ended with code 1: the last words$"),
        ("memory", r": it was killed by signal 9, SIGKILL$"),
        ("rubbish", r"RoundResult \(cell: "),
        ("other", "another cell"),
    ],
)
def test_a_round_that_fails(far: Loopback, launch: Open, tmp_path: Path, target: str, message: str) -> None:
    launcher = launch()
    with pytest.raises(EdgeSkipError, match=message) as caught:
        launcher.run(request(str(tmp_path), target, far.named), quiet)
    assert str(caught.value).startswith(far.named)
    assert "\n" not in str(caught.value)
    assert not ours(far)
    assert launcher.run(request(str(tmp_path), "any", far.named), quiet).round == 2  # the next one does not suffer


def test_a_round_that_takes_too_long_is_stopped(far: Loopback, launch: Open, tmp_path: Path) -> None:
    launcher = launch(limit_s=1.0)
    with pytest.raises(EdgeSkipError, match=r"took longer than 1 s and was stopped"):
        launcher.run(request(str(tmp_path), "hang", far.named), quiet)
    assert not ours(far)


def test_a_connection_that_breaks_in_a_round(far: Loopback, launch: Open, tmp_path: Path) -> None:
    launcher = launch()

    def cut(message: str) -> None:
        if message == "hanging":
            wait_for(lambda: len(ours(far)) == 2)  # the check sees them
            far.cut()

    with pytest.raises(EdgeSkipError, match=r"the connection to .* broke off.*run the same command again") as caught:
        launcher.run(request(str(tmp_path), "hang", far.named), cut)
    assert "\n" not in str(caught.value)
    wait_for(lambda: not ours(far))
    assert launcher.run(request(str(tmp_path), "any", far.named), quiet).round == 2  # connects again


def test_ctrl_c_in_a_round_leaves_nothing_there(far: Loopback, launch: Open, tmp_path: Path) -> None:
    launcher = launch()

    def stop(message: str) -> None:
        if message == "hanging":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launcher.run(request(str(tmp_path), "hang", far.named), stop)
    wait_for(lambda: not ours(far), 10)


PROGRAM = """
import sys
sys.path.insert(0, {here!r})
from contextlib import closing
from pathlib import Path
from ssh_rounds import request
from edgeskip.bench.devices.ssh import launcher as launcher_module
from edgeskip.bench.devices.ssh.connection import SshOptions
from edgeskip.bench.devices.ssh.launcher import SshSettings, SshLauncher
launcher_module.CHILD = "fake_child"
options = SshOptions(identity=Path({identity!r}), config=Path("/dev/null"), options={options!r})
with closing(SshLauncher({named!r}, SshSettings(ssh=options, python=sys.executable), print)) as launcher:
    print("folder", launcher._connection._folder)
    launcher.run(request("/", "hang", {named!r}), lambda message: print(message, flush=True))
"""


def test_a_killed_benchmark_leaves_nothing_on_either_side(far: Loopback) -> None:
    options = far.options()
    program = PROGRAM.format(here=str(HERE), identity=str(options.identity), options=options.options, named=far.named)
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    folder = ""
    for line in process.stdout:
        folder = line.split()[1] if line.startswith("folder ") else folder
        if line.strip() == "hanging":
            break
    assert ours(far)
    process.kill()
    process.communicate(timeout=20)
    wait_for(lambda: not ours(far))
    wait_for(lambda: not far.sessions())  # neither does ssh outlive us
    shutil.rmtree(folder)  # all that is left: the empty folder of its socket


def test_a_silent_line_ends_the_round_there(far: Loopback, launch: Open, tmp_path: Path) -> None:
    """The cable is pulled: no end of file comes, only nothing any more."""
    launcher = launch()
    launcher._remote._agent = launcher._remote._agent.replace(b"SILENCE_S = 60.0", b"SILENCE_S = 1.0")
    began = time.monotonic()
    with pytest.raises(EdgeSkipError):
        launcher.run(request(str(tmp_path), "hang", far.named), quiet)
    assert time.monotonic() - began < connection_module.BEAT_S
    assert not ours(far)


def test_noise_of_a_login_shell_does_not_matter(far: Loopback, launch: Open, artifact: Path) -> None:
    (far.home / ".bashrc").write_text(
        "echo Welcome to the board\necho '{\"kind\": 3}'\necho '{not JSON'\necho >&2 hm\n"
    )
    launcher = launch()
    path = launcher.prepare(artifact, quiet)
    assert launcher.run(request(path, "any", far.named), quiet).round == 2
