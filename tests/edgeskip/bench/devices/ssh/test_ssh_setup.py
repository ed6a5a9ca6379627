"""Machines that cannot be reached, or lack what is needed: one line each. Oracle: what it was made to lack."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from loopback_sshd import Loopback
from ssh_rounds import Open, quiet

from edgeskip.bench.devices.ssh import connection as connection_module
from edgeskip.bench.devices.ssh import launcher as launcher_module
from edgeskip.bench.devices.ssh.connection import SshOptions
from edgeskip.bench.devices.ssh.launcher import SshLauncher, SshSettings
from edgeskip.core.errors import EdgeSkipError


def test_a_host_of_ones_own_ssh_configuration(far: Loopback, tmp_path: Path) -> None:
    options = far.options()
    hosts = options.options[0].partition("=")[2]
    (tmp_path / "config").write_text(
        f"Host board\n HostName 127.0.0.1\n Port {far.port}\n IdentityFile {options.identity}\n"
        f" UserKnownHostsFile {hosts}\n RemoteCommand echo hello\n RequestTTY yes\n"
    )
    settings = SshSettings(ssh=SshOptions(config=tmp_path / "config"), python=sys.executable)
    with closing(SshLauncher("board", settings, quiet)) as launcher:
        assert launcher.device.id == "board"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"identity": "stranger"}, r"refuses the login: set up a key"),
        ({"hosts": "no_hosts"}, r"the host key of .* is not known here: connect once with  ssh"),
        ({"hosts": "wrong_hosts"}, r"the host key of .* has changed: .* ssh-keygen -R '\[127.0.0.1\]:\d+'$"),
    ],
)
def test_logins_that_fail(far: Loopback, options: dict[str, str], message: str) -> None:
    with pytest.raises(EdgeSkipError, match=message) as caught:
        SshLauncher(far.named, SshSettings(ssh=far.options(**options)), quiet)
    assert "\n" not in str(caught.value)


def test_nothing_listens(far: Loopback) -> None:
    far.stop()
    with pytest.raises(EdgeSkipError, match=r"nothing answers ssh on 127\.0\.0\.1:"):
        SshLauncher(far.named, SshSettings(ssh=far.options()), quiet)


def test_no_such_machine(far: Loopback) -> None:
    with pytest.raises(EdgeSkipError, match=r"there is no machine called nowhere\.invalid: check the name"):
        SshLauncher("nowhere.invalid", SshSettings(ssh=far.options()), quiet)


def test_no_ssh_here() -> None:
    with pytest.raises(EdgeSkipError, match="install OpenSSH's client"):
        SshLauncher("board", SshSettings(ssh=SshOptions(program="no-such-ssh")), quiet)


def only_these(far: Loopback, **programs: str) -> None:
    """Sets the other side's PATH to a folder with its shell, `cat`, `rm` and these shell scripts."""
    folder = far.folder / "bin"
    folder.mkdir()
    for name in ("sh", "cat", "rm", "env"):
        found = shutil.which(name)
        assert found is not None
        (folder / name).symlink_to(found)
    for name, script in programs.items():
        path = folder / name.replace("_", ".")
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    far.environment["PATH"] = str(folder)
    far.restart()


def test_no_python_there(far: Loopback) -> None:
    only_these(far)
    with pytest.raises(EdgeSkipError, match=r"has no Python: install 3\.11 or newer there, or .*--remote-python"):
        SshLauncher(far.named, SshSettings(ssh=far.options()), quiet)


def test_python_too_old(far: Loopback) -> None:
    only_these(far, python3="echo 3.9")
    with pytest.raises(EdgeSkipError, match=r"has only Python 3\.9: install 3\.11 or newer"):
        SshLauncher(far.named, SshSettings(ssh=far.options()), quiet)


def test_the_newer_python_is_found_beside_an_old_one(far: Loopback) -> None:
    only_these(far, python3="echo 3.9", python3_11=f'exec "{sys.executable}" "$@"')
    connection = connection_module.Connection(launcher_module.parse_destination(far.named), far.options())
    try:
        assert launcher_module.find_python(connection) == str(far.folder / "bin" / "python3.11")
    finally:
        connection.close()


def test_the_python_given_is_not_there(far: Loopback) -> None:
    settings = SshSettings(ssh=far.options(), python="/nowhere/python3")
    with pytest.raises(EdgeSkipError, match=r"/nowhere/python3 ended with code 127 and no answer: .*[Nn]o such file"):
        SshLauncher(far.named, settings, quiet)


def test_the_python_given_lacks_what_is_needed(far: Loopback, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(empty)], check=True, timeout=120)
    settings = SshSettings(ssh=far.options(), python=str(empty / "bin" / "python"))
    with pytest.raises(EdgeSkipError, match=r"lacks .*numpy.*onnxruntime.*: install there with .* -m pip install"):
        SshLauncher(far.named, settings, quiet)


def test_python_that_cannot_make_environments(far: Loopback, tmp_path: Path) -> None:
    folder = hidden(tmp_path / "hidden", "ensurepip")
    only_these(far, python3=f'PYTHONPATH="{folder}" exec "{sys.executable}" "$@"')
    with pytest.raises(EdgeSkipError, match=r"cannot make virtual environments: .*python3-venv.*--remote-python"):
        SshLauncher(far.named, SshSettings(ssh=far.options()), quiet)


def test_pip_without_a_network(far: Loopback) -> None:
    far.environment |= {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "0"}
    only_these(far, python3=f'exec "{sys.executable}" "$@"')
    with pytest.raises(EdgeSkipError, match=r"pip cannot reach its package index there: .*--remote-python") as caught:
        SshLauncher(far.named, SshSettings(ssh=far.options()), quiet)
    assert "\n" not in str(caught.value)


def test_a_cache_that_cannot_be_made(far: Loopback, launch: Open, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EdgeSkipError, match=r"Not a directory.*/file"):
        launch(cache=str(tmp_path / "file"))


def test_a_gguf_file_for_a_python_without_llama_cpp(far: Loopback, launch: Open, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    from talking_gguf import talking_gguf

    far.environment["PYTHONPATH"] += f":{hidden(tmp_path / 'hidden', 'llama_cpp')}"
    far.restart()
    with pytest.raises(EdgeSkipError, match=r"lacks llama\.cpp, which GGUF files need: install there with .*llama-cpp"):
        launch().prepare(talking_gguf(tmp_path / "tiny.gguf")[0], quiet)


def hidden(folder: Path, module: str) -> Path:
    """A folder that, on Python's path, hides a module."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        f"import importlib.util as u\nfind = u.find_spec\n"
        f"u.find_spec = lambda name, *rest: None if name == {module!r} else find(name, *rest)\n"
    )
    return folder
