"""Rounds on another machine: a real sshd on loopback with a home of its own, mostly with a stand-in for what measures.

Oracles: the files on the other side, the processes left there, what the stand-in was asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from loopback_sshd import Loopback, make

from edgeskip.bench.record import Cell, Sample, Strategy
from edgeskip.bench.remote import connection as connection_module
from edgeskip.bench.remote import copying as copying_module
from edgeskip.bench.remote import ssh_launcher as launcher_module
from edgeskip.bench.remote.connection import SshOptions
from edgeskip.bench.remote.ssh_launcher import RemoteSettings, SshLauncher
from edgeskip.bench.request import Prompt, Request
from edgeskip.bench.request import Test as RandomTest
from edgeskip.errors import EdgeSkipError
from edgeskip.files import sha256_of
from edgeskip.manifest import read_manifest

HERE = Path(__file__).parent


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    """The other side, running, with the stand-in on its Python's path; nothing of it runs after the test."""
    monkeypatch.setattr(launcher_module, "CHILD", "fake_child")
    monkeypatch.setattr(copying_module, "RETRY_S", 0.0)
    far = make(tmp_path)
    far.environment["PYTHONPATH"] = str(HERE)
    far.start()
    yield far
    far.stop()
    far.wait_until_nothing_runs()


Open = Callable[..., SshLauncher]


@pytest.fixture
def launch(far: Loopback) -> Iterator[Open]:
    """Opens a launcher that uses this Python there; closed after the test."""
    with ExitStack() as stack:

        def launch(**changes: Any) -> SshLauncher:
            settings = RemoteSettings(ssh=far.options(), python=sys.executable)
            return stack.enter_context(SshLauncher(far.named, replace(settings, **changes), quiet))

        yield launch


Make = Callable[[int], Path]


@pytest.fixture
def make_artifact(artifact_path: Path) -> Make:
    """Makes an artifact folder with so many bytes of weights; nothing can run it, nothing here does."""

    def make_artifact(size: int) -> Path:
        (artifact_path / "model.onnx.data").write_bytes(os.urandom(size))
        manifest = read_manifest(artifact_path)
        files = {name: sha256_of(artifact_path / name) for name in manifest.files}
        manifest = manifest.model_copy(update={"files": files})
        (artifact_path / "edgeskip.json").write_text(manifest.model_dump_json(), encoding="utf-8")
        return artifact_path

    return make_artifact


@pytest.fixture
def artifact(make_artifact: Make) -> Path:
    return make_artifact(3_000_000)


def quiet(_: str) -> None:
    pass


def request(path: str, target: str, device: str, *, strategy: Strategy = "plain") -> Request:
    return Request(
        path=path,
        cell=Cell(target=target, device=device, provider="cpu", threads=1, strategy=strategy),
        round=2,
        tests=[RandomTest(test="pp", tokens=64, depth=0)],
        prompts=[Prompt(name="short", text="Hello, wörld\n'quoted'")],
        max_tokens=4,
    )


def ours(far: Loopback) -> list[str]:
    """What runs on the other side apart from the connection's own shell."""
    return [command for command in far.running() if "fake_child" in command or "sleep" in command]


def wait_for(true: Callable[[], object], patience_s: float = 20) -> None:
    deadline = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_measures_there(far: Loopback, launch: Open, artifact: Path) -> None:
    launcher = launch(rooflines=(("cpu", 1), ("cpu", 2)))
    device = launcher.device
    assert (device.id, device.type, device.name) == (far.named, "ssh", "a made-up board")
    assert [(r.provider, r.threads) for r in device.rooflines] == [("cpu", 1), ("cpu", 2)]
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
    assert not far.sessions()


def test_a_host_of_ones_own_ssh_configuration(far: Loopback, tmp_path: Path) -> None:
    options = far.options()
    hosts = options.options[0].partition("=")[2]
    (tmp_path / "config").write_text(
        f"Host board\n HostName 127.0.0.1\n Port {far.port}\n IdentityFile {options.identity}\n"
        f" UserKnownHostsFile {hosts}\n RemoteCommand echo hello\n RequestTTY yes\n"
    )
    settings = RemoteSettings(ssh=SshOptions(config=tmp_path / "config"), python=sys.executable)
    with SshLauncher("board", settings, quiet) as launcher:
        assert launcher.device.id == "board"


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


