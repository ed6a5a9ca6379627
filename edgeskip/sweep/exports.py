"""The artifacts a sweep measures, exported to a scratch folder, and the best of them written into the profile."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.locks import claim
from edgeskip.models.profile_source import source_of
from edgeskip.planning.planner import skipped_of
from edgeskip.profiles.schema import SpeculationRecord, read_profile, write_profile
from edgeskip.profiles.vectors import read_vectors

if TYPE_CHECKING:
    from edgeskip.profiles.schema import Profile
    from edgeskip.sweep.run import SweepGrid, SweepPoint


class Exports:
    """Exports early-exit artifacts of one profile, one target and precision. EdgeSkipError for options that do not fit.

    The artifacts are not compared with the torch model: that is `edgeskip export`'s, once the setting is chosen.
    """

    def __init__(self, path: Path, profile: Profile, model: str | None, target: str, precision: str | None) -> None:
        from edgeskip.exporters.gguf.formats import format_for
        from edgeskip.exporters.onnx.formats import weight_format
        from edgeskip.exporters.options import parse_targets

        precisions = parse_targets(target, precision)
        if len(precisions) > 1:
            raise EdgeSkipError("a sweep is for one --target: onnx or gguf")
        self._path, self._profile, self._target = path, profile, target
        self._vectors = read_vectors(profile, path)
        self._source = source_of(profile, path, model)
        self._onnx = weight_format(precisions["onnx"] or "fp32") if "onnx" in precisions else None
        self._gguf = format_for(self._source, precisions["gguf"]) if "gguf" in precisions else None

    @property
    def precision(self) -> str:
        form = self._onnx.precision if self._onnx else self._gguf.name if self._gguf else ""
        return str(form)

    @property
    def writable(self) -> bool:
        """Whether the profile is the user's own: one that ships with EdgeSkip is not changed."""
        from edgeskip.profiles.presets import ready_profiles

        return all(not self._path.samefile(ready) for ready in ready_profiles().values())

    def check(self, grid: SweepGrid) -> None:
        """Raise EdgeSkipError if an artifact of the grid cannot be, before the first one is exported."""
        from edgeskip.exporters.draft import draft_tokens
        from edgeskip.exporters.options import DraftRequest, resolve_draft
        from edgeskip.runtime.engines.onnxruntime.attention_limits import refuse_head_size

        if self._onnx is not None:
            refuse_head_size(self._source.decoder, skipped_of(self._profile))
        for layer, vocabulary in grid.artifacts:
            try:
                resolve_draft(DraftRequest("early-exit", (layer,), vocabulary), self._profile)
            except EdgeSkipError as error:
                line = str(error).replace("--exit-layer ", "--exit-layers ")  # export's is called otherwise
                raise EdgeSkipError(line) from None
        for vocabulary in grid.vocabularies:
            draft_tokens(self._source, self._vectors, vocabulary)

    def export(self, exit_layer: int, vocabulary: int | None, folder: Path) -> Path:
        """Writes one artifact below `folder` and returns what `edgeskip.load` takes."""
        from edgeskip.exporters.gguf.target import GgufTarget
        from edgeskip.exporters.job import export_job
        from edgeskip.exporters.onnx.target import OnnxTarget
        from edgeskip.exporters.options import DraftRequest, ExportPolicy, resolve_draft
        from edgeskip.exporters.pipeline import run_job

        asked = DraftRequest("early-exit", (exit_layer,), vocabulary)
        # All tokens are meant if no number is given, even for an exit that was trained for some.
        draft = replace(resolve_draft(asked, self._profile), vocabulary=vocabulary)
        output = folder if self._onnx is None else folder / "artifact"
        target = GgufTarget(form=self._gguf) if self._onnx is None else OnnxTarget(self._onnx)
        policy = ExportPolicy(check=False)
        job = export_job(self._source, self._profile, self._vectors, output, draft=draft, policy=policy)
        return run_job(target, job)[0].path

    def write_best(self, best: SweepPoint, threads: int | None, provider: str) -> None:
        """Put the setting into the profile's file."""
        from edgeskip.core.machine import this_machine
        from edgeskip.runtime.engines.threads import threads_or_default

        record = SpeculationRecord(
            exit_layer=best.exit_layer,
            num_speculations=best.num_speculations,
            draft_vocab=best.draft_vocab,
            target=self._target,
            precision=self.precision,
            speedup=best.speedup,
            acceptance=best.acceptance,
            machine=f"{this_machine().processor}, {provider}, {threads_or_default(threads)} threads",
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        with claim(self._path):  # and read again: it may have got another plan meanwhile
            write_profile(read_profile(self._path).model_copy(update={"speculation": record}), self._path)
