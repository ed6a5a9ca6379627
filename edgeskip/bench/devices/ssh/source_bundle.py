"""EdgeSkip itself as the remote machine needs it: its installed sources as one zip archive, and what they need."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

from edgeskip.core.errors import EdgeSkipError

# Wherever they lie (an editable install has them in other folders), they are imported under these names.
_PACKAGES = ("edgeskip", "edgeskip.exporters", "edgeskip.models", "edgeskip.runtime")
_ENDINGS = {".py", ".txt", ".json", ".jsonl", ".typed"}  # not the ready profiles' vectors: megabytes that no run reads
_IMPORTED_BY = {"llama-cpp-python": "llama_cpp"}
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # the same bytes every time


@dataclass(frozen=True)
class SourceBundle:
    """`key`: hex digest of what is in the archive."""

    archive: bytes
    key: str


def bundle_sources() -> SourceBundle:
    """Bundle all modules and data files of the installed package, under the names they are imported by."""
    files: dict[str, bytes] = {}
    for package in _PACKAGES:
        module = importlib.import_module(package)
        for folder in map(Path, module.__path__):
            for path in sorted(folder.rglob("*")):
                if path.suffix in _ENDINGS and "__pycache__" not in path.parts and path.is_file():
                    files[f"{package.replace('.', '/')}/{path.relative_to(folder).as_posix()}"] = path.read_bytes()
    metadata = _distribution().read_text("METADATA") or ""
    files[f"edgeskip-{_distribution().version}.dist-info/METADATA"] = metadata.encode()
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name, _ZIP_TIME), files[name], zipfile.ZIP_DEFLATED)
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{len(files[name])}\0".encode() + files[name])
    return SourceBundle(written.getvalue(), digest.hexdigest()[:24])


def requirements(extra: str = "") -> list[str]:
    """Return what the base install needs, or what `extra` adds, for pip; markers are left to the other side's pip."""
    found = []
    for line in _distribution().requires or []:
        requirement = Requirement(line)
        for_extra = requirement.marker is not None and "extra" in str(requirement.marker)
        if not for_extra and not extra:
            found.append(line)
        elif for_extra and extra and requirement.marker is not None and requirement.marker.evaluate({"extra": extra}):
            found.append(f"{requirement.name}{requirement.specifier}")
    return found


def import_names(needed: list[str]) -> list[str]:
    """Return the module names of these requirements: nearly all of ours are the distribution's."""
    names = [Requirement(line).name for line in needed]
    return [_IMPORTED_BY.get(name, name.replace("-", "_")) for name in names]


def _distribution() -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution("edgeskip")
    except importlib.metadata.PackageNotFoundError:
        raise EdgeSkipError("EdgeSkip runs from its sources without being installed: pip install it") from None
