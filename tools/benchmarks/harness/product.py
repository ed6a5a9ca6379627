"""Runs the product's own verbs the way a user does: what the tools here measure is what a user would get."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from edgeskip.core.errors import EdgeSkipError


def edgeskip(*arguments: str | Path) -> None:
    """`python -m edgeskip ARGUMENTS` in a process of its own; what it prints goes to stderr."""
    command = [sys.executable, "-m", "edgeskip", *map(str, arguments)]
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode:
        raise EdgeSkipError(f"edgeskip {' '.join(map(str, arguments))} failed: its own words are above")


def model_folder(model: str, work: Path) -> Path:
    """Where what is made of `model` is kept: by name and fingerprint, so that other weights never meet it."""
    from edgeskip.models.source import open_model

    source = open_model(model)
    return work / "models" / f"{source.name}-{source.fingerprint[:12]}"


def calibrated(model: str, profile: Path, *, corpus: Sequence[Path] = (), tokens: int = 16384) -> Path:
    """Calibrates `model` anew and writes its profile, without a plan.

    `corpus` empty = the text that ships with EdgeSkip. Only the prefill phase is measured: plans need no more.
    """
    profile.parent.mkdir(parents=True, exist_ok=True)
    files = [part for file in corpus for part in ("--corpus", str(file))]
    edgeskip("calibrate", model, "-o", profile, "--overwrite", "--tokens", str(tokens), "--decode-tokens", "0", *files)
    return profile


def planned(profile: Path | str, target: Path, *, skip_sublayers: int, compensation: str = "affine") -> Path:
    """A copy of `profile` at `target` whose plan skips that many of the most similar sublayers; 0 = dense."""
    count = str(skip_sublayers)
    target.parent.mkdir(parents=True, exist_ok=True)
    edgeskip("plan", profile, "--skip-sublayers", count, "--compensation", compensation, "-o", target, "--overwrite")
    return target


def exported(model: str, profile: Path, folder: Path, *, precision: str, arguments: Sequence[str] = ()) -> Path:
    """The artifact of `profile` in `folder`, replaced where it exists; `arguments` are more of export's own."""
    edgeskip(
        *("export", "--model", model, "--profile", profile, "-o", folder),
        *("--precision", precision, "--overwrite", *arguments),
    )
    return folder
