"""One export: what goes in, what comes out, and what a target has to provide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from edgeskip.exporters.options import DEFAULT_POLICY, ExportPolicy
from edgeskip.planning.planner import resolve

if TYPE_CHECKING:
    from pathlib import Path

    from edgeskip.artifacts.gguf.manifest import GgufManifest
    from edgeskip.artifacts.manifest import Manifest
    from edgeskip.core.plan import Plan
    from edgeskip.exporters.options import DraftRequest, OnlineRequest
    from edgeskip.models.source import ModelSource
    from edgeskip.profiles.schema import Profile
    from edgeskip.profiles.vectors import Vectors

StepCallback = Callable[[str], None]
"""Called with the name of each step of a lowering as it begins: a sublayer, `head`, `check`."""


def no_step(name: str) -> None:
    """Ignore the step: the default of `StepCallback` parameters."""


@dataclass(frozen=True)
class ExportJob:
    """Everything that the export to one target depends on, opened and resolved.

    Attributes:
        source: The model.
        profile: Its profile; made for the same weights.
        vectors: The arrays beside the profile, None if it has none.
        plan: The profile's plan with the numbers of every skip; dense if the profile has no plan.
        output: Where the target writes: a folder or a file.
        draft: What the artifact drafts with, settled by the profile (`options.resolve_draft`); None for no draft.
        online: What is skipped online; None for nothing.
        policy: How the result is checked and what it may replace.
        step: Called with the name of each step.
    """

    source: ModelSource
    profile: Profile
    vectors: Vectors | None
    plan: Plan
    output: Path
    draft: DraftRequest | None = None
    online: OnlineRequest | None = None
    policy: ExportPolicy = DEFAULT_POLICY
    step: StepCallback = no_step


def export_job(
    source: ModelSource,
    profile: Profile,
    vectors: Vectors | None,
    output: Path,
    *,
    draft: DraftRequest | None = None,
    online: OnlineRequest | None = None,
    policy: ExportPolicy = DEFAULT_POLICY,
    step: StepCallback = no_step,
) -> ExportJob:
    """Return the job for a profile, its plan resolved.

    Raises:
        EdgeSkipError: If the plan needs vectors that the profile does not have.
    """
    return ExportJob(source, profile, vectors, resolve(profile, vectors), output, draft, online, policy, step)


@dataclass(frozen=True)
class ExportResult:
    """An artifact that was written.

    Attributes:
        target: The target's name: `onnx` or `gguf`.
        path: The folder of an ONNX artifact, or one GGUF file. A pair of GGUF files gives two results.
        manifest: What the artifact records about itself.
        architecture: llama.cpp's architecture of a GGUF file, None for other targets.
    """

    target: str
    path: Path
    manifest: Manifest | GgufManifest
    architecture: str | None = None


Staged = TypeVar("Staged")
Record = TypeVar("Record")


class Lowering(Protocol[Staged, Record]):
    """One export under way: the plan is baked, nothing is written yet.

    `Staged` is where the files are written before they appear under their names, `Record` what is known of them.
    """

    @property
    def paths(self) -> Sequence[Path]:
        """What the export writes, to be claimed before the work."""

    @property
    def steps(self) -> int:
        """Number of steps that the job's callback is called with."""

    def staged(self) -> AbstractContextManager[Staged]:
        """Return a context that gives a place to write to and, if it ends well, moves what is there to `paths`.

        Raises:
            EdgeSkipError: If an output exists and may not be replaced.
        """

    def write(self, staged: Staged) -> Record:
        """Lower to files, with a manifest that records that they are not checked."""

    def check(self, staged: Staged, record: Record) -> Record:
        """Compare with the torch model and return the record with what was measured.

        Raises:
            EdgeSkipError: If the artifact does not match and the policy does not allow that.
        """

    def seal(self, staged: Staged, record: Record) -> None:
        """Put the checked record into the files."""

    def results(self, record: Record) -> list[ExportResult]:
        """Return what was written."""


class ExportTarget(Protocol):
    """A kind of artifact. A folder of this package implements it; `pipeline.targets_of` lists them."""

    @property
    def name(self) -> str:
        """The word for it on the command line."""

    def place(self, output: Path, policy: ExportPolicy, *, alone: bool) -> Path:
        """Return where below `output` the target writes, before anything is opened.

        Args:
            output: What the user names.
            policy: What may be replaced.
            alone: Whether no other target writes to the same output.

        Raises:
            EdgeSkipError: If it cannot write there.
        """

    def prepare(self, job: ExportJob) -> Lowering[Any, Any]:
        """Bake the plan, and refuse what cannot be before any work.

        Raises:
            EdgeSkipError: If the target cannot hold the plan or the draft, or cannot write the output.
        """
