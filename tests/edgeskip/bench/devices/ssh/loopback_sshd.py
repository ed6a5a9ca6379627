"""A real sshd on this machine's loopback, with keys and a home of its own: the other side of the ssh tests."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edgeskip.bench.devices.ssh.connection import SshOptions

SSHD = shutil.which("sshd") or ("/usr/sbin/sshd" if Path("/usr/sbin/sshd").exists() else None)


@dataclass
class Loopback:
    """`home`: HOME on the other side; `environment`: what sshd sets besides, as it is when `start` is called."""

    folder: Path
    port: int
    home: Path
    environment: dict[str, str] = field(default_factory=dict)
    server: subprocess.Popen[bytes] | None = None

    @property
    def named(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def cache(self) -> Path:
        return self.home / ".cache" / "edgeskip" / "bench"

    def options(self, *, identity: str = "client", hosts: str = "known_hosts") -> SshOptions:
        """With this server's host key and a client's key; nothing of the user's own configuration."""
        return SshOptions(
            identity=self.folder / identity,
            config=Path(os.devnull),
            options=(f"UserKnownHostsFile={self.folder / hosts}", "StrictHostKeyChecking=yes"),
        )

    def start(self) -> None:
        settings = {"HOME": str(self.home), **self.environment}
        (self.folder / "sshd_config").write_text(
            f"""Port {self.port}
ListenAddress 127.0.0.1
HostKey {self.folder}/host
AuthorizedKeysFile {self.folder}/authorized_keys
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
SetEnv {" ".join(f'{name}="{value}"' for name, value in settings.items())}
"""
        )
        assert SSHD is not None
        with (self.folder / "sshd.log").open("ab") as log:
            argv = [SSHD, "-D", "-e", "-f", str(self.folder / "sshd_config")]
            self.server = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=log, stdout=log)
        deadline = time.monotonic() + 20
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as greeted:
                if greeted.recv(4) == b"SSH-":
                    return
            if self.server.poll() is not None or time.monotonic() > deadline:
                pytest.skip("sshd does not start here: " + (self.folder / "sshd.log").read_text()[-300:].strip())
            time.sleep(0.05)

    def restart(self) -> None:
        self.stop()
        self.start()

    def sessions(self) -> list[int]:
        """Process ids of the server's open connections."""
        assert self.server is not None
        return _children(self.server.pid)

    def wait_until_no_session(self, patience_s: float = 15) -> None:
        """The server sees the end of a connection a moment after the client made it."""
        deadline = time.monotonic() + patience_s
        while sessions := self.sessions():
            assert time.monotonic() < deadline, sessions
            time.sleep(0.05)

    def cut(self) -> None:
        """Kills every connection, as if the line broke; the server goes on."""
        for session in self.sessions():
            for process in [*_children(session), session]:
                if "sshd" in _command(process):
                    with suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)

    def stop(self) -> None:
        if self.server is not None:
            self.cut()
            self.server.terminate()
            self.server.wait(20)
            self.server = None

    def running(self) -> list[str]:
        """Command lines of the processes whose home is the other side's, sshd's own left out."""
        found = []
        for folder in Path("/proc").iterdir():
            with suppress(OSError):
                if folder.name.isdigit() and f"HOME={self.home}".encode() in (folder / "environ").read_bytes().split(
                    b"\0"
                ):
                    found.append(_command(int(folder.name)))
        return [command for command in found if command and "sshd" not in command]

    def wait_until_nothing_runs(self, patience_s: float = 15) -> None:
        deadline = time.monotonic() + patience_s
        while running := self.running():
            assert time.monotonic() < deadline, running
            time.sleep(0.1)


def make(folder: Path) -> Loopback:
    """Keys, a home and a free port; not started."""
    if SSHD is None or shutil.which("ssh") is None or shutil.which("ssh-keygen") is None:
        pytest.skip("needs OpenSSH's server and client")
    if not Path("/proc/self/environ").exists():
        pytest.skip("looks for left-over processes in /proc")
    if os.geteuid() == 0:  # sshd wants it, and Debian makes it only when its service starts
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    for name in ("host", "other_host", "client", "stranger"):
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(argv, check=True, timeout=30)
    port = _free_port()
    (folder / "authorized_keys").write_text((folder / "client.pub").read_text())
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "wrong_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'other_host.pub').read_text()}")
    (folder / "no_hosts").write_text("")
    home = folder / "home"
    home.mkdir()
    return Loopback(folder, port, home)


def _free_port() -> int:
    """One that nothing else gets by asking for any port, as the server's stays the same while it is restarted."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for port in random.sample(range(10_000, max(first, 10_100)), 100):
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    pytest.skip("no port below the ephemeral ones is free here")


def _children(parent: int) -> list[int]:
    found: list[int] = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError, ValueError, IndexError):
            if folder.name.isdigit() and int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(folder.name))
    return found


def _command(process: int) -> str:
    with suppress(OSError):
        return (Path("/proc") / str(process) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""
