"""Early exits on the way through prefill: the sums that each exit's map is solved from, and how often it then agrees.

z is an exit state divided by its RMS (with the final norm's eps, without its weight), h the model's final normalized
state, which the head reads. The map A minimises Σ‖h − A·z‖² + λ·‖A − diag(w)‖² in closed form, w the final norm's
weight: diag(w)·z is what the model's own head would read at the exit (LayerSkip), so an exit that is good already, or
that few tokens tell of, stays near that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeskip.calibration.distributed import Shard
from edgeskip.core.errors import EdgeSkipError
from edgeskip.models.torch_reference.blocks import blocks_of, first_tensor
from edgeskip.profiles.schema import ExitStatistics

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor
    from transformers import PreTrainedModel

FIT, CHOOSE, HELD_OUT = range(3)  # what a window of text is for
HELD_OUT_TOKENS = 8192  # at most: the standard error of a share is then below 0.6 %, and the states fit in memory
LAMBDAS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # per token; the mean square of an element of z is 1
ROWS_AT_ONCE = 256  # of states whose logits are in memory together


def roles_of(windows: int, context: int) -> list[int]:
    """Return what each window is for: a fifth (at least one) held out, a fifth of the rest to choose λ by, spread
    evenly.

    Raises EdgeSkipError if there is only one window of `context` tokens.
    """
    if windows < 2:
        raise EdgeSkipError(
            f"--exits holds out a part of the text, but there is one window of {context} tokens: "
            f"add text or --tokens, or use  --context {max(context // 5, 1)}  or less"
        )
    roles = [FIT] * windows
    held_out = max(min(windows // 5, HELD_OUT_TOKENS // context), 1)
    for role, count in ((HELD_OUT, held_out), (CHOOSE, (windows - held_out) // 5 or int(windows > 2))):
        free = [index for index, taken in enumerate(roles) if taken == FIT]
        for i in range(count):
            roles[free[(2 * i + 1) * len(free) // (2 * count)]] = role
    return roles


class ExitProbe:
    """Watches the exits `layers` of a model during its passes over windows, then solves and measures their maps.

    `moments` [2, exits, hidden_size, 2·hidden_size] is ZᵀZ beside ZᵀH over the tokens of the windows to fit and to
    choose by, float64 (float32 on devices that have no float64); the held-out tokens' states are kept.
    """

    def __init__(self, model: PreTrainedModel, layers: Sequence[int], roles: Sequence[int]) -> None:
        import torch

        self._model, self._layers, self._roles = model, tuple(layers), roles
        self._norm = model.model.norm
        device = self._norm.weight.device
        size = model.config.hidden_size
        wide = torch.float32 if device.type == "mps" else torch.float64
        self.moments = torch.zeros(2, len(layers), size, 2 * size, dtype=wide, device=device)
        self.tokens = torch.zeros(2, dtype=wide, device=device)
        self._seen: dict[int, Tensor] = {}
        self._held_out: list[tuple[Tensor, Tensor]] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Keep z of every pass while the context lasts, by hooks on the blocks before the exits."""
        import torch

        blocks = blocks_of(self._model)

        def after(layer: int) -> Any:
            def hook(module: object, args: object, output: Any) -> None:
                x = first_tensor(output).detach()[0].to(torch.float32)
                mean_square = (x * x).mean(dim=-1, keepdim=True)
                self._seen[layer] = x * torch.rsqrt(mean_square + self._norm.variance_epsilon)

            return hook

        with ExitStack() as hooks:
            for layer in self._layers:
                hooks.callback(blocks[layer - 1].module.register_forward_hook(after(layer)).remove)
            yield
        self._seen.clear()

    def add(self, window: int, final: Tensor) -> None:
        """Add the pass over window number `window`; `final` [1, tokens, hidden_size] is what the head reads."""
        import torch

        role = self._roles[window]
        states = [self._seen[layer] for layer in self._layers]
        if role == HELD_OUT:
            self._held_out.append((torch.stack(states), final[0].clone()))
            return
        h = final[0].to(self.moments.dtype)
        self.tokens[role] += len(h)
        for index, state in enumerate(states):
            z = state.to(self.moments.dtype)
            self.moments[role, index] += z.T @ torch.cat((z, h), dim=1)

    def finish(
        self, shard: Shard, advance: Callable[[int], None]
    ) -> tuple[list[ExitStatistics], dict[int, NDArray[np.float32]]]:
        """Return the exits' statistics and maps from all processes' windows, which must call this together.

        Maps are rounded to float16 if that can hold them, and measured as rounded. `advance` is told the held-out
        tokens of this process as they are done. Raises EdgeSkipError if an exit state is not finite.
        """
        import torch

        shard.add_up(self.moments, self.tokens)
        prior = self._norm.weight.detach().double().cpu().diag()
        maps = []
        for index, layer in enumerate(self._layers):
            fit, choose = self.moments[:, index].double().cpu()
            if not (fit.isfinite().all() and choose.isfinite().all()):
                raise EdgeSkipError(
                    f"the residual stream overflows before exit layer {layer}: "
                    "calibrate with --dtype float32 or bfloat16"
                )
            exit_map = ridge(fit, choose, self.tokens.tolist(), prior)
            narrow = exit_map.to(torch.float16)
            maps.append((narrow if narrow.isfinite().all() else exit_map).to(torch.float32))
        agreed, tokens = self._agreement(torch.stack(maps), shard, advance)
        statistics = [
            ExitStatistics(layer=layer, tokens=tokens, plain_agreement=plain / tokens, ridge_agreement=mapped / tokens)
            for layer, (plain, mapped) in zip(self._layers, agreed, strict=True)
        ]
        return statistics, {layer: found.numpy() for layer, found in zip(self._layers, maps, strict=True)}

    def _agreement(
        self, maps: Tensor, shard: Shard, advance: Callable[[int], None]
    ) -> tuple[list[tuple[int, int]], int]:
        """Held-out tokens on which each exit's most likely token is the model's, plain and mapped; and all of them."""
        import torch

        head = self._model.get_output_embeddings()
        weight = self._norm.weight.to(torch.float32)
        maps = maps.to(weight.device)
        agreed = torch.zeros(len(self._layers), 2, dtype=torch.long, device=weight.device)
        total = torch.zeros(1, dtype=torch.long, device=weight.device)
        with torch.inference_mode():
            for states, final in self._held_out:
                for start in range(0, len(final), ROWS_AT_ONCE):
                    rows = slice(start, start + ROWS_AT_ONCE)
                    expected = head(final[rows]).argmax(dim=-1)
                    for index, z in enumerate(states[:, rows]):
                        for column, read in enumerate((z * weight, z @ maps[index].T)):
                            agreed[index, column] += (head(read.to(final.dtype)).argmax(dim=-1) == expected).sum()
                    total += len(expected)
                    advance(len(expected))
        shard.add_up(agreed, total)
        return [(plain, mapped) for plain, mapped in agreed.tolist()], int(total)


