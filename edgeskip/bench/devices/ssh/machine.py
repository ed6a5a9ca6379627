"""The remote machine as the launcher sees it: the Python found on it, the agent spoken to, its answers."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from edgeskip.bench.devices.ssh.connection import CommandResult, Connection
from edgeskip.bench.runner.launcher import StatusCallback
from edgeskip.core.errors import EdgeSkipError

OLDEST_PYTHON = (3, 11)
ANSWER_S = 120.0  # of what needs no long work
_WAIT_S = 120.0  # for another's lock, and for the process to end
_SEARCHED = "looked for python"
# Found in this order. $HOME/.local/bin: a login shell has it on its path, this one may not.
_FIND_PYTHON = f"""PATH="$PATH:$HOME/.local/bin"
for name in python3 python3.14 python3.13 python3.12 python3.11; do
  found=$(command -v "$name") || continue
  version=$("$found" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null </dev/null) || continue
  echo "python $version $found"
done
echo "{_SEARCHED}"
exit 0
"""
_BOOT = "import sys;exec(sys.stdin.buffer.read(int(sys.argv[1])))"  # without quotes that some shell could mind


class RemoteMachine:
    """`python` runs the agent."""

    def __init__(self, connection: Connection, python: str) -> None:
        self.connection = connection
        self.python = python
        self.named = connection.destination.named
        self._agent = Path(__file__).with_name("agent.py").read_bytes()

    def ask(
        self,
        command: str,
        progress: StatusCallback,
        *,
        payload: Callable[[], Iterable[bytes]] = tuple,
        limit_s: float = ANSWER_S,
        on_line: Callable[[str], None] | None = None,
        python: str | None = None,
        **header: Any,
    ) -> dict[str, Any]:
        """Return the agent's answer to a command (see agent.py), which may take `limit_s`.

        `on_line` gets the lines that are not the agent's: those of the process that it runs. EdgeSkipError with what
        the agent cannot do; ConnectionLostError.
        """
        last: dict[str, Any] = {}

        def take(line: str) -> None:
            nonlocal last
            record = _agent_record(line)
            if record is None:
                if on_line is not None and line.strip():
                    on_line(line)
            elif record["kind"] == "progress":
                progress(str(record["message"]))
            elif last.get("kind") != "error":  # of the process that it runs, before its own answer
                last = record

        def feed() -> Iterator[bytes]:
            yield self._agent
            yield json.dumps({"command": command, **header}).encode() + b"\n"
            yield from payload()

        shell = shlex.join([python or self.python, "-P", "-c", _BOOT, str(len(self._agent))])
        ended = self.connection.execute(shell, take, feed=feed(), limit_s=limit_s)
        return self._result(last, ended)

    def run(
        self,
        argv: list[str],
        progress: StatusCallback,
        *,
        on_line: Callable[[str], None],
        limit_s: float,
        cwd: str = "/",
        path: str = "",
        stdin: str = "",
        lock: str | None = None,
    ) -> dict[str, Any]:
        """Run a process there for at most `limit_s`; return its `code` and the last line it `said` on stderr.

        It is gone, with whatever it started, when this ends, however it ends. `path`: where Python looks first for
        modules. `lock`: file of those that wait for each other. Raises EdgeSkipError if it took too long or was
        killed, or said so itself in a line of kind `error`.
        """
        return self.ask(
            "run",
            progress,
            on_line=on_line,
            limit_s=limit_s + _WAIT_S,  # the limit is the agent's, which ends the process in order
            argv=argv,
            cwd=cwd,
            path=path,
            seconds=limit_s,
            stdin=stdin,
            lock=lock,
        )

    def _result(self, last: dict[str, Any], ended: CommandResult) -> dict[str, Any]:
        if last.get("kind") == "error":
            raise EdgeSkipError(f"{self.named}: {last['message']}")
        if not last:
            raise EdgeSkipError(
                f"{self.named}: {self.python} ended with code {ended.code} and no answer: "
                f"{ended.last_line or 'it says nothing'}"
            )
        return {**last, "said": ended.last_line}


def find_python(connection: Connection) -> str:
    """Return the path of the first Python that is new enough. Raises EdgeSkipError if there is none."""
    found: list[tuple[tuple[int, ...], str]] = []
    looked = False

    def take(line: str) -> None:
        nonlocal looked
        looked = looked or line.strip() == _SEARCHED
        word, _, rest = line.strip().partition(" ")
        version, _, path = rest.partition(" ")
        if word == "python" and path and version.replace(".", "").isdigit():
            found.append((tuple(int(number) for number in version.split(".")), path))

    ended = connection.execute("sh", take, feed=[_FIND_PYTHON.encode()], limit_s=ANSWER_S)
    named = connection.destination.named
    if not looked:
        raise EdgeSkipError(f"{named} has no POSIX shell to run things with: {ended.last_line or 'it says nothing'}")
    wanted = ".".join(str(number) for number in OLDEST_PYTHON)
    for version, path in found:
        if version >= OLDEST_PYTHON:
            return path
    if found:
        newest = ".".join(str(number) for number in max(found)[0])
        raise EdgeSkipError(
            f"{named} has only Python {newest}: install {wanted} or newer there, or name one with --remote-python"
        )
    raise EdgeSkipError(f"{named} has no Python: install {wanted} or newer there, or name one with --remote-python")


def _agent_record(line: str) -> dict[str, Any] | None:
    """Return the line's record if the agent or the worker wrote it."""
    if not line.startswith("{"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if record.get("kind") in {"progress", "answer", "error"} else None
