"""What this EdgeSkip asks for and what is installed: reads package metadata, imports none of the packages."""

from __future__ import annotations

import importlib.metadata
import re
from dataclasses import dataclass

# Distributions that provide the module `onnxruntime`; installing two of them overwrites one with the other.
ONNXRUNTIME_BUILDS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-qnn",
    "onnxruntime-rocm",
    "onnxruntime-migraphx",
)
# Optional packages that come with another one rather than by name.
_BROUGHT_BY = {"huggingface-hub": "transformers"}


@dataclass(frozen=True)
class Requirement:
    """One package EdgeSkip declares; `extra` is None for the base install, `installed` for a package not there."""

    package: str
    specifier: str
    extra: str | None
    installed: str | None
    satisfied: bool


def distribution_name(name: str) -> str:
    """Distribution name in its canonical spelling: `onnx_ir` → `onnx-ir`."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed_version(package: str) -> str | None:
    """Version of an installed distribution, None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def requirements() -> tuple[Requirement, ...]:
    """Return everything that EdgeSkip's own metadata declares, in its order.

    Empty if the metadata is not installed.
    """
    from packaging.requirements import Requirement as Declared

    try:
        distribution = importlib.metadata.distribution("edgeskip")
    except importlib.metadata.PackageNotFoundError:
        return ()
    extras = distribution.metadata.get_all("Provides-Extra") or []
    found: list[Requirement] = []
    for declared in map(Declared, distribution.requires or []):
        if distribution_name(declared.name) == "edgeskip":
            continue  # dev = edgeskip[export,plot] + tools: its parts are listed on their own
        if declared.marker is None or declared.marker.evaluate({"extra": ""}):
            extra = None
        else:
            extra = next((e for e in extras if declared.marker.evaluate({"extra": e})), None)
            if extra is None:
                continue  # for another platform
        version = installed_version(declared.name)
        satisfied = version is not None and declared.specifier.contains(version, prereleases=True)
        found.append(Requirement(declared.name, str(declared.specifier), extra, version, satisfied))
    return tuple(found)


def extra_of(module: str) -> str | None:
    """Return the extra that brings the importable top-level `module`; None if no extra does."""
    name = distribution_name(module)
    name = _BROUGHT_BY.get(name, name)
    return next((r.extra for r in requirements() if r.extra and distribution_name(r.package) == name), None)


def onnxruntime_builds() -> dict[str, str]:
    """Installed distributions that provide `onnxruntime` → version; more than one is a conflict."""
    versions = {build: installed_version(build) for build in ONNXRUNTIME_BUILDS}
    return {build: version for build, version in versions.items() if version is not None}
