"""An Arm machine on this one: makes what the thin runtime needs to run under emulation, and runs Python there.

    python tools/arm_root.py                             makes it, and says what is there
    python tools/arm_root.py -m edgeskip run FOLDER …    Python there, with EdgeSkip as it is here
    python tools/arm_root.py --counts FILE -c PROGRAM    also counts the instructions executed (see arm/emulator.py)

Debian's files for arm64 and aarch64 wheels of the base install, in the versions installed here, unpacked into a folder
of the user's cache; QEMU's user mode runs them. No privileges, no chroot, nothing installed. Needs Debian (its apt,
debootstrap, dpkg), pip, 600 MB and a minute; a second call starts at once, an interrupted one goes on.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from arm.emulator import CPUINFO, PROCESSOR, Emulator, find_emulator
from arm.packages import installed_packages, own_code, pins
from arm.system import Mirror, debian_files, python_in, python_version, write_processors

from edgeskip.core.child_exit import how_it_ended
from edgeskip.core.errors import EdgeSkipError

RUN_S = 3600.0
WHAT = "import platform, onnxruntime; print(platform.machine(), platform.python_version(), onnxruntime.__version__)"


@dataclass(frozen=True)
class Arm:
    """The emulated machine. `paths` are what its Python imports from, EdgeSkip's folder last."""

    emulator: Emulator
    system: Path
    paths: tuple[Path, ...]

    def python(
        self, arguments: Sequence[str | Path], *, stdin: str = "", counts: Path | None = None, limit_s: float = RUN_S
    ) -> subprocess.CompletedProcess[str]:
        """Run `python ARGUMENTS` there to its end, the exit code left to the caller. `counts`: see Emulator.run."""
        variables = {
            "PYTHONHOME": str(self.system / "usr"),
            "PYTHONPATH": os.pathsep.join(map(str, self.paths)),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONSAFEPATH": "1",  # a checkout in the working folder is not the package
            "PYTHONHASHSEED": "0",  # the same instructions every time
        }
        return self.emulator.run(
            self.system,
            python_in(self.system),
            arguments,
            variables=variables,
            stdin=stdin,
            counts=counts,
            limit_s=limit_s,
        )


def make(into: Path, mirror: Mirror | None = None) -> Arm:
    """Return the Arm machine in the folder `into`, made if it is not there yet; checked to be one.

    Raises EdgeSkipError if a program is missing, nothing can be fetched, or what was made does not run.
    """
    from filelock import FileLock

    into = into.resolve()
    into.mkdir(parents=True, exist_ok=True)
    with FileLock(into / ".lock"):
        emulator = find_emulator(into)
        system = debian_files(into, mirror)
        write_processors(system, CPUINFO, os.cpu_count() or 1)
        packages = installed_packages(into, python_version(system), pins())
        arm = Arm(emulator, system, (packages, own_code(into)))
        checked = packages / ".checked"
        if not checked.exists():
            said = what_runs(arm)
            if said.split()[:1] != ["aarch64"]:
                raise EdgeSkipError(
                    f"{into} should be an aarch64 machine and says it is {said}: delete it and try again"
                )
            checked.write_text(said, encoding="utf-8")
    return arm


def what_runs(arm: Arm) -> str:
    """`aarch64 3.11.2 1.31.1`: machine, Python, onnxruntime, as they say there; raises EdgeSkipError if they crash."""
    done = arm.python(["-c", WHAT], limit_s=120.0)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        how = how_it_ended(done.returncode)
        raise EdgeSkipError(f"onnxruntime does not start under {arm.emulator.program}, it {how}: {last}")
    return done.stdout.strip()


def default_folder() -> Path:
    from edgeskip.models.fetch import cache_folder

    return cache_folder() / "arm"


def arm_root(
    arguments: Annotated[
        list[str] | None, typer.Argument(help="For Python there.  [default: say what is there]")
    ] = None,
    into: Annotated[Path | None, typer.Option(help="Folder to make it in.  [default: the user's cache]")] = None,
    counts: Annotated[Path | None, typer.Option(help="File for the number of instructions executed.")] = None,
    mirror: Annotated[str, typer.Option(help="Debian mirror's address.  [default: apt's own]")] = "",
    suite: Annotated[str, typer.Option(help="Debian release, with --mirror.")] = "",
) -> None:
    """Make an emulated Arm machine with the thin runtime, and run Python there."""
    if bool(mirror) != bool(suite):
        raise EdgeSkipError("--mirror and --suite go together: give both or neither")
    arm = make(into or default_folder(), Mirror(mirror, suite) if mirror else None)
    if not arguments:
        machine, python, onnxruntime = what_runs(arm).split()
        print(f"{machine} ({PROCESSOR}), Python {python}, onnxruntime {onnxruntime}")
        print(f"system    {arm.system}")
        print(f"emulator  {arm.emulator.program}")
        print(f"counting  {arm.emulator.plugin or arm.emulator.no_plugin}")
        return
    done = arm.python(arguments, counts=counts.resolve() if counts else None)
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    raise typer.Exit(done.returncode if done.returncode >= 0 else 1)


if __name__ == "__main__":
    try:
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command(context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True})(arm_root)
        app()
    except EdgeSkipError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
