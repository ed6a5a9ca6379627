"""Hooks on a torch model's blocks while it trains: leaving blocks out for some samples, keeping what blocks give."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from edgeskip.models.torch_reference.blocks import blocks_of, first_tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def dropped_blocks(model: PreTrainedModel, rates: Sequence[float], generator: torch.Generator) -> Iterator[None]:
    """While the context lasts, each block hands the stream of a sample through unchanged with its rate.

    Per sample, whole block, without rescaling (LayerSkip §4.1, eq. 1). `generator` (CPU) draws, one number for each
    sample and block with a rate above 0.
    """
    with ExitStack() as hooks:
        for block, rate in zip(blocks_of(model), rates, strict=True):
            if rate > 0:
                hooks.callback(block.module.register_forward_hook(_Dropping(rate, generator), with_kwargs=True).remove)
        yield


class _Dropping:
    def __init__(self, rate: float, generator: torch.Generator) -> None:
        self._rate, self._generator = rate, generator

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        before: Tensor = args[0] if args else kwargs["hidden_states"]
        dropped = torch.rand(before.shape[0], generator=self._generator) < self._rate
        if not dropped.any():
            return output
        after = torch.where(dropped.to(before.device)[:, None, None], before, first_tensor(output))
        return (after, *output[1:]) if isinstance(output, tuple) else after


@contextmanager
def kept_states(model: PreTrainedModel, blocks: Collection[int]) -> Iterator[dict[int, Tensor]]:
    """While the context lasts, the stream [batch, n, d] after each of `blocks`, as the latest pass left it.

    Enter it inside `dropped_blocks`: hooks run in the order they were made, and the stream after dropping is meant.
    """
    kept: dict[int, Tensor] = {}

    def keep(number: int) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            kept[number] = first_tensor(output)

        return hook

    modules = blocks_of(model)
    with ExitStack() as hooks:
        for number in blocks:
            hooks.callback(modules[number].module.register_forward_hook(keep(number)).remove)
        yield kept
