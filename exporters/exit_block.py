"""A trained exit block as the canonical decoder's: one more attention and FFN, which only the exit's draft runs."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from edgeskip.core.errors import EdgeSkipError
from edgeskip.exporters.bake import on_scaled_stream
from edgeskip.exporters.split import exiting
from edgeskip.models.decoder import Attention, FeedForward, constant
from edgeskip.models.families.architecture_config import ArchitectureConfig
from edgeskip.models.families.canonical import extra_block

if TYPE_CHECKING:
    from edgeskip.core.plan import Plan
    from edgeskip.models.source import ModelSource
    from edgeskip.profiles.exit_adapter import ExitAdapter


def exit_block(
    source: ModelSource, adapter: ExitAdapter | None, plan: Plan, layer: int
) -> tuple[Attention, FeedForward] | None:
    """The block of the adapter of exit `layer`, for the model under `plan`; None where the adapter has none.

    What blocks of a family may differ in (rotary positions, window) is as in the model's first. Its weights go by
    `exit.E.adapter.block.NAME`, so that nothing measured of the model's own is taken for theirs. EdgeSkipError where
    they are not of the model's shape.
    """
    if adapter is None or not adapter.block:
        return None
    weights = {name: constant(f"exit.{layer}.adapter.block.{name}", array) for name, array in adapter.block.items()}
    try:
        pair = extra_block(source.checkpoint.family, ArchitectureConfig(source.config, source.checkpoint.file), weights)
    except EdgeSkipError as error:
        raise EdgeSkipError(
            f"the trained block of exit layer {layer} is not of {source.name}'s shape: train it again ({error})"
        ) from None
    # The baked stream at the exit is divided by the scales of what was skipped before.
    scale = prod(skip.scale for skip in exiting(plan, layer).skips)
    attention, feed_forward = (on_scaled_stream(sublayer, scale) for sublayer in pair)
    assert isinstance(attention, Attention)
    assert isinstance(feed_forward, FeedForward)
    return attention, feed_forward
