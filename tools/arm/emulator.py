"""QEMU's user mode for 64-bit Arm, and the plugin that counts instructions.

A program there is a process here: it sees this machine's files, those of the Arm system before them, and its own
/proc/cpuinfo, by which ONNX Runtime picks its kernels (without one it crashes on an x86's).
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from arm.commands import UnavailableError, output_of, required, run
from arm.system import unpack
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import staged_folder

PROGRAMS = ("qemu-aarch64", "qemu-aarch64-static")
PLUGIN_SOURCE = Path(__file__).parent / "count_instructions.c"
# A Raspberry Pi 5's core, and many a phone's: int8 dot products (asimddp), no int8 matrix products (i8mm), no SVE.
PROCESSOR = "cortex-a76"
CPUINFO = """\
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: 0xd0b
CPU revision\t: 1
"""
DOWNLOAD_S = 600.0


@dataclass(frozen=True)
class Emulator:
    """`libraries` is where a downloaded QEMU's own are, None for an installed one; `plugin` counts instructions."""

    program: Path
    libraries: Path | None
    plugin: Path | None
    no_plugin: str  # why there is none; "" if there is one

    def run(
        self,
        system: Path,
        program: Path,
        arguments: Sequence[str | Path],
        *,
        variables: dict[str, str],
        stdin: str = "",
        counts: Path | None = None,
        limit_s: float,
    ) -> subprocess.CompletedProcess[str]:
        """Run an Arm program to its end, with `variables` in its environment and no other of ours that matters.

        `counts`: where the plugin writes. Raises EdgeSkipError if it takes more than `limit_s` seconds.
        """
        command: list[str | Path] = [*self._nicely(), self.program, "-cpu", PROCESSOR, "-L", system]
        if counts is not None:
            if self.plugin is None:
                raise EdgeSkipError(self.no_plugin)
            command += ["-plugin", f"{self.plugin},out={counts}"]
        command += ["-U", "LD_LIBRARY_PATH", "-U", "LD_PRELOAD"]
        for name, value in variables.items():
            command += ["-E", f"{name}={value}"]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | self._environment()
        try:
            return run([*command, program, *arguments], limit_s=limit_s, stdin=stdin, environment=environment)
        except subprocess.TimeoutExpired:
            raise EdgeSkipError(
                f"the emulated program did not end within {limit_s:.0f} s: give it less to do"
            ) from None

    def _environment(self) -> dict[str, str]:
        return {} if self.libraries is None else {"LD_LIBRARY_PATH": str(self.libraries)}

    @staticmethod
    def _nicely() -> list[str | Path]:
        return ["nice", "-n", "15"] if shutil.which("nice") else []


def find_emulator(into: Path) -> Emulator:
    """Return a QEMU that takes plugins, else any: installed, else Debian's qemu-user, downloaded with apt and not
    installed.

    UnavailableError if there is none. The plugin is compiled with the C compiler here.
    """
    installed = [Path(found) for name in PROGRAMS if (found := shutil.which(name))]
    for program in installed:
        if takes_plugins(program, None):
            return _with_plugin(program, None, into)
    try:
        program, libraries = _downloaded(into)
    except UnavailableError as error:
        if not installed:
            raise UnavailableError(f"there is no qemu-aarch64 (apt-get install qemu-user), and {error}") from None
        return Emulator(installed[0], None, None, f"{installed[0]} takes no plugins, and {error}")
    if takes_plugins(program, libraries):
        return _with_plugin(program, libraries, into)
    return Emulator(program, libraries, None, f"{program} takes no plugins: instructions cannot be counted with it")


def takes_plugins(program: Path, libraries: Path | None) -> bool:
    """Return whether this QEMU can load a plugin; a statically linked one cannot."""
    return any(line.startswith("-plugin") for line in _said(program, libraries, "-help").splitlines())


def plugin_version(program: Path, libraries: Path | None) -> int:
    """Return the number of the plugin interface that this QEMU accepts."""
    found = re.search(r"version (\d+)\.", _said(program, libraries, "-version"))
    if found is None:
        raise EdgeSkipError(f"{program} does not say which version it is: is it QEMU?")
    return 1 if int(found[1]) < 9 else 2


@functools.cache
def _said(program: Path, libraries: Path | None, option: str) -> str:
    environment = os.environ | ({} if libraries is None else {"LD_LIBRARY_PATH": str(libraries)})
    try:
        done = run([program, option], limit_s=30.0, environment=environment)
    except subprocess.TimeoutExpired:
        raise EdgeSkipError(f"{program} {option} does not end: is it QEMU?") from None
    return done.stdout


def _with_plugin(program: Path, libraries: Path | None, into: Path) -> Emulator:
    try:
        plugin = compiled_plugin(into, plugin_version(program, libraries))
    except EdgeSkipError as error:
        return Emulator(program, libraries, None, str(error))
    return Emulator(program, libraries, plugin, "")


def compiled_plugin(into: Path, version: int) -> Path:
    """Return the counting plugin as a shared library for an interface `version`, kept in `into`."""
    key = hashlib.sha256(PLUGIN_SOURCE.read_bytes()).hexdigest()[:16]
    library = into / f"count_instructions-{key}-{version}.so"
    if library.exists():
        return library
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise EdgeSkipError("counting instructions needs a C compiler; on Debian: apt-get install gcc")
    options = ["-O2", "-shared", "-fPIC", "-fvisibility=hidden", f"-DPLUGIN_VERSION={version}"]
    with tempfile.TemporaryDirectory(prefix=".plugin.", dir=into) as folder:
        made = Path(folder) / library.name
        output_of([compiler, *options, PLUGIN_SOURCE, "-o", made], limit_s=120.0, log=into / "plugin.log")
        made.replace(library)
    return library


def _downloaded(into: Path) -> tuple[Path, Path]:
    """Debian's dynamically linked QEMU and the folder of those of its libraries that are not installed here."""
    folder = into / "qemu"
    if not folder.exists():
        print("downloading Debian's qemu-user (13 MB, once; not installed)", file=sys.stderr)
        apt = required("apt-get", "apt")
        archives = into / "download-qemu"
        (archives / "partial").mkdir(parents=True, exist_ok=True)
        options = ["-y", "-q", "--download-only", "--no-install-recommends", "-o", "Debug::NoLocking=1"]
        command = [apt, "install", *options, "-o", f"Dir::Cache::archives={archives.resolve()}", "qemu-user"]
        output_of(command, limit_s=DOWNLOAD_S, log=into / "apt.log", fetches=True)
        found = sorted(archives.glob("*.deb"))
        if not any(path.name.startswith("qemu-user_") for path in found):
            raise UnavailableError(f"apt-get brought no qemu-user: see {into / 'apt.log'}")
        with staged_folder(folder, overwrite=False) as staging:
            unpack(found, staging)
        shutil.rmtree(archives)
    libraries = sorted((folder / "usr" / "lib").glob("*-linux-gnu*"))
    return folder / "usr" / "bin" / PROGRAMS[0], libraries[0] if libraries else folder / "usr" / "lib"
