"""An exit adapter as a torch module: what training updates and what an export is checked against."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from edgeskip.core.errors import EdgeSkipError
from edgeskip.models.torch_reference.blocks import blocks_of, first_tensor
from edgeskip.profiles.exit_adapter import AdapterKind, ExitAdapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ExitAdapterModule(nn.Module):
    """map · RMSNorm(block(x)): what the model's head reads at an exit in place of the final normalized state.

    A new one is the model's own norm, and as block a copy of block number `like`; with None its weights are still to
    be loaded. What blocks of a family may differ in (rotary positions, window) is as in the model's first, so
    `forward` wants the arguments that the first gets.
    """

    def __init__(self, model: PreTrainedModel, kind: AdapterKind, like: int | None) -> None:
        super().__init__()
        norm = model.model.norm
        self.eps: float = norm.variance_epsilon
        self.map = nn.Parameter(torch.diag(norm.weight.detach().float()))
        self.block: nn.Module | None = None
        if kind == "block":
            own = blocks_of(model)[like or 0].module
            self.block = type(own)(model.config, layer_idx=0).to(norm.weight.device)
            if like is not None:
                self.block.load_state_dict(own.state_dict())
            self.block.float()
        self.requires_grad_(True)

    def forward(self, states: Tensor, rows: Tensor | None = None, **block_arguments: Any) -> Tensor:
        """Return float32 [batch, n, d] from exit states of that shape; [rows, d] if `rows` bool [batch, n] picks some.

        `block_arguments` are those that the model gives its own blocks (attention_mask, position_embeddings …).
        """
        x = states
        if self.block is not None:
            x = first_tensor(self.block(x, **block_arguments))
        x = x if rows is None else x[rows]
        x = x.float()
        return (x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + self.eps)) @ self.map.T

    def load(self, adapter: ExitAdapter) -> None:
        """Load an adapter's weights; it must be of this kind."""
        with torch.no_grad():
            self.map.copy_(torch.from_numpy(np.array(adapter.map, np.float32)))
        if self.block is not None:
            self.block.load_state_dict({name: torch.from_numpy(np.array(a)) for name, a in adapter.block.items()})

    def adapter(self) -> ExitAdapter:
        """Return the weights rounded to float16, as they are shipped. Raises EdgeSkipError if one does not fit."""

        def rounded(tensor: Tensor) -> Any:
            narrow = tensor.detach().cpu().to(torch.float16)
            if not narrow.isfinite().all():
                raise EdgeSkipError(
                    "training failed: an exit adapter's weights overflow float16: lower --learning-rate"
                )
            return narrow.float().numpy()

        block = self.block.state_dict() if self.block is not None else {}
        return ExitAdapter(rounded(self.map), {name: rounded(tensor) for name, tensor in block.items()})