def bytes_sent(launcher: SshLauncher) -> list[int]:
    """Collects the sizes of what is sent of artifacts from now on."""
    sizes: list[int] = []
    ask = launcher._remote.ask

    def spy(command: str, *arguments: Any, **options: Any) -> Any:
        if command == "receive":
            payload = options["payload"]
            options["payload"] = lambda: (sizes.append(len(piece)) or piece for piece in payload())  # type: ignore[func-returns-value]
        return ask(command, *arguments, **options)

    launcher._remote.ask = spy  # type: ignore[method-assign]
    return sizes


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
    monkeypatch.setattr(copying_module, "_TOLD_S", 0.0)
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


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("error", r": no such provider$"),
        ("crash", r": measuring ended with code 1: the last words$"),
        ("memory", r": it was killed by signal 9, SIGKILL \(probably out of memory\)$"),
        ("rubbish", r"answered with something else than asked for \(cell: "),
        ("other", "another cell than the one asked for"),
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
            assert len(ours(far)) == 2  # the check sees them
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
from pathlib import Path
from test_ssh_launcher import SshLauncher, launcher_module, request, RemoteSettings, SshOptions
launcher_module.CHILD = "fake_child"
options = SshOptions(identity=Path({identity!r}), config=Path("/dev/null"), options={options!r})
with SshLauncher({named!r}, RemoteSettings(ssh=options, python=sys.executable), print) as launcher:
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
        SshLauncher(far.named, RemoteSettings(ssh=far.options(**options)), quiet)
    assert "\n" not in str(caught.value)


def test_nothing_listens(far: Loopback) -> None:
    far.stop()
    with pytest.raises(EdgeSkipError, match=r"nothing answers ssh on 127\.0\.0\.1:"):
        SshLauncher(far.named, RemoteSettings(ssh=far.options()), quiet)


def test_no_such_machine(far: Loopback) -> None:
    with pytest.raises(EdgeSkipError, match=r"there is no machine called nowhere\.invalid: check the name"):
        SshLauncher("nowhere.invalid", RemoteSettings(ssh=far.options()), quiet)


def test_no_ssh_here() -> None:
    with pytest.raises(EdgeSkipError, match="install OpenSSH's client"):
        SshLauncher("board", RemoteSettings(ssh=SshOptions(program="no-such-ssh")), quiet)


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
        SshLauncher(far.named, RemoteSettings(ssh=far.options()), quiet)


def test_python_too_old(far: Loopback) -> None:
    only_these(far, python3="echo 3.9")
    with pytest.raises(EdgeSkipError, match=r"has only Python 3\.9: install 3\.11 or newer"):
        SshLauncher(far.named, RemoteSettings(ssh=far.options()), quiet)


def test_the_newer_python_is_found_beside_an_old_one(far: Loopback) -> None:
    only_these(far, python3="echo 3.9", python3_11=f'exec "{sys.executable}" "$@"')
    connection = connection_module.Connection(launcher_module.parse_destination(far.named), far.options())
    try:
        assert launcher_module.find_python(connection) == str(far.folder / "bin" / "python3.11")
    finally:
        connection.close()


def test_the_python_given_is_not_there(far: Loopback) -> None:
    settings = RemoteSettings(ssh=far.options(), python="/nowhere/python3")
    with pytest.raises(EdgeSkipError, match=r"/nowhere/python3 ended with code 127 and no answer: .*[Nn]o such file"):
        SshLauncher(far.named, settings, quiet)


def test_the_python_given_lacks_what_is_needed(far: Loopback, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(empty)], check=True, timeout=120)
    settings = RemoteSettings(ssh=far.options(), python=str(empty / "bin" / "python"))
    with pytest.raises(EdgeSkipError, match=r"lacks .*numpy.*onnxruntime.*: install there with .* -m pip install"):
        SshLauncher(far.named, settings, quiet)


def test_python_that_cannot_make_environments(far: Loopback, tmp_path: Path) -> None:
    folder = hidden(tmp_path / "hidden", "ensurepip")
    only_these(far, python3=f'PYTHONPATH="{folder}" exec "{sys.executable}" "$@"')
    with pytest.raises(EdgeSkipError, match=r"cannot make virtual environments: .*python3-venv.*--remote-python"):
        SshLauncher(far.named, RemoteSettings(ssh=far.options()), quiet)


def test_pip_without_a_network(far: Loopback) -> None:
    far.environment |= {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "0"}
    only_these(far, python3=f'exec "{sys.executable}" "$@"')
    with pytest.raises(EdgeSkipError, match=r"pip cannot reach its package index there: .*--remote-python") as caught:
        SshLauncher(far.named, RemoteSettings(ssh=far.options()), quiet)
    assert "\n" not in str(caught.value)


