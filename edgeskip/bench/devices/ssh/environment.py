"""What a round needs on the remote machine before any artifact: EdgeSkip's sources and a Python with what they need.

Both are kept in the remote cache, under names that depend on their contents; nothing is copied twice.
"""

from __future__ import annotations

import hashlib
import shlex
from collections import deque
from dataclasses import dataclass

from edgeskip.bench.devices.ssh.machine import RemoteMachine
from edgeskip.bench.devices.ssh.source_bundle import bundle_sources, import_names, requirements
from edgeskip.bench.runner.launcher import StatusCallback
from edgeskip.core.errors import EdgeSkipError

INSTALL_S = 1800.0  # wheels over a slow line, onto a slow card
COMPILE_S = 7200.0  # llama.cpp on a small board
ROOM_BYTES = 500_000_000  # an environment takes about 300 MB, and pip needs some to unpack
_UNREACHABLE = (
    "NewConnectionError", "ConnectTimeoutError", "Temporary failure in name resolution", "Network is unreachable",
    "Connection refused", "Max retries exceeded", "Name or service not known",
)  # fmt: skip


@dataclass(frozen=True)
class RemoteEnvironment:
    """`python` has what the sources in the folder `code` need."""

    python: str
    code: str
    own: bool  # made by us, so that more can be installed into it


def prepare_environment(
    remote: RemoteMachine, facts: dict[str, object], *, given: bool, progress: StatusCallback
) -> RemoteEnvironment:
    """Send the sources and prepare a Python. `given`: the remote's own is only checked, never changed."""
    code = _send_code(remote, str(facts["cache"]), progress)
    needed = requirements()
    if given:
        missing = _missing(remote, remote.python, needed, progress)
        if missing:
            raise EdgeSkipError(
                f"{remote.named}: {remote.python} lacks {', '.join(missing)}: install there with  {remote.python} -m "
                f"pip install {shlex.join(needed)}"
            )
        return RemoteEnvironment(remote.python, code, own=False)
    key = hashlib.sha256("\n".join([remote.python, str(facts["python"]), *needed]).encode()).hexdigest()[:16]
    folder = f"{facts['cache']}/venv-{key}"
    mark = f"{folder}/.complete"
    if not remote.ask("exists", progress, path=mark)["exists"]:
        if not facts["can_make_venv"]:
            raise EdgeSkipError(
                f"{remote.named}: {remote.python} cannot make virtual environments: install its venv module there "
                "(apt install python3-venv), or name a Python that has what is needed with --remote-python"
            )
        _check_room(remote, facts)
        progress(f"{remote.named}: installing {', '.join(import_names(needed))} (once)")
        made = shlex.join([remote.python, "-m", "venv", folder])
        steps = f"rm -rf {shlex.quote(folder)} && {made} && {_pip(folder, needed)} && : > {shlex.quote(mark)}"
        _install(remote, steps, mark, needed, INSTALL_S, progress)
    return RemoteEnvironment(f"{folder}/bin/python", code, own=True)


def add_llama_cpp(remote: RemoteMachine, environment: RemoteEnvironment, progress: StatusCallback) -> None:
    """Install llama-cpp-python, which GGUF files need, if it is missing; in our own environment only."""
    needed = requirements("llamacpp")
    if not _missing(remote, environment.python, needed, progress):
        return
    if not environment.own:
        raise EdgeSkipError(
            f"{remote.named}: {environment.python} lacks llama.cpp, which GGUF files need: install there with  "
            f"{environment.python} -m pip install {shlex.join(needed)}"
        )
    folder = environment.python.removesuffix("/bin/python")
    progress(f"{remote.named}: installing llama-cpp-python (once; compiles for minutes if there is no wheel)")
    mark = f"{folder}/.complete-llamacpp"
    # The flags are those for the compiler and the processor there.
    module = "edgeskip.runtime.engines.llamacpp.build"
    flags = f"PYTHONPATH={shlex.quote(environment.code)} {shlex.quote(environment.python)} -m {module}"
    steps = f'CMAKE_ARGS="$({flags})" {_pip(folder, needed)} && : > {shlex.quote(mark)}'
    _install(remote, steps, mark, needed, COMPILE_S, progress)


def _send_code(remote: RemoteMachine, cache: str, progress: StatusCallback) -> str:
    sources = bundle_sources()
    folder = f"{cache}/code-{sources.key}"
    if not remote.ask("exists", progress, path=folder)["exists"]:
        progress(f"{remote.named}: copying EdgeSkip itself")
        digest = hashlib.sha256(sources.archive).hexdigest()
        size = len(sources.archive)
        remote.ask("unpack", progress, payload=lambda: [sources.archive], folder=folder, size=size, sha256=digest)
    return folder


def _missing(remote: RemoteMachine, python: str, needed: list[str], progress: StatusCallback) -> list[str]:
    answer = remote.ask("missing", progress, python=python, modules=import_names(needed))
    return [str(name) for name in answer["missing"]]


def _check_room(remote: RemoteMachine, facts: dict[str, object]) -> None:
    free = facts["free_bytes"]
    if isinstance(free, int) and free < ROOM_BYTES:
        raise EdgeSkipError(
            f"{remote.named} has {free / 1e6:.0f} MB free in {facts['cache']}, installing what is needed takes "
            f"{ROOM_BYTES / 1e6:.0f} MB: free some, or choose another folder with --remote-cache"
        )


def _pip(folder: str, needed: list[str]) -> str:
    options = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off", "--prefer-binary"]
    patience = ["--timeout", "20", "--retries", "2"]
    return shlex.join([f"{folder}/bin/python", "-m", "pip", "install", *options, *patience, *needed])


def _install(
    remote: RemoteMachine, steps: str, mark: str, needed: list[str], limit_s: float, progress: StatusCallback
) -> None:
    """Run the shell's `steps`, the last of which makes the file `mark`; one installs, others wait for it."""
    lines: deque[str] = deque(maxlen=200)

    def keep(line: str) -> None:
        lines.append(line)
        word = line.split(" ", 1)[0]
        if word in {"Collecting", "Building", "Installing"}:
            progress(f"{remote.named}: {line.strip()[:100]}")

    argv = ["sh", "-c", f"exec 2>&1; test -e {shlex.quote(mark)} || {{ {steps}; }}"]
    lock = f"{mark.rpartition('/venv-')[0]}/.install"
    answer = remote.run(argv, progress, on_line=keep, limit_s=limit_s, lock=lock)
    if answer["code"]:
        raise EdgeSkipError(_pip_error(remote, list(lines), needed))


def _pip_error(remote: RemoteMachine, lines: list[str], needed: list[str]) -> str:
    todo = f"install {shlex.join(needed)} for a Python there and name it with --remote-python"
    if any(word in line for line in lines for word in _UNREACHABLE):
        return f"{remote.named}: pip cannot reach its package index there: give it a network, or {todo}"
    errors = [line.strip() for line in lines if line.lower().lstrip().startswith(("error", "fatal"))]
    said = (errors or lines or ["it says nothing"])[-1]
    return f"{remote.named}: what is needed cannot be installed there ({said[:300]}): fix that, or {todo}"
