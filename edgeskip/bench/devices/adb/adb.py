"""Android's `adb` as a program: which phone, commands in its shell, files pushed. Nothing of benchmarks."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from edgeskip.core.errors import EdgeSkipError

ANSWER_S = 60.0  # of what needs no long work
_EXIT = "edgeskip-exit"
_LOST = re.compile(r"device '.*' not found|no devices/emulators found|device offline|error: closed|device unauthorized")
_STATES = {
    "unauthorized": "does not trust this computer yet: unlock it and allow USB debugging when it asks",
    "offline": "is offline: unplug it and plug it in again, or restart adb with  adb kill-server",
    "authorizing": "is still connecting: try again",
    "connecting": "is still connecting: try again",
    "recovery": "is in recovery mode: start Android",
    "sideload": "is in sideload mode: start Android",
    "bootloader": "is in its bootloader: start Android",
}


class AdbLostError(EdgeSkipError):
    """The phone went away in the middle."""


class AdbTimeoutError(EdgeSkipError):
    """No answer in the time given."""


@dataclass(frozen=True)
class ShellResult:
    """Of a command in the phone's shell: `out` without its exit code; `said` is its stderr, which Android 6 adds to
    `out`."""

    code: int
    out: str
    said: str

    @property
    def last_line(self) -> str:
        return _last_line(self.said if self.said.strip() else self.out)


class Adb:
    """One phone."""

    def __init__(self, program: str = "adb", serial: str | None = None) -> None:
        """Choose the phone. Raises EdgeSkipError if there is no adb, or not exactly one phone that is ready."""
        found = shutil.which(program)
        if found is None:
            raise EdgeSkipError(f"{program} is not installed here; install Android's platform tools, or give its path")
        self._base = [found]
        self.serial = self._choose(serial)
        self._base += ["-s", self.serial]

    def shell(self, command: str, *, limit_s: float = ANSWER_S) -> ShellResult:
        """Run `command` in the phone's shell.

        Raises: AdbLostError if the phone disconnects; AdbTimeoutError after `limit_s`, when the command may still run.
        """
        # Older adb does not pass exit codes on.
        done = self._run(["shell", f"{command}; echo {_EXIT} $?"], limit_s)
        out, mark, code = done.stdout.rpartition(_EXIT)
        if not mark or not code.strip().isdigit():
            raise AdbLostError(
                f"the phone {self.serial} went away ({_last_line(done.stderr or done.stdout)}): check its cable, then "
                "run the same command again"
            )
        return ShellResult(int(code), out, done.stderr)

    def push(self, path: Path, remote: str, *, limit_s: float) -> None:
        """Copy a file to the phone. EdgeSkipError says why it cannot."""
        done = self._run(["push", str(path), remote], limit_s)
        if done.returncode:
            said = done.stderr + done.stdout
            if "No space left" in said:
                raise EdgeSkipError(f"the phone has no room for {path.name} in {remote.rpartition('/')[0]}: free some")
            if _LOST.search(said):
                raise AdbLostError(f"the phone {self.serial} went away while {path.name} was copied: check its cable")
            raise EdgeSkipError(f"cannot copy {path.name} to the phone: {_last_line(said)}")

    def _choose(self, wanted: str | None) -> str:
        done = self._run(["devices"], ANSWER_S)
        if done.returncode:
            raise EdgeSkipError(f"adb cannot list phones: {_last_line(done.stderr or done.stdout)}")
        _, _, listed = done.stdout.partition("List of devices attached")
        phones = {}
        for line in listed.splitlines():
            serial, _, state = line.strip().partition("\t")
            if state and not serial.startswith("*"):
                phones[serial.strip()] = state.strip()
        if not phones:
            raise EdgeSkipError("no phone is connected: plug one in and allow USB debugging (developer options)")
        if wanted is None and len(phones) > 1:
            raise EdgeSkipError(f"several phones are connected, choose one by its serial number: {', '.join(phones)}")
        serial = wanted or next(iter(phones))
        if serial not in phones:
            raise EdgeSkipError(f"no phone {serial} is connected; there are: {', '.join(phones)}")
        state = phones[serial]
        if state != "device":
            if state.startswith("no permissions"):
                state, why = "no permissions", "may not be used by this user: see Android's udev rules for Linux"
            else:
                why = _STATES.get(state, f"is in state {state!r}: start Android and allow USB debugging")
            raise EdgeSkipError(f"the phone {serial} {why}")
        return serial

    def _run(self, arguments: list[str], limit_s: float) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                [*self._base, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                encoding="utf-8",
                errors="replace",
                timeout=limit_s,
                start_new_session=True,  # Ctrl-C is ours
            )
        except subprocess.TimeoutExpired:
            raise AdbTimeoutError(f"adb {arguments[0]} gave no answer in {limit_s:.0f} s and was stopped") from None
        except OSError as error:
            raise EdgeSkipError(f"cannot run {self._base[0]} ({error.strerror}): give the path of adb") from None


def _last_line(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it says nothing"
