"""The facts `edgeskip doctor` shows: versions, providers, the machine, what is missing and how to fix it."""

from __future__ import annotations

import dataclasses
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeskip.core.machine import Machine, this_machine
from edgeskip.core.requirements import Requirement, installed_version, onnxruntime_builds, requirements
from edgeskip.core.version import __version__

PYTORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
_RELATED = ("onnxruntime-genai", "optimum-onnx")  # not ours, but worth a line when there


@dataclass(frozen=True)
class Finding:
    """Something missing or wrong, and the command that fixes it; `blocking` if the base install cannot work."""

    problem: str
    command: str
    blocking: bool


@dataclass(frozen=True)
class Diagnosis:
    versions: dict[str, str | None]  # package → version, None = not installed
    providers: tuple[str, ...]  # ONNX Runtime execution providers this build offers
    machine: Machine
    llamacpp: str  # the result of its self-test
    cache: str
    fetched: dict[str, tuple[str, ...]]  # model name → its weights in the cache: GGUF file, hub folder
    findings: tuple[Finding, ...]

    def as_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "ok": not any(finding.blocking for finding in self.findings)}


def diagnose() -> Diagnosis:
    """Collect the facts without importing anything heavier than onnxruntime."""
    machine = this_machine()
    declared = requirements()
    builds = onnxruntime_builds()
    providers, broken = _providers()
    versions: dict[str, str | None] = {"edgeskip": __version__, "python": platform.python_version()}
    versions |= {r.package: r.installed for r in declared if r.extra not in {"gpu", "dev"}}
    versions |= builds
    versions |= {package: version for package in _RELATED if (version := installed_version(package)) is not None}
    findings = [*_find_onnxruntime(builds, broken, machine, providers), *_find_missing(declared, builds, machine)]
    llamacpp, broken_llamacpp = _llamacpp()
    findings += [*(_find_crashes() if providers else ()), *broken_llamacpp]
    findings += _find_leftovers()
    cache, fetched = _fetched_models()
    return Diagnosis(versions, providers, machine, llamacpp, cache, fetched, tuple(findings))


def _providers() -> tuple[tuple[str, ...], str | None]:
    try:
        import onnxruntime

        return tuple(onnxruntime.get_available_providers()), None
    except Exception as error:  # a broken install fails in many ways, and the user should see each
        return (), " ".join(f"{type(error).__name__}: {error}".split())


def _find_onnxruntime(
    builds: dict[str, str], broken: str | None, machine: Machine, providers: tuple[str, ...]
) -> list[Finding]:
    if len(builds) > 1:
        keep = next(build for build in builds if build != "onnxruntime")
        both = " and ".join(builds)
        return [
            Finding(
                f"{both} are both installed and overwrite each other's files; keep one",
                f"pip uninstall -y {' '.join(builds)} && pip install {keep}",
                blocking=True,
            )
        ]
    if broken is not None:
        command = f"pip install --force-reinstall {next(iter(builds), 'onnxruntime')}"
        return [Finding(f"onnxruntime does not load ({broken})", command, blocking=True)]
    if machine.gpus and "CUDAExecutionProvider" not in providers:
        return [
            Finding(
                "this machine has an NVIDIA GPU, but this ONNX Runtime has no CUDA provider",
                "pip uninstall -y onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'",
                blocking=False,
            )
        ]
    return []


def _find_missing(declared: tuple[Requirement, ...], builds: dict[str, str], machine: Machine) -> list[Finding]:
    from edgeskip.profiles.presets import presets_folder
    from edgeskip.runtime.engines.llamacpp.build import advise_here, install_command

    findings: list[Finding] = []
    for extra in (None, "export", "plot", "eval", "presets", "llamacpp"):
        missing = [
            requirement
            for requirement in declared
            if requirement.extra == extra
            and not requirement.satisfied
            and not (requirement.package == "onnxruntime" and builds)  # another build replaces it
        ]
        if not missing or (extra == "presets" and presets_folder() is not None):  # a checkout contains them
            continue
        names = ", ".join(
            f"{r.package} ({r.installed}, needs {r.specifier})" if r.installed else r.package for r in missing
        )
        if extra is None:
            packages = " ".join(f"'{r.package}{r.specifier}'" for r in missing)
            findings.append(Finding(f"the base install lacks {names}", f"pip install {packages}", blocking=True))
            continue
        command = f"pip install 'edgeskip[{extra}]'"
        if extra == "llamacpp":
            command = install_command(advise_here(), "edgeskip[llamacpp]")
        if any(r.package == "torch" for r in missing) and _plain_torch_is_cuda(machine):
            command = f"pip install torch --index-url {PYTORCH_CPU_INDEX} && {command}"
        purpose = {
            "export": "calibrate and export need",
            "plot": "inspect --plot needs",
            "eval": "eval needs",
            "presets": "presets need",
            "llamacpp": "run FILE.gguf needs",
        }[extra]
        findings.append(Finding(f"{purpose} {names}", command, blocking=False))
    return findings


def _find_crashes() -> list[Finding]:
    """Return the installed providers that crash the process that opens them, or compute wrong numbers."""
    from edgeskip.core.errors import EdgeSkipError
    from edgeskip.runtime.engines.onnxruntime.providers import PROVIDERS, self_test_provider

    findings = []
    for name in PROVIDERS:
        try:
            self_test_provider(name)
        except EdgeSkipError as error:
            problem, _, remedy = str(error).rpartition(": ")
            findings.append(Finding(problem, remedy, blocking=False))
    return findings


def _llamacpp() -> tuple[str, list[Finding]]:
    """Return the result of llama.cpp's self-test, run now if it never passed, and a finding if it fails."""
    from edgeskip.core.errors import EdgeSkipError
    from edgeskip.runtime.engines.llamacpp.self_test import describe, library_files, rebuild, self_test

    try:
        answer = self_test(again=True)
    except EdgeSkipError as error:
        return str(error), []
    if answer is None:
        return "not tested: no process can be started" if library_files() else "not installed", []
    if not answer:
        return "self-test passed: every weight type that an export writes, one row and several", []
    problem, command = describe(answer), rebuild(answer)
    return "self-test failed, see below", [Finding(problem, command, blocking=False)]


def _find_leftovers() -> list[Finding]:
    """Return what killed processes left in the current folder."""
    from edgeskip.core.leftovers import leftovers_in

    return [
        Finding(
            f"an interrupted process left {leftover.folder.name} ({leftover.size / 1e6:.0f} MB) here"
            + (f", the old {leftover.target.name}" if leftover.is_old else ""),
            f"make {leftover.target.name} again, which removes it, or remove the folder",
            blocking=False,
        )
        for leftover in leftovers_in(Path())
    ]


def _plain_torch_is_cuda(machine: Machine) -> bool:
    """Return whether a plain `pip install torch` brings gigabytes of CUDA libraries that no GPU here can use."""
    return sys.platform == "linux" and not machine.gpus


def _fetched_models() -> tuple[str, dict[str, tuple[str, ...]]]:
    from edgeskip.models.fetch import cache_folder
    from edgeskip.profiles.registry import READY_MODELS

    cache = cache_folder()
    fetched: dict[str, tuple[str, ...]] = {}
    for name, model in READY_MODELS.items():
        places = (cache / "models" / name / Path(model.member).name, cache / "models" / name / "hub")
        fetched[name] = tuple(str(place) for place in places if place.exists())
    return str(cache), fetched
