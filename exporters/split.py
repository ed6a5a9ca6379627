"""A model cut at exit layers, whatever the target: which kept sublayers lie where, and the plan a draft stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.plan import Plan, Skip
from edgeskip.core.sublayers import sublayers_of

if TYPE_CHECKING:
    from edgeskip.models.decoder import Attention, Decoder, FeedForward


def check_exit_layer(exit_layer: int, num_blocks: int) -> None:
    """Raise EdgeSkipError unless blocks 0 … exit_layer-1 leave at least one block for the rest."""
    if not 1 <= exit_layer < num_blocks:
        raise EdgeSkipError(
            f"--exit-layer {exit_layer} is not possible: the model has {num_blocks} blocks, choose 1 … {num_blocks - 1}"
        )


def kept_between(decoder: Decoder, start: int, end: int) -> tuple[Attention | FeedForward, ...]:
    """Return the kept sublayers of blocks start … end-1 (the model's own numbering); `end` may be the number of blocks.

    The bias of a sublayer skipped right after them is in the last one's, as in the whole.

    Raises:
        EdgeSkipError: If none is kept.
    """
    kept = tuple(sublayer for sublayer in decoder.sublayers if start <= sublayer.block < end)
    if not kept:
        where = "before" if start == 0 else "after" if end == decoder.config.num_blocks else "between"
        layers = "layers" if where == "between" else "layer"
        raise EdgeSkipError(f"the plan skips every sublayer {where} the exit {layers}: choose another --exit-layer")
    return kept


def parts_of(decoder: Decoder, exit_layers: Sequence[int]) -> list[tuple[Attention | FeedForward, ...]]:
    """Return the kept sublayers before the first exit, between exits and after the last.

    Raises:
        EdgeSkipError: For a part of none.
    """
    bounds = [0, *exit_layers, decoder.config.num_blocks]
    return [kept_between(decoder, start, end) for start, end in pairwise(bounds)]


def exit_plan(plan: Plan, exit_layer: int) -> Plan:
    """Return the plan of the first part alone: every later sublayer is skipped and replaced by nothing.

    Those that the plan skips right after the exit keep their compensation, because the part's last sublayer adds their
    bias.
    """
    skips = [skip for skip in plan.skips if skip.sublayer.block < exit_layer]
    follows = True
    for sublayer in sublayers_of(plan.num_blocks):
        if sublayer.block >= exit_layer:
            planned = plan.skip_for(sublayer)
            follows = follows and planned is not None
            skips.append(planned if follows and planned is not None else Skip(sublayer))
    return replace(plan, skips=tuple(skips))
