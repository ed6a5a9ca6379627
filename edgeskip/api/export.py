"""`edgeskip.export`: bake a profile's plan into a static artifact that is checked before it is there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgeskip.api.argument_names import names_arguments
from edgeskip.core.progress import Progress, reporting_to, silent
from edgeskip.profiles.schema import Profile

if TYPE_CHECKING:
    from edgeskip.artifacts.gguf.manifest import GgufManifest
    from edgeskip.artifacts.manifest import Manifest, VerificationRecord
    from edgeskip.core.plan import Label
    from edgeskip.core.plan_cost import PlanCost
    from edgeskip.exporters.job import ExportResult
    from edgeskip.exporters.options import ExportOptions
    from edgeskip.runtime.session import Session


@dataclass(frozen=True)
class Artifact:
    """An exported model. It goes wherever the path of an artifact does: `edgeskip.load(artifact)`.

    Attributes:
        path: What to load: the folder of ONNX graphs, or the GGUF file.
        target: `onnx` or `gguf`.
        files: Everything that was written, absolute or relative as `path`: the folder's files; a GGUF file and its
            partner.
        manifest: What the artifact records about itself.

    Example:
        >>> artifact = edgeskip.export("profile.json", "example", precision="int4", check=False)
        >>> artifact.path.name, artifact.label, artifact.check
        ('example', 'lossy-skip', None)
    """

    path: Path
    target: Literal["onnx", "gguf"]
    files: tuple[Path, ...]
    manifest: Manifest | GgufManifest

    @property
    def label(self) -> Label:
        """What its output must be called, e.g. `dense` or `lossy-skip`."""
        return self.manifest.label

    @property
    def check(self) -> VerificationRecord | None:
        """How it compares with the torch model (differences of logits, KL in nats); None if it was not checked."""
        return self.manifest.verification

    @property
    def cost(self) -> PlanCost | None:
        """What it loses against the dense model and gains; None if that was not measured."""
        return self.manifest.cost

    @property
    def size_bytes(self) -> int:
        """Size of all its files."""
        return sum(file.stat().st_size for file in self.files)

    def load(self, *, provider: str = "cpu", threads: int | None = None) -> Session:
        """Open the artifact, as `edgeskip.load` does.

        Args:
            provider: Processor to run on: `cpu`, `cuda`, …
            threads: Number of threads; None = the physical cores.

        Returns:
            A session; close it, or use it in a `with` block.

        Raises:
            EdgeSkipError: If a file is missing or damaged, or the provider cannot be used.

        Example:
            >>> artifact = edgeskip.export("profile.json", "loaded", check=False)
            >>> with artifact.load(threads=1) as session:
            ...     session.label
            'lossy-skip'
        """
        from edgeskip.runtime.session import load

        return load(self.path, provider=provider, threads=threads)

    def __fspath__(self) -> str:
        return str(self.path)


@names_arguments
def export(
    profile: Profile | str | Path,
    path: str | Path,
    *,
    target: Literal["onnx", "gguf"] = "onnx",
    precision: str | None = None,
    draft: Literal["early-exit", "skip-plan"] | None = None,
    exit_layer: int | Sequence[int] | None = None,
    draft_vocab: int | None = None,
    online: bool = False,
    window: int | None = None,
    beta: float | None = None,
    block_size: int = 64,
    symmetric: bool = False,
    head_bits: int = 4,
    accuracy_level: int = 4,
    model: str | Path | None = None,
    overwrite: bool = False,
    check: bool = True,
    allow_mismatch: bool = False,
    progress: Progress = silent,
) -> Artifact:
    """Export a profile's model with its plan, dense if it has none.

    Needs the extra `export`. The artifact is compared with the torch model in a fresh process before it appears under
    its name; on an error or Ctrl-C nothing is left, and what was there before is as it was.

    Args:
        profile: What `plan` or `calibrate` returned, the path of a profile, or the name of a preset.
        path: onnx: folder to write. gguf: `FILE.gguf`, or a folder for a file named after the model.
        target: `onnx` (static graphs for ONNX Runtime) or `gguf` (for llama.cpp).
        precision: onnx: `fp32`, `fp16`, `int4`; None = fp32. gguf: `f32`, `f16`, `bf16`, `q8_0`, …, `q4_k_m`, or
            `keep`, the blocks of a GGUF model; None = keep for a GGUF model, else f16.
        draft: `early-exit`: the first blocks draft, the rest verifies. `skip-plan`: the profile's plan drafts, the
            dense model verifies.
        exit_layer: early-exit: blocks that the draft runs; onnx takes several. None = as swept.
        draft_vocab: early-exit: the draft's head knows only this many tokens, the most frequent. None = as swept or
            trained, else all.
        online: onnx: FFNs can be skipped while it runs. gguf: a second file, without the plan's decode set, takes over
            while decoding.
        window: online: tokens P decoded before that; None = the plan's, else 20.
        beta: online, onnx: skip FFNs at least this similar, β (a cosine); None = the plan's.
        block_size: int4: weights per scale: 16, 32, 64 or 128.
        symmetric: int4: no zero points; smaller, less exact.
        head_bits: int4: bits of embedding and head, 4 or 8.
        accuracy_level: int4: 4 = int8 activations (fast), 1 = fp32 activations (exact, slow on CPU).
        model: Where the model is, if not where the profile says.
        overwrite: Replace an artifact that is there; anything else never is.
        check: Compare the result with the torch model.
        allow_mismatch: Keep an artifact that fails the check.
        progress: Gets the stage `exporting`, counted in steps.

    Returns:
        The artifact.

    Raises:
        EdgeSkipError: If the arguments do not fit together, the model is missing or another one than the profile's,
            the result does not match the torch model, or `path` cannot be written.

    Example:
        >>> artifact = edgeskip.export("profile.json", "out", check=False)
        >>> artifact.label, artifact.manifest.plan.skip
        ('lossy-skip', ['ffn.1', 'ffn.2'])
        >>> with edgeskip.load(artifact) as session:
        ...     session.context_length
        512
    """
    from edgeskip.exporters.options import export_options

    options = export_options(
        target=target, precision=precision, draft=draft, exit_layer=exit_layer, draft_vocab=draft_vocab, online=online,
        window=window, beta=beta, block_size=block_size, symmetric=symmetric, head_bits=head_bits,
        accuracy_level=accuracy_level, overwrite=overwrite, check=check, allow_mismatch=allow_mismatch,
    )  # fmt: skip
    output = Path(path).expanduser()
    model = None if model is None else os.fspath(model)
    results = export_targets(profile, output, options, model=model, progress=progress)
    first = results[0]
    files = sorted(first.path.iterdir()) if target == "onnx" else [result.path for result in results]
    return Artifact(first.path, target, tuple(files), first.manifest)


def export_targets(
    profile: Profile | str | Path,
    output: Path,
    options: ExportOptions,
    *,
    model: str | None = None,
    progress: Progress = silent,
) -> list[ExportResult]:
    """Do what `export` does for every target of `options`, and return what was written."""
    from edgeskip.exporters.pipeline import run_export

    found = profile if isinstance(profile, Profile) else Profile.load(profile)
    with reporting_to(progress):
        return run_export(found, found.working_path(), output, options, model=model, progress=progress)
