"""Which files an export consists of: a model, the halves of an early exit, or a model and another beside it that drafts
for it or takes over while decoding. Names and decoders; nothing is written here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeskip.artifacts.gguf.manifest import Part
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.plan import Plan
from edgeskip.exporters.bake import bake
from edgeskip.exporters.draft import ExitDraft, exit_draft
from edgeskip.exporters.gguf.blocks import FLOATS, encode
from edgeskip.exporters.gguf.layout import Layout, lay_out, lay_out_pair
from edgeskip.exporters.provenance import plan_summary
from edgeskip.exporters.split import check_exit_layer, kept_between
from edgeskip.models.decoder import Attention, Decoder, FeedForward, Linear, Norm, QuantizedBlocks, Tensor
from edgeskip.planning.decode_plan import decode_plan, decode_profile
from edgeskip.profiles.exit_adapter import ExitAdapter

if TYPE_CHECKING:
    from edgeskip.artifacts.manifest import PlanSummary
    from edgeskip.exporters.gguf.formats import GgufFormat
    from edgeskip.exporters.job import ExportJob
    from edgeskip.exporters.options import DraftRequest
    from edgeskip.models.source import ModelSource
    from edgeskip.profiles.schema import Profile


@dataclass(frozen=True)
class PairExit:
    """The early exit of a pair; `draft`'s block is the first file's last. `norm` is the model's final one."""

    draft: ExitDraft
    norm: Norm

    @property
    def layer(self) -> int:
        return self.draft.layer

    @property
    def alone(self) -> ExitAdapter | None:
        """What the first file by itself has between exit state and logits; None = the model's norm and head.

        A map is not in it if the head is trimmed.
        """
        adapter = self.draft.chosen.adapter
        if self.own_head is not None or adapter is None:
            return adapter
        return ExitAdapter(np.diag(self.norm.weight.read()), adapter.block) if adapter.block else None

    @property
    def own_head(self) -> Linear | None:
        """The head that the first file has apart from the model's: the whole vocabulary's, through the map."""
        return self.draft.head.head if self.tokens is None else None

    @property
    def tokens(self) -> NDArray[np.int64] | None:
        """Ids int64 [V'] of a trimmed head's rows; None = all tokens."""
        return self.draft.head.tokens


@dataclass(frozen=True)
class OutputFile:
    """A decoder that becomes one file; `profile` and `plan` record what is skipped in it."""

    part: Part
    profile: Profile
    plan: Plan
    decoder: Decoder
    layout: Layout


def output_paths(job: ExportJob, form: GgufFormat) -> list[Path]:
    """Return the files that a job writes: a name ending in .gguf, or a folder that gets the ecosystem's names.

    An early exit has the first part, the rest and, if the head is trimmed, the file that holds it; a skip-plan the
    dense model and its draft; online skipping the model and the one that takes over while decoding.

    Raises:
        EdgeSkipError: If a draft has no folder.
    """
    output, profile, draft = job.output, job.profile, job.draft
    is_file = output.suffix.lower() == ".gguf" and not output.is_dir()
    if is_file and draft is not None:
        what = "an early exit" if draft.kind == "early-exit" else "a model with its draft"
        raise EdgeSkipError(f"{what} is two files: give -o a folder, not {output}")

    def name(planned: Profile, exit_layer: int | None = None, part: Part = "whole") -> str:
        return file_name(job.source.name, plan_summary(planned), form.name, exit_layer=exit_layer, part=part)

    if draft is None:
        whole = output if is_file else output / name(profile)
        return [whole] if job.online is None else [whole, whole.with_name(decode_file_name(whole.name))]
    if draft.kind == "skip-plan":
        return [output / name(planned) for planned in (_dense(profile), profile)]
    layer = _layer_of(draft)
    names = [name(profile, layer, "first"), name(profile, layer, "rest")]
    if draft.vocabulary is not None:
        names.append(head_file_name(names[0]))
    return [output / each for each in names]


def plan_outputs(job: ExportJob) -> tuple[list[OutputFile], PairExit | None]:
    """Return the GGUF files of a job and, of a pair, its exit.

    If llama.cpp has no architecture for the first half's stub, the first part is alone.

    Raises:
        EdgeSkipError: If llama.cpp or the profile lacks something.
    """
    source, draft = job.source, job.draft
    if job.online is not None:
        return _with_decode(job), None
    if draft is None:
        return [_whole(source, job.profile, job.plan)], None
    if draft.kind == "skip-plan":
        dense = _whole(source, _dense(job.profile), Plan(job.plan.num_blocks))
        return [dense, _whole(source, job.profile, job.plan)], None
    layer = _layer_of(draft)
    check_exit_layer(layer, source.decoder.config.num_blocks)
    profile, plan = job.profile, job.plan
    baked = bake(source.decoder, plan)
    kept = _kept_kind(baked.embedding)
    rest = rest_part(baked, layer)
    found = exit_draft(job, baked, layer, fold=True)
    # The stream at the exit is scaled as the next sublayer reads it (bake).
    norm = replace(found.head.norm, eps=rest.sublayers[0].norm.eps)
    cut = PairExit(replace(found, head=replace(found.head, norm=norm)), source.decoder.norm)
    block = found.head.block
    first = first_part(baked, layer, _block_stored_as(*block, kept) if block else ())
    if cut.own_head is not None:
        first = replace(first, norm=norm, head=_stored_as(cut.own_head, kept))
    try:
        layouts = lay_out(first, trailing_stub=block is None), lay_out(rest)
    except EdgeSkipError:
        if draft.vocabulary is not None:
            raise EdgeSkipError(
                f"llama.cpp has no architecture for both halves of {source.decoder.config.family}, and only a pair "
                "drafts with a trimmed head: leave --draft-vocab out"
            ) from None
        layout = _layout_alone(first, layer, own_block=block is not None)
        return [OutputFile("first", profile, plan, first, layout)], cut
    parts: tuple[tuple[Part, Decoder], ...] = (("first", first), ("rest", rest))
    files = [
        OutputFile(part, profile, plan, decoder, layout) for (part, decoder), layout in zip(parts, layouts, strict=True)
    ]
    return files, cut


