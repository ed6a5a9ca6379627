"""How much each input channel of a linear layer matters: its mean square over a shipped text, under the plan.

A quantizer that weighs its rounding errors with it minimizes the error of the layer's output instead of that of its
weights (the diagonal of GPTQ's Hessian, arXiv 2210.17323 eq. 1; llama.cpp's "importance matrix").
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor, nn

    from edgeskip.core.plan import Plan
    from edgeskip.models.source import ModelSource

Importance = Mapping[str, NDArray[np.float32]]  # parameter name of the weight → mean square of each input [in]
HEAD_WEIGHT = "lm_head.weight"  # the head's entry; a tied embedding goes by it too
WINDOWS, CONTEXT = 4, 512  # 2,048 tokens: more change the scales' quality by less than their noise


def importance_of(source: ModelSource, plan: Plan) -> Importance:
    """Return the importances of a model under `plan`, measured on the shipped text."""
    from edgeskip.exporters.verify import shipped_tokens

    return measure_importance(source, plan, shipped_tokens(source, WINDOWS * CONTEXT))


def measure_importance(source: ModelSource, plan: Plan, tokens: NDArray[np.int64]) -> Importance:
    """Return mean square of the inputs of every linear layer over `tokens` [n], cut into windows.

    Runs the torch model under `plan`, block by block (`stream=True`), without its head.
    """
    import torch

    from edgeskip.models.torch_reference.load import load_torch_model
    from edgeskip.models.torch_reference.skipping import skipped

    model = load_torch_model(source, stream=True)
    squares: dict[str, Tensor] = {}

    def add(name: str, inputs: Tensor) -> None:
        found = inputs.square().flatten(0, -2).mean(dim=0)
        squares[name] = squares[name] + found if name in squares else found

    def watch(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            add(name, args[0])

        return hook

    context = min(CONTEXT, len(tokens), source.decoder.config.max_positions)
    count = min(WINDOWS, len(tokens) // context)
    windows = torch.from_numpy(tokens[: count * context].reshape(count, 1, context))
    with ExitStack() as hooks, torch.inference_mode(), skipped(model, plan):
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear) and name != "lm_head":
                hooks.callback(module.register_forward_pre_hook(watch(f"{name}.weight")).remove)
        for window in windows:  # one by one: the weights are read again, but the activations stay small
            add(HEAD_WEIGHT, model.model(input_ids=window, use_cache=False)[0])
    found = {name: (value / count).float().numpy() for name, value in squares.items()}
    del model, module
    _give_back_memory()
    return found


def _give_back_memory() -> None:
    """Free what the model left: modules and hooks that refer to each other, and glibc's free but unreturned heap."""
    gc.collect()
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
