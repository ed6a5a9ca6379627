"""One ssh connection and what goes through it: commands, bytes in, lines out, each with a limit, whatever they mean.

The system's ssh does the work, as the user has it set up. One process holds the connection; commands share it through a
socket in a private folder. It ends when our end of its stdin does, so that it cannot outlive this process.
"""

from __future__ import annotations

import os
import queue
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgeskip.bench.devices.ssh.destination import Destination
from edgeskip.core.errors import EdgeSkipError

CONNECT_S = 15  # until the other side answers
LOGIN_S = 60.0  # until a command runs there
BEAT_S = 10.0  # a byte this often is our sign of life
STALL_S = 60.0  # without a byte taken, what we send is stuck
GRACE_S = 15.0  # for the other side to end what it started
_READY = "edgeskip-connected"
_PIECE = 1 << 16  # bytes written at a time

# After the user's own options, as ssh takes the first value it is given.
_OPTIONS = (
    "BatchMode=yes",
    f"ConnectTimeout={CONNECT_S}",
    "ServerAliveInterval=5",
    "ServerAliveCountMax=4",
    "LogLevel=ERROR",
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "RequestTTY=no",
    "RemoteCommand=none",
    "PermitLocalCommand=no",
)


class ConnectionLostError(EdgeSkipError):
    """The connection broke off, or could not be made again."""


@dataclass(frozen=True)
class SshOptions:
    """Options for ssh, on top of the user's own configuration."""

    identity: Path | None = None  # -i
    config: Path | None = None  # -F
    options: tuple[str, ...] = ()  # -o, e.g. "UserKnownHostsFile=/tmp/hosts"
    program: str = "ssh"


@dataclass(frozen=True)
class CommandResult:
    """How a command ended; `said` is the last of its stderr."""

    code: int
    said: str

    @property
    def last_line(self) -> str:
        return last_line(self.said)


class Connection:
    """Connects when it is first used, and again after it broke."""

    def __init__(self, destination: Destination, options: SshOptions) -> None:
        """Prepare ssh's command line. Raises EdgeSkipError if there is no ssh here."""
        program = shutil.which(options.program)
        if program is None:
            raise EdgeSkipError(f"{options.program} is not installed here; install OpenSSH's client")
        self.destination = destination
        self._folder: str | None = None
        self._known = False  # whether it was ever connected
        self._master: _SshProcess | None = None
        self._base = [program]
        if options.config is not None:
            self._base += ["-F", str(options.config)]
        if options.identity is not None:
            self._base += ["-i", str(options.identity), "-o", "IdentitiesOnly=yes"]
        for option in (*options.options, *_OPTIONS):
            self._base += ["-o", option]

    def execute(
        self,
        command: str,
        on_line: Callable[[str], None],
        *,
        feed: Iterable[bytes] = (),
        limit_s: float,
    ) -> CommandResult:
        """Run `command` in the user's shell there: `feed` goes to its stdin, then a newline now and then.

        `on_line` gets each line of its stdout, without its end. Whatever happens, the command's stdin is closed and it
        has GRACE_S to end before its connection closes.

        Raises:
            EdgeSkipError: After `limit_s`, or if sending is stuck.
            ConnectionLostError: If the connection breaks.
        """
        self._connect()
        argv = [*self._base, "-S", self._socket, "-o", "ControlMaster=no", *self.destination.arguments, command]
        session = _SshProcess(argv, feed)
        deadline = time.monotonic() + limit_s
        try:
            while (line := session.next_line(deadline)) is not None:
                on_line(line)
        except _TimeoutError as error:
            raise EdgeSkipError(f"{self.destination.named}: {error}") from None
        finally:
            code = session.end()
        if session.failure is not None:
            raise session.failure
        if code == 255:  # ssh's own
            self._lose(session.said)
        return CommandResult(code, session.said)

    def close(self) -> None:
        """End the connection; may be called twice."""
        session, self._master = self._master, None
        if session is not None:
            session.end()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    @property
    def _socket(self) -> str:
        assert self._folder is not None
        return f"{self._folder}/s"

    def _lose(self, said: str) -> None:
        self.close()
        reason = last_line(said)
        raise ConnectionLostError(
            f"the connection to {self.destination.named} broke off{f' ({reason})' if reason else ''}: check the "
            "network and that the machine is still up, then run the same command again"
        )

    def _connect(self) -> None:
        if self._master is not None and self._master.runs:
            return
        self.close()
        # A socket's path has at most about 100 bytes.
        self._folder = tempfile.mkdtemp(prefix="edgeskip-", dir="/tmp" if len(tempfile.gettempdir()) > 60 else None)
        argv = [*self._base, "-M", "-S", self._socket, "-o", "ControlPersist=no", *self.destination.arguments]
        self._master = session = _SshProcess([*argv, f"echo {_READY}; cat > /dev/null"], ())
        try:
            deadline = time.monotonic() + LOGIN_S
            while (line := session.next_line(deadline)) is not None:
                if line.strip() == _READY:
                    self._known = True
                    return
        except _TimeoutError:
            self.close()
            named = self.destination.named
            raise EdgeSkipError(
                f"{named} ran no command within {LOGIN_S:.0f} s of logging in; try  ssh {named} true"
            ) from None
        except BaseException:
            self.close()
            raise
        self.close()
        line = explain_ssh_error(self.destination, session.said)
        raise ConnectionLostError(line) if self._known else EdgeSkipError(line)


