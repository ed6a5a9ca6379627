"""Apply a plan to a torch model with hooks: every export is compared with the result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.plan import Plan, Skip
from edgeskip.models.torch_reference.blocks import blocks_of, first_tensor

if TYPE_CHECKING:
    from torch import Tensor, nn


@contextmanager
def skipped(model: nn.Module, plan: Plan) -> Iterator[None]:
    """Make each skipped sublayer compute `x ← scale·x + map·u + bias` while the context lasts.

    The model's own code adds a sublayer's output to the stream, so the output is replaced by (scale − 1)·x + map·u +
    bias, computed in float32 and rounded to the model's dtype. The sublayer still runs, which keeps the KV cache in
    step: this is the reference for correctness, never for speed. Raises EdgeSkipError if the plan is for another
    number of blocks. The hooks are gone when the context ends, also after an error.
    """
    blocks = blocks_of(model)
    if plan.num_blocks != len(blocks):
        raise EdgeSkipError(f"the plan is for a model of {plan.num_blocks} blocks, this one has {len(blocks)}")
    with ExitStack() as hooks:
        for skip in plan.skips:
            block = blocks[skip.sublayer.block]
            is_attention = skip.sublayer.kind == "attn"
            norm = block.attention_norm if is_attention else block.ffn_norm
            sublayer = block.attention if is_attention else block.ffn
            update = None
            if skip.source is not None and skip.source not in plan.skipped:
                update = _Update()
                kept = blocks[skip.source.block]
                module = kept.attention if skip.source.kind == "attn" else kept.ffn
                hooks.callback(module.register_forward_hook(update.after).remove)
            replacement = _Replacement(skip, update)
            hooks.callback(norm.register_forward_pre_hook(replacement.before, with_kwargs=True).remove)
            hooks.callback(sublayer.register_forward_hook(replacement.after).remove)
        yield


class _Update:
    """The hook of a kept sublayer whose update a skip reads."""

    def __init__(self) -> None:
        self.value: Tensor | None = None

    def after(self, module: nn.Module, args: Any, output: Any) -> None:
        self.value = first_tensor(output)


class _Replacement:
    """The two hooks of one skipped sublayer; `before` hands the stream to `after` within one forward pass."""

    def __init__(self, skip: Skip, update: _Update | None) -> None:
        self._skip, self._update = skip, update
        self._map: Tensor | None = None
        self._stream: Tensor | None = None
        self._bias: Tensor | None = None

    def before(self, module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        self._stream = args[0] if args else kwargs["hidden_states"]

    def after(self, module: nn.Module, args: Any, output: Any) -> Any:
        import torch

        x, self._stream = self._stream, None
        assert x is not None, "a sublayer ran without its norm"
        change = x.to(torch.float32) * (self._skip.scale - 1.0)
        if self._skip.bias is not None:
            if self._bias is None or self._bias.device != x.device:
                self._bias = torch.tensor(self._skip.bias, dtype=torch.float32, device=x.device)
            change = change + self._bias
        if self._update is not None and self._skip.map is not None:
            u, self._update.value = self._update.value, None
            assert u is not None, "the sublayer before a skip did not run"
            if self._map is None or self._map.device != x.device:
                self._map = torch.tensor(self._skip.map, dtype=torch.float32, device=x.device)
            change = change + u.to(torch.float32) @ self._map.T
        change = change.to(first_tensor(output).dtype)
        return (change, *output[1:]) if isinstance(output, tuple) else change
