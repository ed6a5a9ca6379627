"""Debian's files for 64-bit Arm in a folder: Python and the libraries below it, unpacked, never run as a system.

Needs no privileges: packages are downloaded and checked by debootstrap, and unpacked by dpkg-deb. Nothing is
configured, which programs that are started by their path do not notice.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from arm.commands import UnavailableError, output_of, required
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import staged_folder

PACKAGES = ("python3", "libstdc++6", "libgomp1")  # beside Debian's smallest set
DOWNLOAD_S = 1800.0  # 110 packages, 40 MB
UNPACK_S = 120.0  # one package
_MERGED = ("bin", "lib", "sbin")  # links into usr, as on every Debian of today


@dataclass(frozen=True)
class Mirror:
    """Where Debian's packages come from (an address that debootstrap takes) and which release."""

    address: str
    suite: str


def own_mirror() -> Mirror:
    """Return the mirror that this machine's apt is configured with; UnavailableError if it is not Debian's."""
    fields = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(LABEL)"
    listing = output_of(
        [required("apt-get", "apt"), "indextargets", "--format", fields, "Created-By: Packages"], limit_s=60.0
    )
    return mirror_in(listing)


def mirror_in(listing: str) -> Mirror:
    """Return the main archive of a release among apt's sources, lines of address|release|component|label."""
    for line in listing.splitlines():
        address, release, component, label = (*line.split("|"), "", "", "")[:4]
        if label == "Debian" and component == "main" and "-" not in release:  # not bookworm-updates
            return Mirror(address.rstrip("/"), release)
    raise UnavailableError(
        "apt on this machine names no Debian mirror (has apt-get update run?): give one with --mirror and --suite"
    )


def debian_files(into: Path, mirror: Mirror | None = None) -> Path:
    """Return the folder of the unpacked system, made if it is not there yet; an interrupted download goes on.

    `mirror` None = what is there, else this machine's own.
    """
    if mirror is None:
        there = sorted(into.glob("debian-*"))
        if there:
            return there[0]
        mirror = own_mirror()
    system = into / f"debian-{mirror.suite}"
    if system.exists():
        return system
    archives = _downloaded(into, mirror)
    print(f"unpacking {len(archives)} packages", file=sys.stderr)
    with staged_folder(system, overwrite=False) as staging:
        unpack(archives, staging)
        python_in(staging)
    shutil.rmtree(into / f"download-{mirror.suite}")
    return system


def unpack(archives: list[Path], folder: Path) -> None:
    """The files of .deb archives, all into one folder, the links of a merged /usr kept."""
    for name in _MERGED:
        (folder / "usr" / name).mkdir(parents=True, exist_ok=True)
        if not (folder / name).exists():
            (folder / name).symlink_to(f"usr/{name}")
    dpkg, tar = required("dpkg-deb", "dpkg"), required("tar", "tar")
    extract = [tar, "-x", "-C", str(folder), "--keep-directory-symlink", "--no-same-owner", "--exclude=./dev/*"]
    for archive in archives:
        with subprocess.Popen([dpkg, "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE) as reading:
            done = subprocess.run(
                extract, stdin=reading.stdout, capture_output=True, text=True, timeout=UNPACK_S, check=False
            )
        if reading.returncode or done.returncode:
            why = done.stderr.strip().splitlines()[:1] or ["dpkg-deb failed"]
            raise EdgeSkipError(f"{archive} cannot be unpacked ({why[0]}): delete it and run this again")


def python_in(system: Path) -> Path:
    """Return the system's interpreter, e.g. usr/bin/python3.11."""
    link = system / "usr" / "bin" / "python3"
    if not link.is_symlink():
        raise EdgeSkipError(f"{system} holds no python3: delete it and run this again")
    return link.with_name(Path(link.readlink()).name)


def python_version(system: Path) -> str:
    """`3.11`."""
    return python_in(system).name.removeprefix("python")


def write_processors(system: Path, cpuinfo: str, count: int) -> None:
    """What programs there read as /proc/cpuinfo: `count` processors, `cpuinfo` being the lines of one."""
    (system / "proc").mkdir(exist_ok=True)
    text = "".join(f"processor\t: {number}\n{cpuinfo}\n" for number in range(count))
    file = system / "proc" / "cpuinfo"
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        file.write_text(text, encoding="utf-8")


def _downloaded(into: Path, mirror: Mirror) -> list[Path]:
    if platform.system() != "Linux":
        raise UnavailableError(f"QEMU's user mode runs Linux programs on Linux, and this is {platform.system()}")
    folder = into / f"download-{mirror.suite}"
    folder.mkdir(parents=True, exist_ok=True)
    print(f"downloading Debian {mirror.suite} for arm64 (40 MB, once)", file=sys.stderr)
    options = ["--download-only", "--arch=arm64", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
    command = [required("debootstrap", "debootstrap"), *options, mirror.suite, str(folder.resolve()), mirror.address]
    output_of(command, limit_s=DOWNLOAD_S, log=into / "debootstrap.log", fetches=True)
    return sorted((folder / "var" / "cache" / "apt" / "archives").glob("*.deb"))
