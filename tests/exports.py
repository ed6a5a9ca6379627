"""Exports of one target with few words, for tests that need an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeskip.artifacts.manifest import Manifest
from edgeskip.exporters.gguf.formats import GgufFormat
from edgeskip.exporters.gguf.target import GgufTarget
from edgeskip.exporters.job import ExportResult, export_job
from edgeskip.exporters.onnx.formats import WeightFormat
from edgeskip.exporters.onnx.target import OnnxTarget
from edgeskip.exporters.pipeline import run_job
from edgeskip.models.source import ModelSource
from edgeskip.profiles.schema import Profile
from edgeskip.profiles.vectors import Vectors


def export_onnx(
    source: ModelSource, profile: Profile, vectors: Vectors | None, form: WeightFormat, folder: Path, **options: Any
) -> Manifest:
    """`options`: draft, online, policy, step."""
    (result,) = run_job(OnnxTarget(form), export_job(source, profile, vectors, folder, **options))
    assert isinstance(result.manifest, Manifest)
    return result.manifest


def export_gguf(
    source: ModelSource, profile: Profile, vectors: Vectors | None, form: GgufFormat, output: Path, **options: Any
) -> list[ExportResult]:
    return run_job(GgufTarget(form=form), export_job(source, profile, vectors, output, **options))


def refuse_gguf(
    source: ModelSource, profile: Profile, vectors: Vectors | None, form: GgufFormat, output: Path, **options: Any
) -> None:
    """What is refused before any work."""
    GgufTarget(form=form).prepare(export_job(source, profile, vectors, output, **options))
