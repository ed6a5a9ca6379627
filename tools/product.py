"""Runs the product's own verbs the way a user does: what the tools here measure is what a user would get."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from edgeskip.errors import EdgeSkipError
from edgeskip.plan import Compensation


def edgeskip(*arguments: str | Path) -> None:
    """`python -m edgeskip ARGUMENTS` in a process of its own; what it prints goes to stderr."""
    command = [sys.executable, "-m", "edgeskip", *map(str, arguments)]
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode:
        raise EdgeSkipError(f"edgeskip {' '.join(map(str, arguments))} failed: its own words are above")


def calibrated(model: str, profile: Path, *, corpus: Sequence[Path] = (), tokens: int = 16384) -> Path:
    """A profile of `model` at `profile`, without a plan; made only where it is not there yet.

    `corpus` empty = the text that ships with EdgeSkip. Only the prefill phase is measured: plans need no more.
    """
    if not profile.exists():
        profile.parent.mkdir(parents=True, exist_ok=True)
        chosen = [part for file in corpus for part in ("--corpus", str(file))]
        edgeskip("calibrate", model, "-o", profile, "--tokens", str(tokens), "--decode-tokens", "0", *chosen)
    return profile


def planned(profile: Path, target: Path, *, skip_sublayers: int, compensation: Compensation = "affine") -> Path:
    """A copy of `profile` at `target` whose plan skips that many of the most similar sublayers; 0 = dense."""
    count = str(skip_sublayers)
    edgeskip("plan", profile, "--skip-sublayers", count, "--compensation", compensation, "-o", target, "--overwrite")
    return target


def exported(profile: Path, folder: Path, *, precision: str, arguments: Sequence[str] = ()) -> Path:
    """The artifact of `profile` in `folder`, replaced where it exists; `arguments` are more of export's own."""
    edgeskip("export", "--profile", profile, "-o", folder, "--precision", precision, "--overwrite", *arguments)
    return folder