def ridge(fit: Tensor, choose: Tensor, tokens: Sequence[float], prior: Tensor) -> Tensor:
    """Return the map A [d, d] that is `prior` plus what the text says, float64.

    `fit` and `choose` [d, 2d] are ZᵀZ beside ZᵀH over `tokens` tokens each. The λ of LAMBDAS whose map, fitted on the
    one, leaves the least error Σ‖h − A·z‖² on the other is taken for both together; without tokens to choose by, the
    second of them. The error decides, not agreement: it follows from the sums alone, and agreement is all but the same
    over these λ.
    """
    import torch

    size = len(fit)

    def solved(sums: Tensor, strength: float) -> Tensor:
        zz, zh = sums[:, :size], sums[:, size:]
        penalty = strength * torch.eye(size, dtype=sums.dtype)
        found: Tensor = torch.linalg.solve(zz + penalty, zh + strength * prior.T).T
        return found

    def error(exit_map: Tensor) -> float:  # less Σ‖h‖², which no map changes
        return float(((exit_map @ choose[:, :size]) * exit_map).sum() - 2 * (exit_map.T * choose[:, size:]).sum())

    best = LAMBDAS[1]
    if tokens[1]:
        best = min(LAMBDAS, key=lambda each: error(solved(fit, each * tokens[0])))
    return solved(fit + choose, best * sum(tokens))
