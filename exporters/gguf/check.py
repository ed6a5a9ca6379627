"""The check after a GGUF export: each model, a pair together and its draft alone, each against the torch model."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeskip.exporters.gguf.dequantize import write_dequantized
from edgeskip.exporters.gguf.metadata import context_length
from edgeskip.exporters.gguf.text_rules import gguf_text
from edgeskip.exporters.split import exit_plan
from edgeskip.exporters.tokenizer_check import TokenizerPolicy
from edgeskip.exporters.verify import Bound, DraftCheck, Measurement, Twin, require_match, verify
from edgeskip.planning.dense_cost import artifact_cost, dense_source

if TYPE_CHECKING:
    from edgeskip.artifacts.gguf.manifest import GgufManifest
    from edgeskip.core.plan import Plan
    from edgeskip.exporters.gguf.formats import GgufFormat
    from edgeskip.exporters.gguf.output_plan import OutputFile, PairExit
    from edgeskip.exporters.job import ExportJob
    from edgeskip.models.source import ModelSource

EXACT = Bound(kl_divergence=1e-3)
# Of a draft's matrices: a head that has no stored blocks to keep and becomes Q8_0. SmolLM2's has 6e-4.
OWN_HEAD = Bound(kl_divergence=1e-2)
ADVICE = "llama.cpp has no such rule: export to ONNX instead; --no-check writes the file anyway"


def bound_of(form: GgufFormat) -> Bound:
    """Return what passes the check.

    llama.cpp rounds activations to 8 bits wherever weights are quantized (0.0026 nats for a dense Q4_1 SmolLM2, 0.05 if
    a plan leaves out its first FFN), and a quantization of ours moves the weights too.
    """
    if _is_exact(form):
        return EXACT
    if form.name.startswith(("Q2", "Q3")):
        return Bound(kl_divergence=2.0)
    return Bound(kl_divergence=0.25 if form.kind is None or form.name in ("BF16", "Q8_0", "Q6_K") else 0.75)


def check_files(
    job: ExportJob,
    form: GgufFormat,
    files: Sequence[OutputFile],
    cut: PairExit | None,
    staged: Sequence[Path],
    manifests: Sequence[GgufManifest],
) -> list[GgufManifest]:
    """Return the manifests with what was measured: of each model, of a pair together, and of its draft alone.

    Args:
        job: What was exported.
        form: How the weights are stored.
        files: What the files hold.
        cut: The exit of a pair.
        staged: The files, with their unchecked manifests, and a trimmed head's.
        manifests: These manifests.

    Raises:
        EdgeSkipError: If something does not match and the job's policy does not allow that.
    """
    source = job.source
    length = min(context_length(file.decoder) for file in files)

    def check(
        paths: Sequence[Path], plan: Plan, draft: DraftCheck | None = None, whole: OutputFile | None = None
    ) -> Measurement:
        compared = whole and (plan.skips or not _is_exact(form))
        dense = dense_source(whole.profile, source, plan) if whole and compared else None
        measured = _verify(source, plan, paths, form, length, draft, dense)
        require_match(measured.record, allow_mismatch=job.policy.allow_mismatch)
        return measured

    if cut is None:
        found = [check([path], file.plan, whole=file) for file, path in zip(files, staged, strict=True)]
        return [_with_check(*each, source) for each in zip(manifests, files, found, strict=True)]
    plan, exits = files[0].plan, exit_plan(files[0].plan, cut.layer)
    # As any program would run it; with a trimmed head that is another draft than ours.
    draft = check(staged[:1], exits, DraftCheck(None, cut.alone) if cut.alone else None).record
    if cut.tokens is not None:
        own = check(staged, exits, DraftCheck(0, cut.draft.chosen.adapter, cut.tokens)).record
        draft = own.model_copy(update={"passed": own.passed and draft.passed})
    if len(files) == 1:
        return [manifests[0].model_copy(update={"verification": draft})]
    pair = check(staged, plan, whole=files[0])
    first, rest = (_with_check(manifest, files[0], pair, source) for manifest in manifests)
    return [first.model_copy(update={"draft_verification": draft}), rest]


def _is_exact(form: GgufFormat) -> bool:
    return form.kind in ("F32", "F16") and not form.by_llamacpp


def _with_check(manifest: GgufManifest, file: OutputFile, measured: Measurement, source: ModelSource) -> GgufManifest:
    cost = artifact_cost(file.profile, source, file.plan, measured.cost)
    return manifest.model_copy(update={"verification": measured.record, "cost": cost})


def _verify(
    source: ModelSource,
    plan: Plan,
    staged: Sequence[Path],
    form: GgufFormat,
    length: int,
    draft: DraftCheck | None,
    dense: ModelSource | None,
) -> Measurement:
    """Compare the files, and kept blocks a second time as F16, because llama.cpp rounds activations when it runs them.

    One file of a pair is run alone.
    """

    def check(twin: Twin | None = None) -> Measurement:
        return verify(
            source,
            plan,
            staged[0],
            bound=bound_of(form),
            twin=twin,
            alone=len(staged) == 1,
            draft=draft,
            context_length=length,
            dense=dense,
            tokenizer=TokenizerPolicy(gguf_text(source).skips, ADVICE),
        )

    if form.kind is not None:
        return check()
    with tempfile.TemporaryDirectory(prefix="dequantized.", dir=staged[0].parent) as folder:
        for path in staged:
            if path.suffix == ".gguf":
                write_dequantized(path, Path(folder) / path.name)
            else:
                shutil.copyfile(path, Path(folder) / path.name)
        own = draft is not None and (draft.which is None or draft.adapter is not None)
        return check(Twin(Path(folder) / staged[0].name, OWN_HEAD if own else EXACT))
