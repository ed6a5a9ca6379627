"""Runs the product's own commands as a user does: what the scripts measure is what a user gets."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from edgeskip.core.errors import EdgeSkipError


def edgeskip(*arguments: str | Path) -> None:
    """`python -m edgeskip ARGUMENTS` in a process of its own; what it prints goes to stderr."""
    command = [sys.executable, "-m", "edgeskip", *map(str, arguments)]
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode:
        raise EdgeSkipError(f"edgeskip {' '.join(map(str, arguments))} failed; see its output above")


def model_folder(model: str, work: Path) -> Path:
    """Return the folder for what is made of `model`: by name and fingerprint, so that other weights never meet it."""
    from edgeskip.models.source import open_model

    source = open_model(model)
    return work / "models" / f"{source.name}-{source.fingerprint[:12]}"


def calibrated(model: str, profile: Path, *, corpus: Sequence[str | Path] = (), tokens: int = 16384) -> Path:
    """Calibrate `model` and write its profile, without a plan.

    `corpus` empty = the text that ships with EdgeSkip; more of calibrate's options may follow it. Only the prefill
    phase is measured: plans need no more.
    """
    profile.parent.mkdir(parents=True, exist_ok=True)
    options = ("--tokens", str(tokens), "--decode-tokens", "0")
    edgeskip("calibrate", model, "-o", profile, "--overwrite", *(("--corpus", *corpus) if corpus else ()), *options)
    return profile


def planned(profile: Path | str, target: Path, *, skip_sublayers: int, compensation: str = "affine") -> Path:
    """Return a copy of `profile` at `target` whose plan skips that many of the most similar sublayers; 0 = dense."""
    target.parent.mkdir(parents=True, exist_ok=True)
    skip = ("--skip-sublayers", str(skip_sublayers), "--compensation", compensation)
    edgeskip("plan", profile, *skip, "-o", target, "--overwrite")
    return target


def exported(model: str, profile: Path, folder: Path, *, precision: str, arguments: Sequence[str] = ()) -> Path:
    """Return the artifact of `profile` in `folder`, replaced if it exists; `arguments` are more of export's own."""
    options = ("--precision", precision, "--overwrite", *arguments)
    edgeskip("export", profile, "--model", model, "-o", folder, *options)
    return folder


def delete_artifact(path: Path) -> None:
    """Remove a folder or a file."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
