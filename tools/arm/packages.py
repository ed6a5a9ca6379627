"""Python packages for the Arm machine: what EdgeSkip's base install needs, in this machine's versions, and EdgeSkip."""

from __future__ import annotations

import hashlib
import io
import shutil
import sys
import zipfile
from pathlib import Path

from arm.commands import output_of
from edgeskip.bench.devices.ssh.source_bundle import bundle_sources
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import staged_folder
from edgeskip.core.requirements import onnxruntime_builds, requirements

INSTALL_S = 1800.0
# The glibc versions that wheels are built for; every Debian in support is newer.
PLATFORMS = ("manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in range(17, 37)))


def pins() -> list[str]:
    """Return the base install's requirements in the versions installed here, so that both sides run the same ones."""
    base = [requirement for requirement in requirements() if requirement.extra is None]
    if not base:
        raise EdgeSkipError("EdgeSkip runs from its sources without being installed: pip install it")
    found = []
    for requirement in base:
        version = requirement.installed
        if requirement.package == "onnxruntime" and version is None:  # another build of it is installed
            version = next(iter(onnxruntime_builds().values()), None)
        found.append(
            f"{requirement.package}=={version}" if version else f"{requirement.package}{requirement.specifier}"
        )
    return found


def installed_packages(into: Path, python: str, wanted: list[str]) -> Path:
    """Return a folder with the aarch64 wheels of `wanted` for Python `python` (`3.11`), by pip and its index
    settings."""
    key = hashlib.sha256("\n".join([python, *wanted]).encode()).hexdigest()[:16]
    folder = into / f"packages-{key}"
    if folder.exists():
        return folder
    print(f"installing {', '.join(wanted)} for aarch64", file=sys.stderr)
    platforms = [part for name in PLATFORMS for part in ("--platform", name)]
    options = ["--python-version", python, "--implementation", "cp", "--only-binary=:all:", "--no-compile", "-q"]
    patience = ["--no-input", "--disable-pip-version-check", "--timeout", "20", "--retries", "2"]
    with staged_folder(folder, overwrite=False) as staging:
        pip = [sys.executable, "-m", "pip", "install", "--target", str(staging), *options, *platforms, *patience]
        output_of([*pip, *wanted], limit_s=INSTALL_S, log=into / "pip.log", fetches=True)
    return folder


def own_code(into: Path) -> Path:
    """Return a folder with EdgeSkip as it is here and now, under its import names.

    Those of earlier states are removed.
    """
    sources = bundle_sources()
    folder = into / f"code-{sources.key}"
    if not folder.exists():
        for old in into.glob("code-*"):
            shutil.rmtree(old)
        with staged_folder(folder, overwrite=False) as staging, zipfile.ZipFile(io.BytesIO(sources.archive)) as archive:
            archive.extractall(staging)
    return folder