def _layout_alone(first: Decoder, layer: int, *, own_block: bool) -> Layout:
    """Return the layout of a first part without its rest."""
    try:
        return lay_out(first)
    except EdgeSkipError:
        if not own_block:
            raise
        raise EdgeSkipError(
            f"llama.cpp's {first.config.family} cannot hold a trained block after {layer} blocks (rotary positions, "
            "biases or what the plan skips do not fit): choose another --exit-layer, or --target onnx"
        ) from None


def _whole(source: ModelSource, profile: Profile, plan: Plan) -> OutputFile:
    baked = bake(source.decoder, plan)
    return OutputFile("whole", profile, plan, baked, lay_out(baked))


def _with_decode(job: ExportJob) -> list[OutputFile]:
    decoding = decode_plan(job.profile, job.plan)
    whole, fewer = bake(job.source.decoder, job.plan), bake(job.source.decoder, decoding)
    first, second = lay_out_pair(whole, fewer)
    return [
        OutputFile("whole", job.profile, job.plan, whole, first),
        OutputFile("whole", decode_profile(job.profile), decoding, fewer, second),
    ]


def _dense(profile: Profile) -> Profile:
    return profile.model_copy(update={"plan": None})


def _layer_of(draft: DraftRequest) -> int:
    if len(draft.exit_layers) != 1:
        names = ",".join(map(str, draft.exit_layers))
        raise EdgeSkipError(f"--exit-layer {names}: a GGUF pair has one exit; name one (several need onnx)")
    return draft.exit_layers[0]


def _kept_kind(embedding: Tensor) -> str | None:
    """Return the type a head or a matrix of ours gets in a file that keeps the model's blocks; None = it keeps none.

    It is the embedding's if that is a float, else Q8_0: fewer bits need importances, and those of the model's own head
    are not those of an exit.
    """
    if embedding.blocks is None:
        return None
    if embedding.blocks.kind in FLOATS:
        return embedding.blocks.kind
    return "F16" if embedding.shape[-1] % 32 else "Q8_0"


def _stored_as(linear: Linear, kind: str | None) -> Linear:
    """Return `linear` with a weight that a GGUF stores in `kind`."""
    if kind is None:
        return linear
    weight = linear.weight
    return replace(linear, weight=replace(weight, blocks=QuantizedBlocks(kind, lambda: encode(weight.read(), kind))))


def _block_stored_as(
    attention: Attention, feed_forward: FeedForward, kind: str | None
) -> tuple[Attention, FeedForward]:
    """Return the same for every matrix of an exit's own block."""
    q, k, v, o = (_stored_as(linear, kind) for linear in (attention.q, attention.k, attention.v, attention.o))
    gate, up, down = (_stored_as(linear, kind) for linear in (feed_forward.gate, feed_forward.up, feed_forward.down))
    return replace(attention, q=q, k=k, v=v, o=o), replace(feed_forward, gate=gate, up=up, down=down)


def first_part(decoder: Decoder, exit_layer: int, block: tuple[Attention, FeedForward] | tuple[()] = ()) -> Decoder:
    """Return the first half of an early exit: the kept sublayers of the first `exit_layer` blocks, norm and head.

    Blocks are numbered as in the model. The exit's own `block` comes after them if it has one.

    Raises:
        EdgeSkipError: If none is kept.
    """
    return replace(decoder, sublayers=(*kept_between(decoder, 0, exit_layer), *block))


def rest_part(decoder: Decoder, exit_layer: int) -> Decoder:
    """Return the kept sublayers after them, the final norm and the head. Its input is the exit state.

    llama.cpp wants an embedding in every file: here the head's matrix serves, unused as an embedding.
    """
    kept = kept_between(decoder, exit_layer, decoder.config.num_blocks)
    embedding = decoder.head.weight if decoder.head else decoder.embedding
    return replace(decoder, embedding=embedding, sublayers=kept, head=None, embedding_bias=None)


def file_name(
    model: str, plan: PlanSummary, precision: str, *, exit_layer: int | None = None, part: Part = "whole"
) -> str:
    """Return a name such as `smollm2-135m-instruct-adaskip8-Q4_1.gguf`: method and number of skips, if there are any.

    Early exit: `…-exit8-Q4_1.gguf` is the first part, a complete draft model, `…-exit8-rest-Q4_1.gguf` the rest.
    """
    words = [model.lower().replace(" ", "-")]
    if plan.skip:
        words.append(f"{plan.method}{len(plan.skip)}")
    if exit_layer is not None:
        words.append(f"exit{exit_layer}")
    if part == "rest":
        words.append("rest")
    return "-".join([*words, precision]) + ".gguf"


def head_file_name(first: str) -> str:
    """Return the name of the side file with the trimmed draft head of the first part called `first`."""
    return f"{first.removesuffix('.gguf')}-head.safetensors"


def decode_file_name(whole: str) -> str:
    """Return the name of the file that takes over from the one called `whole` while decoding."""
    return f"{whole.removesuffix('.gguf')}-decode.gguf"