class _TimeoutError(Exception):
    """One line."""


class _SshProcess:
    """A process with a thread that writes to it and two that read."""

    def __init__(self, argv: list[str], feed: Iterable[bytes]) -> None:
        # The locale, as its errors are parsed; its own session, as Ctrl-C is ours to pass on in order.
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, "LC_ALL": "C"},
            start_new_session=True,
        )
        self.failure: Exception | None = None  # of reading what was to be sent
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._said: deque[str] = deque(maxlen=40)
        self._stop = threading.Event()
        self._sending = True
        self._moved = time.monotonic()
        self._threads = [
            threading.Thread(target=self._hear, daemon=True),
            threading.Thread(target=self._hear_errors, daemon=True),
            threading.Thread(target=self._send, args=(feed,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    @property
    def said(self) -> str:
        return "".join(self._said)

    def next_line(self, deadline: float) -> str | None:
        """Return the next line of stdout, None at its end. _TimeoutError at `deadline` or if sending is stuck."""
        start = time.monotonic()
        while True:
            try:
                return self._lines.get(timeout=min(1.0, max(0.0, deadline - time.monotonic())))
            except queue.Empty:
                now = time.monotonic()
            if now >= deadline:
                raise _TimeoutError(f"no answer in {now - start:.0f} s") from None
            if self._sending and now - self._moved > STALL_S:
                raise _TimeoutError(f"it accepted no data for {STALL_S:.0f} s")

    def end(self) -> int:
        """Close its stdin, give it time to end, then kill it; return its exit code."""
        self._stop.set()
        for signal, patience in ((None, GRACE_S), (self._process.terminate, 5.0), (self._process.kill, None)):
            if signal is not None:
                signal()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
                break
        for thread in self._threads:
            thread.join(1.0)  # what it started may hold the pipes open
        return self._process.returncode

    def _hear(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout, open(self._process.stdout.fileno(), "rb", closefd=False) as lines:
            for line in lines:
                self._lines.put(line.decode("utf-8", "replace").rstrip("\r\n"))
        self._lines.put(None)

    def _hear_errors(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr, open(self._process.stderr.fileno(), "rb", closefd=False) as lines:
            for line in lines:
                self._said.append(line.decode("utf-8", "replace"))

    def _send(self, feed: Iterable[bytes]) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        with suppress(BrokenPipeError), stdin:
            chunks = iter(feed)
            while (chunk := self._next(chunks)) and not self._stop.is_set():
                view = memoryview(chunk)
                while view and not self._stop.is_set():
                    view = view[stdin.write(view[:_PIECE]) :]
                    self._moved = time.monotonic()
            self._sending = False
            while self.failure is None and not self._stop.wait(BEAT_S):
                stdin.write(b"\n")
        self._sending = False

    def _next(self, chunks: Iterator[bytes]) -> bytes:
        try:
            return next(chunks, b"")
        except (OSError, EdgeSkipError) as error:  # raised by the thread that waits
            self.failure = error
            return b""


# Searched for in this order; {host} is the machine as the user named it, {target} the host and port that ssh tried.
_SSH_ERRORS = (
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED",
        "the host key of {host} has changed: it is another machine, or set up anew; if you trust it, forget the old "
        "key with  ssh-keygen -R '{target}'",
    ),
    (
        r"Host key verification failed|host key is known for",
        "the host key of {host} is not known here: connect once with  ssh {host}  and confirm it",
    ),
    (
        r"Permission denied|Too many authentication failures|no mutual signature|No more authentication methods",
        "{host} refuses the login: set up a key that needs no typing (ssh-copy-id, ssh-agent), or name one with an "
        "identity file; passwords are not asked for",
    ),
    (r"Could not resolve hostname", "there is no machine called {host}: check the name and the network"),
    (r"Connection refused", "nothing answers ssh on {host}: start its ssh server, or give the right port"),
    (
        r"(Connection|Operation) timed out|No route to host|Network is unreachable|Host is down",
        "{host} cannot be reached: is it switched on and in this network?",
    ),
)


def explain_ssh_error(destination: Destination, said: str) -> str:
    """Return what ssh's whole stderr `said` means, as one line that says what to do."""
    port = "" if destination.port is None else f":{destination.port}"
    target = f"[{destination.host}]{port}" if port else destination.host
    for pattern, line in _SSH_ERRORS:
        if re.search(pattern, said):
            return line.format(host=destination.named, target=target)
    return f"ssh cannot connect to {destination.named}: {last_line(said) or 'it says nothing'}"


def last_line(said: str) -> str:
    """Return the last line that is not blank."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1][:500] if lines else ""
