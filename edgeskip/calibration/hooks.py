"""Hooks that watch the residual stream of a torch model go by and add it to the sums; no model code is copied."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from edgeskip.models.torch_reference.blocks import blocks_of, first_tensor

if TYPE_CHECKING:
    from torch import Tensor, nn

    from edgeskip.calibration.accumulators import PhaseSums


class ResidualRecorder:
    """Sends every forward pass of a model to `sums`; the tokens where `measured` is false are left out.

    `sums` None switches recording off; `measured` is bool [batch, tokens] of the next pass, None = all tokens.
    """

    def __init__(self) -> None:
        self.sums: PhaseSums | None = None
        self.measured: Tensor | None = None
        self._before: tuple[Tensor, Tensor] | None = None

    def see(self, boundary: int, stream: Tensor) -> None:
        """`stream` [batch, tokens, hidden_size] before sublayer `boundary` is the one after `boundary` − 1."""
        if self.sums is None:
            return
        import torch

        # A copy in any case: a model may add to its stream in place.
        now = stream.detach().to(self.sums.dtype, copy=True).flatten(0, 1)
        square = torch.linalg.vecdot(now, now)
        if boundary > 0 and self._before is not None:
            before, square_before = self._before
            measured = None if self.measured is None else self.measured.flatten().to(now.device)
            self.sums.add(boundary - 1, before, now, (square_before, square), measured)
        self._before = (now, square)


@contextmanager
def recording(model: nn.Module) -> Iterator[ResidualRecorder]:
    """Attach a recorder to every sublayer of `model` while the context lasts; it starts switched off."""
    recorder = ResidualRecorder()
    blocks = blocks_of(model)

    def before(boundary: int) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            recorder.see(boundary, args[0] if args else kwargs["hidden_states"])

        return hook

    def after_all(module: nn.Module, args: Any, output: Any) -> None:
        recorder.see(2 * len(blocks), first_tensor(output))

    with ExitStack() as hooks:
        for index, block in enumerate(blocks):
            for boundary, norm in ((2 * index, block.attention_norm), (2 * index + 1, block.ffn_norm)):
                hooks.callback(norm.register_forward_pre_hook(before(boundary), with_kwargs=True).remove)
        hooks.callback(blocks[-1].module.register_forward_hook(after_all).remove)
        yield recorder
