"""What an exported model is compared with: the torch model under the same plan, through an exit's adapter if any."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from edgeskip.core.plan import Plan
    from edgeskip.models.source import ModelSource
    from edgeskip.planning.dense_cost import HeldOutText
    from edgeskip.profiles.exit_adapter import ExitAdapter


def reference_logits(
    source: ModelSource,
    plan: Plan,
    tokens: NDArray[np.int64],
    text: HeldOutText | None,
    adapter: ExitAdapter | None = None,
    columns: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.float32], list[NDArray[np.float32]], str]:
    """Compute what an artifact is compared with, in float32, the model loaded block by block.

    Args:
        source: The model.
        plan: What is skipped, by hooks.
        tokens: Token ids, int64 [n].
        text: Held-out text for the model without the plan; None for none.
        adapter: An exit's adapter in place of the final norm.
        columns: The tokens whose logits are wanted, int64 [V']; None for all.

    Returns:
        Logits float32 [n, V] or [n, V'] of `tokens`; the dense model's float32 [T, V] of each window of `text`; and
        the name of what computed them.
    """
    import torch
    import transformers

    from edgeskip.models.torch_reference.load import load_torch_model
    from edgeskip.models.torch_reference.skipping import skipped
    from edgeskip.planning.dense_cost import dense_logits

    model = load_torch_model(source, stream=True)
    dense = list(dense_logits(model, text)) if text is not None else []
    head = nullcontext() if adapter is None else _adapted(model, adapter)
    with torch.inference_mode(), skipped(model, plan), head:
        logits = model(input_ids=torch.from_numpy(tokens)[None], use_cache=False).logits[0]
    applied = ("same plan by hooks, " if plan.skips else "") + (f"exit {adapter.kind}, " if adapter else "")
    name = f"transformers {transformers.__version__} {type(model).__name__}, {applied}float32"
    if columns is not None:
        logits = logits[:, torch.from_numpy(columns)]
    return logits.float().numpy(), dense, name


@contextmanager
def _adapted(model: PreTrainedModel, adapter: ExitAdapter) -> Iterator[None]:
    """Put the adapter in place of the model's final norm while the context lasts."""
    from edgeskip.models.torch_reference.blocks import blocks_of
    from edgeskip.models.torch_reference.exit_adapter import ExitAdapterModule

    module = ExitAdapterModule(model, adapter.kind, like=None)
    module.load(adapter)
    given: dict[str, Any] = {}

    def listen(_: nn.Module, __: Any, arguments: dict[str, Any]) -> None:
        given.update(arguments)

    def replaced(_: nn.Module, args: tuple[Tensor, ...], __: Tensor) -> Tensor:
        normed: Tensor = module(args[0], **given)
        return normed

    hooks = [
        blocks_of(model)[0].module.register_forward_pre_hook(listen, with_kwargs=True),
        model.model.norm.register_forward_hook(replaced),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
