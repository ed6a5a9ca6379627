"""What a plan saves: predicted from a device profile, or from the weights alone."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from edgeskip.core.sublayers import Sublayer

if TYPE_CHECKING:
    from edgeskip.models.decoder import Decoder
    from edgeskip.profiles.device_profile import DeviceProfile


class CostModel(Protocol):
    """Predicted times of the skipped model on one device."""

    @property
    def name(self) -> str:
        """What the times are of."""

    def speedups(self, skip: Collection[Sublayer]) -> tuple[float, float]:
        """Return the speed-ups of prefill and decode: dense time over skipped."""


@dataclass(frozen=True)
class DeviceCostModel:
    """From the times of each sublayer on a device, decoding at `context` tokens in the cache."""

    device: DeviceProfile
    context: int

    @property
    def name(self) -> str:
        return self.device.name

    def speedups(self, skip: Collection[Sublayer]) -> tuple[float, float]:
        return self.device.speedups(skip, self.context)


@dataclass(frozen=True)
class WeightCostModel:
    """Where no device was measured: a step reads every weight once (decode), a prompt multiplies by each (prefill).

    `weights` [2M] of each sublayer, `head` of the head.
    """

    weights: tuple[int, ...]
    head: int
    name: str = "no device profile: by the weights read"

    def speedups(self, skip: Collection[Sublayer]) -> tuple[float, float]:
        blocks = sum(self.weights)
        less = sum(self.weights[sublayer.index] for sublayer in skip)
        return blocks / (blocks - less), (blocks + self.head) / (blocks + self.head - less)


def weight_cost_model(decoder: Decoder) -> WeightCostModel:
    """Return the costs of a decoder by the sizes of its matrices."""
    from edgeskip.models.decoder import Attention

    def size(shape: tuple[int, ...]) -> int:
        return shape[0] * shape[1]

    weights = []
    for sublayer in decoder.sublayers:
        if isinstance(sublayer, Attention):
            matrices = [sublayer.q, sublayer.k, sublayer.v, sublayer.o]
        else:
            matrices = [sublayer.gate, sublayer.up, sublayer.down]
        weights.append(sum(size(matrix.weight.shape) for matrix in matrices))
    return WeightCostModel(tuple(weights), size(decoder.embedding.shape))
