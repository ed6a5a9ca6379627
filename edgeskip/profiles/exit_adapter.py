"""A trained exit adapter's weights, and their names and types in the vectors file beside a profile."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgeskip.core.errors import EdgeSkipError

Float32 = NDArray[np.float32]
AdapterKind = Literal["map", "block"]
_ARRAY = re.compile(r"exit\.([1-9][0-9]{0,8})\.adapter\.(map|block\.[a-z_.]+)")


@dataclass(frozen=True)
class ExitAdapter:
    """Draft logits = head · map · RMSNorm(block(x)), x the exit state, the norm without a weight, its eps the model's.

    `map` [d, d] float32 holds the norm's weight. `block` is one more transformer block of the model's own family and
    shape after the exit, parameter names as in its blocks (`self_attn.q_proj.weight`) → float32; {} = none.
    """

    map: Float32
    block: Mapping[str, Float32] = field(default_factory=dict)

    @property
    def kind(self) -> AdapterKind:
        return "block" if self.block else "map"

    def arrays(self, layer: int) -> dict[str, NDArray[Any]]:
        """Name → array as they are stored: float16 if that holds the values exactly, else float32."""
        named = {"map": self.map} | {f"block.{name}": array for name, array in self.block.items()}
        return {f"exit.{layer}.adapter.{name}": narrowed(array) for name, array in named.items()}


def is_adapter_array(name: str) -> bool:
    """Return whether the vectors file's array `name` is of an exit adapter."""
    return _ARRAY.fullmatch(name) is not None


def read_adapters(arrays: Mapping[str, NDArray[Any]], hidden_size: int) -> dict[int, ExitAdapter]:
    """Exit layer → adapter, from the arrays of a vectors file; other arrays are left alone.

    Raises EdgeSkipError if an adapter has no map or its map is not [hidden_size, hidden_size].
    """
    found: dict[int, dict[str, Float32]] = {}
    for name, array in arrays.items():
        match = _ARRAY.fullmatch(name)
        if match:
            found.setdefault(int(match[1]), {})[match[2]] = array.astype(np.float32)
    adapters = {}
    for layer, parts in sorted(found.items()):
        exit_map = parts.pop("map", None)
        if exit_map is None or exit_map.shape != (hidden_size, hidden_size):
            raise EdgeSkipError(f"the adapter of exit layer {layer} has no map [{hidden_size}, {hidden_size}]")
        adapters[layer] = ExitAdapter(exit_map, {name.removeprefix("block."): part for name, part in parts.items()})
    return adapters


def pack_adapters(adapters: Mapping[int, ExitAdapter]) -> dict[str, NDArray[Any]]:
    """Return the arrays of all adapters for the vectors file."""
    packed: dict[str, NDArray[Any]] = {}
    for layer, adapter in adapters.items():
        packed |= adapter.arrays(layer)
    return packed


def narrowed(array: Float32) -> NDArray[Any]:
    """Return the array as float16 if that holds it exactly, else as it is; C-contiguous."""
    with np.errstate(over="ignore"):
        narrow = array.astype(np.float16)
    return np.ascontiguousarray(narrow if np.array_equal(narrow, array) else array)


def parameter_names(names: Iterable[str], block: int) -> dict[str, str]:
    """Of a model's parameter names those of one block: name within the block → whole name."""
    prefix = f"model.layers.{block}."
    return {name.removeprefix(prefix): name for name in names if name.startswith(prefix)}