def test_a_cache_that_cannot_be_made(far: Loopback, launch: Open, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EdgeSkipError, match=r"Not a directory.*/file"):
        launch(cache=str(tmp_path / "file"))


def test_a_cache_elsewhere(launch: Open, artifact: Path, tmp_path: Path) -> None:
    path = launch(cache=str(tmp_path / "elsewhere")).prepare(artifact, quiet)
    assert Path(path).is_relative_to(tmp_path / "elsewhere" / "bench" / "artifacts")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("may not mount a file system of its own here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True, timeout=30)


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


def test_noise_of_a_login_shell_does_not_matter(far: Loopback, launch: Open, artifact: Path) -> None:
    (far.home / ".bashrc").write_text(
        "echo Welcome to the board\necho '{\"kind\": 3}'\necho '{not JSON'\necho >&2 hm\n"
    )
    launcher = launch()
    path = launcher.prepare(artifact, quiet)
    assert launcher.run(request(path, "any", far.named), quiet).round == 2


def exported(checkpoint: Path, folder: Path) -> Path:
    """The tiny model as a dense int4 artifact."""
    from random_profiles import random_profile

    from edgeskip.exporters.export import export_onnx
    from edgeskip.exporters.families.source import open_model
    from edgeskip.exporters.onnx.formats import WeightFormat

    source = open_model(str(checkpoint))
    profile, vectors = random_profile(source, folder.with_suffix(".json"), skip=())
    export_onnx(source, profile, vectors, WeightFormat("int4"), folder)
    return folder


def measured(launcher: SshLauncher, path: str) -> Sample:
    asked = request(path, "any", launcher.device.id).model_copy(
        update={"tests": [RandomTest(test="pp", tokens=16, depth=0), RandomTest(test="tg", tokens=4, depth=8)]}
    )
    return launcher.run(asked, quiet)


def test_the_real_process_measures_a_real_artifact(
    far: Loopback, launch: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_llama: Path
) -> None:
    """Oracle: the answer's tokens are those of a session here."""
    from edgeskip import load

    monkeypatch.setattr(launcher_module, "CHILD", "edgeskip.bench.child")
    folder = exported(tiny_llama, tmp_path / "tiny")
    launcher = launch()
    sample = measured(launcher, launcher.prepare(folder, quiet))
    assert [(test.test, test.tokens, test.depth) for test in sample.tests] == [("pp", 16, 0), ("tg", 4, 8)]
    assert all(test.seconds > 0 for test in sample.tests)
    with load(folder) as session:
        answer = session.generate(request("", "any", "x").prompts[0].text, max_tokens=4)
    assert sample.answers[0].tokens == list(answer.tokens)


def test_a_gguf_file_is_measured_by_llama_cpp_there(
    launch: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("llama_cpp")
    from talking_gguf import talking_gguf

    monkeypatch.setattr(launcher_module, "CHILD", "edgeskip.bench.child")
    file, _ = talking_gguf(tmp_path / "tiny.gguf")
    launcher = launch()
    path = launcher.prepare(file, quiet)
    assert Path(path).name == "tiny.gguf"
    assert Path(path).parent.name == sha256_of(file)
    sample = measured(launcher, path)
    assert sample.ran.engine == "llama.cpp"
    assert len(sample.tests) == 2


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


@pytest.mark.slow
def test_installs_what_is_needed_once_and_measures_with_it(
    far: Loopback, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_llama: Path
) -> None:
    """An environment made by pip on the other side; needs a package index. Oracle: what it says of its progress."""
    monkeypatch.setattr(launcher_module, "CHILD", "edgeskip.bench.child")
    far.environment = {name: os.environ[name] for name in os.environ if name.startswith("PIP_")}
    far.restart()
    folder = exported(tiny_llama, tmp_path / "tiny")
    settings, told = RemoteSettings(ssh=far.options()), []
    with SshLauncher(far.named, settings, told.append) as launcher:
        assert measured(launcher, launcher.prepare(folder, quiet)).ran.engine == "onnxruntime"
    assert any("installing" in message for message in told)
    (environment,) = far.cache.glob("venv-*")
    assert (environment / ".complete").exists()
    told.clear()
    with SshLauncher(far.named, settings, told.append) as launcher:
        assert measured(launcher, launcher.prepare(folder, quiet)).tests
    assert not any("installing" in message for message in told)
