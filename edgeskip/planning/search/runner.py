"""Runs a transformers model sublayer by sublayer over fixed windows, so that a plan costs only what comes after its
first difference from another."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from edgeskip.models.torch_reference.blocks import blocks_of, first_tensor

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedModel


class SublayerRunner:
    """`windows` int64 [W, T] run side by side; the residual stream is float32 [W, T, hidden_size] between sublayers,
    whatever type the model multiplies in."""

    def __init__(self, model: PreTrainedModel, windows: Tensor) -> None:
        self.windows = windows
        self._model = model
        self._blocks = blocks_of(model)
        self._dtype: torch.dtype = model.get_input_embeddings().weight.dtype
        self._arguments: dict[int, dict[str, Any]] = {}
        self._start: Tensor | None = None
        self._listen()

    @property
    def num_sublayers(self) -> int:
        return 2 * len(self._blocks)

    @property
    def dtype(self) -> torch.dtype:
        """The type the model multiplies in."""
        return self._dtype

    @property
    def start(self) -> Tensor:
        """The stream before the first sublayer."""
        assert self._start is not None
        return self._start

    def update(self, index: int, x: Tensor) -> Tensor:
        """Return what sublayer number `index` adds to the stream `x`."""
        block = self._blocks[index // 2]
        if index % 2 == 0:
            normed = block.attention_norm(x).to(self._dtype)
            return first_tensor(block.attention(hidden_states=normed, **self._arguments[index // 2])).float()
        return first_tensor(block.ffn(block.ffn_norm(x).to(self._dtype))).float()

    def logits(self, x: Tensor) -> Tensor:
        """Return float32 [rows, vocab_size] of streams [rows, hidden_size] after the last sublayer."""
        normed = self._model.model.norm(x).to(self._dtype)
        result: Tensor = self._model.get_output_embeddings()(normed).float()
        return result

    def narrowed(self, rows: slice) -> SublayerRunner:
        """Return a runner of some of the windows."""
        return SublayerRunner(self._model, self.windows[rows])

    def _listen(self) -> None:
        """Run the model once to record what each attention gets in addition to the stream: masks and positions."""
        import torch

        def given(block: int) -> Any:
            def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                self._arguments[block] = {name: kwargs[name] for name in kwargs if name != "hidden_states"}

            return hook

        def start(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._start = (args[0] if args else kwargs["hidden_states"]).float()

        with ExitStack() as hooks, torch.inference_mode():
            first = self._blocks[0].module.register_forward_pre_hook(start, with_kwargs=True)
            hooks.callback(first.remove)
            for number, block in enumerate(self._blocks):
                hook = block.attention.register_forward_pre_hook(given(number), with_kwargs=True)
                hooks.callback(hook.remove)
            self._model.model(input_ids=self.windows, use_cache=False)
