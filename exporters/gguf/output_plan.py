"""Which files an export consists of: a model, the halves of an early exit, or a model and another beside it, that
drafts for it or takes over while decoding. Names and decoders; nothing is written here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeskip.artifacts.gguf.manifest import Part
from edgeskip.core.errors import EdgeSkipError
from edgeskip.exporters.bake import bake
from edgeskip.exporters.draft_head import ChosenHead, DraftHead, chosen_head, draft_head, draft_tokens
from edgeskip.exporters.exit_block import exit_block
from edgeskip.exporters.gguf.blocks import FLOATS, encode
from edgeskip.exporters.gguf.layout import Layout, lay_out, lay_out_pair
from edgeskip.exporters.gguf.naming import decode_file_name, file_name, head_file_name
from edgeskip.exporters.gguf.split import first_part, rest_part
from edgeskip.exporters.provenance import plan_summary
from edgeskip.exporters.split import check_exit_layer
from edgeskip.models.decoder import Attention, Decoder, FeedForward, Linear, Norm, QuantizedBlocks, Tensor
from edgeskip.planning.decode_plan import decode_plan, decode_profile
from edgeskip.planning.planner import resolve
from edgeskip.profiles.exit_adapter import ExitAdapter

if TYPE_CHECKING:
    from edgeskip.core.plan import Plan
    from edgeskip.exporters.gguf.formats import GgufFormat
    from edgeskip.exporters.options import DraftRequest
    from edgeskip.models.source import ModelSource
    from edgeskip.profiles.schema import Profile
    from edgeskip.profiles.vectors import Vectors


@dataclass(frozen=True)
class Exit:
    """The early exit of a pair; `head` holds what was `chosen` for it, and its block is the first file's last.

    `norm` is the model's final one.
    """

    layer: int
    head: DraftHead
    chosen: ChosenHead
    norm: Norm

    @property
    def alone(self) -> ExitAdapter | None:
        """What the first file by itself has between its exit state and its logits, None = the model's norm and head. A
        map is not in it where the head is trimmed."""
        adapter = self.chosen.adapter
        if self.own_head is not None or adapter is None:
            return adapter
        return ExitAdapter(np.diag(self.norm.weight.read()), adapter.block) if adapter.block else None

    @property
    def own_head(self) -> Linear | None:
        """The head that the first file has besides the model's: the whole vocabulary's, through the map."""
        return self.head.head if self.head.tokens is None else None


@dataclass(frozen=True)
class Output:
    """A decoder that becomes one file; `profile` and `plan` say what is skipped in it."""

    part: Part
    profile: Profile
    plan: Plan
    decoder: Decoder
    layout: Layout


def output_paths(
    source: ModelSource,
    profile: Profile,
    form: GgufFormat,
    output: Path,
    draft: DraftRequest | None,
    *,
    online: bool = False,
) -> list[Path]:
    """The files that an export to `output` writes: a name ending in .gguf, or a folder that gets the ecosystem's names.

    Of an early exit the first part, the rest and, where the head is trimmed, the file that holds it; with a skip-plan
    the dense model and its draft; `online`, the model and the one that takes over while decoding. EdgeSkipError for a
    draft without a folder.
    """
    if online:
        (whole,) = output_paths(source, profile, form, output, None)
        return [whole, whole.with_name(decode_file_name(whole.name))]
    if output.suffix.lower() == ".gguf" and not output.is_dir():
        if draft is not None:
            what = "an early exit" if draft.kind == "early-exit" else "a model with its draft"
            raise EdgeSkipError(f"{what} is two files: give -o a folder, not {output}")
        return [output]
    summary = plan_summary(profile)
    if draft is None:
        return [output / file_name(source.name, summary, form.name)]
    if draft.kind == "skip-plan":
        return [output / file_name(source.name, plan_summary(one), form.name) for one in (_dense(profile), profile)]
    layer = _layer_of(draft)
    parts: tuple[Part, ...] = ("first", "rest")
    names = [file_name(source.name, summary, form.name, exit_layer=layer, part=part) for part in parts]
    if draft.vocabulary is not None:
        names.append(head_file_name(names[0]))
    return [output / name for name in names]


def outputs_of(
    source: ModelSource,
    profile: Profile,
    vectors: Vectors | None,
    draft: DraftRequest | None,
    *,
    online: bool = False,
) -> tuple[list[Output], Exit | None]:
    """The GGUF files and, of a pair, its exit. EdgeSkipError where llama.cpp or the profile lacks something.

    Where llama.cpp has no architecture for the first half's stub, the first part is alone.
    """
    if online:
        return _with_decode(source, profile, vectors), None
    if draft is None:
        return [_whole(source, profile, vectors)], None
    if draft.kind == "skip-plan":
        return [_whole(source, one, vectors) for one in (_dense(profile), profile)], None
    layer = _layer_of(draft)
    check_exit_layer(layer, source.decoder.config.num_blocks)
    plan = resolve(profile, vectors)
    baked = bake(source.decoder, plan)
    chosen, kept = chosen_head(profile, vectors, layer), _kept_kind(baked.embedding)
    exit_map = chosen.adapter.map if chosen.adapter else None
    rest = rest_part(baked, layer)
    block = exit_block(source, chosen.adapter, plan, layer)
    head = draft_head(baked, exit_map, draft_tokens(source, vectors, draft.vocabulary), fold=True, block=block)
    # The stream at the exit is scaled as the next sublayer reads it (bake).
    norm = replace(head.norm, eps=rest.sublayers[0].norm.eps)
    cut = Exit(layer, replace(head, norm=norm), chosen, source.decoder.norm)
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
        return [Output("first", profile, plan, first, _alone(first, layer, own_block=block is not None))], cut
    return [Output("first", profile, plan, first, layouts[0]), Output("rest", profile, plan, rest, layouts[1])], cut


def _alone(first: Decoder, layer: int, *, own_block: bool) -> Layout:
    """The layout of a first part without its rest."""
    try:
        return lay_out(first)
    except EdgeSkipError:
        if not own_block:
            raise
        raise EdgeSkipError(
            f"llama.cpp's {first.config.family} cannot hold a trained block after {layer} blocks (rotary positions, "
            "biases or what the plan skips do not fit): choose another --exit-layer, or --target onnx"
        ) from None


def _whole(source: ModelSource, profile: Profile, vectors: Vectors | None) -> Output:
    plan = resolve(profile, vectors)
    baked = bake(source.decoder, plan)
    return Output("whole", profile, plan, baked, lay_out(baked))


def _with_decode(source: ModelSource, profile: Profile, vectors: Vectors | None) -> list[Output]:
    plan, fewer = resolve(profile, vectors), decode_plan(profile, vectors)
    baked, decoding = bake(source.decoder, plan), bake(source.decoder, fewer)
    first, second = lay_out_pair(baked, decoding)
    return [
        Output("whole", profile, plan, baked, first),
        Output("whole", decode_profile(profile), fewer, decoding, second),
    ]


def _dense(profile: Profile) -> Profile:
    return profile.model_copy(update={"plan": None})


def _layer_of(draft: DraftRequest) -> int:
    if len(draft.exit_layers) != 1:
        names = ",".join(map(str, draft.exit_layers))
        raise EdgeSkipError(f"--exit-layer {names}: a GGUF pair has one exit, name one (several are for onnx)")
    return draft.exit_layers[0]


def _kept_kind(embedding: Tensor) -> str | None:
    """The type a head or a matrix of ours gets in a file that keeps the model's blocks; None = it keeps none.

    It is the embedding's if that is a float, else Q8_0: fewer bits need importances, and those of the model's own head
    are not those of an exit.
    """
    if embedding.blocks is None:
        return None
    if embedding.blocks.kind in FLOATS:
        return embedding.blocks.kind
    return "F16" if embedding.shape[-1] % 32 else "Q8_0"


def _stored_as(linear: Linear, kind: str | None) -> Linear:
    """`linear` as a weight that a GGUF stores in `kind`."""
    if kind is None:
        return linear
    weight = linear.weight
    return replace(linear, weight=replace(weight, blocks=QuantizedBlocks(kind, lambda: encode(weight.read(), kind))))


def _block_stored_as(
    attention: Attention, feed_forward: FeedForward, kind: str | None
) -> tuple[Attention, FeedForward]:
    """The same for every matrix of an exit's own block."""
    q, k, v, o = (_stored_as(linear, kind) for linear in (attention.q, attention.k, attention.v, attention.o))
    gate, up, down = (_stored_as(linear, kind) for linear in (feed_forward.gate, feed_forward.up, feed_forward.down))
    return replace(attention, q=q, k=k, v=v, o=o), replace(feed_forward, gate=gate, up=up, down=down)
