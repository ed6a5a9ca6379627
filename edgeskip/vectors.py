"""The `.safetensors` file beside a profile: mean residual streams, exit maps and adapters, fitted biases.

Reading and packing only; `edgeskip.profile` says what belongs there and writes it.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeskip.errors import EdgeSkipError
from edgeskip.exit_adapter import ExitAdapter, is_adapter_array, narrowed, pack_adapters, read_adapters
from edgeskip.profile import Phase, Profile, VectorsRecord, read_beside, vectors_path

_EXIT_MAP = re.compile(r"exit\.([1-9][0-9]*)\.map")
_FRONT_BIAS = re.compile(r"front\.(0|[1-9][0-9]*)\.bias")


@dataclass(frozen=True)
class Vectors:
    """Weighted mean residual stream before and after each sublayer, float32 [2M, hidden_size] per phase."""

    mean_in: dict[Phase, NDArray[np.float32]]
    mean_out: dict[Phase, NDArray[np.float32]]
    exit_maps: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    """Exit layer → A [hidden_size, hidden_size]: final normalised state ≈ A · RMS-normalised exit state (design §7)."""
    exit_adapters: dict[int, ExitAdapter] = field(default_factory=dict)
    """Exit layer → what `edgeskip train --method exit-adapter` trained for it."""
    plan_bias: NDArray[np.float32] | None = None
    """Fitted bias of each of the plan's skips [skips, hidden_size]; None where the plan is not fitted."""
    front_bias: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    """Number of a point of the search's front → the biases of its skips."""
    token_counts: NDArray[np.int64] | None = None
    """How often the corpus has each token [vocab_size]; None where the profile was made before they were kept."""


def read_vectors(profile: Profile, path: Path) -> Vectors:
    """The vectors beside the profile at `path`, checked against the hash and shapes the profile states.

    A profile made before exits were calibrated has neither maps nor token counts. EdgeSkipError for a file that is
    missing or another one, an array of another shape, and an exit of the profile without its map.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    file = path.parent / profile.vectors.file
    data = read_beside(file, path)
    if hashlib.sha256(data).hexdigest() != profile.vectors.sha256:
        raise EdgeSkipError(f"{file} does not match the sha256 in {path.name}: copy both files together or recalibrate")
    try:
        arrays = load(data)
    except SafetensorError as error:
        raise EdgeSkipError(f"{file} is not a safetensors file ({error}): calibrate again") from None
    for name, array in arrays.items():
        if is_adapter_array(name) and array.dtype in (np.float16, np.float32):
            continue
        dtypes, shape = _expected(name, profile)
        if array.dtype not in dtypes or array.shape != shape:
            raise EdgeSkipError(
                f"{file}: {name} is {array.dtype}{list(array.shape)}, "
                f"expected {dtypes[-1].__name__}{list(shape)}: calibrate again"
            )
    phases: tuple[Phase, ...] = ("prefill", "decode")
    maps = {
        int(match[1]): array.astype(np.float32)
        for name, array in arrays.items()
        if (match := _EXIT_MAP.fullmatch(name))
    }
    try:
        adapters = read_adapters(arrays, profile.model.hidden_size)
    except EdgeSkipError as error:
        raise EdgeSkipError(f"{file}: {error}: train again") from None
    for exit in profile.exits:
        if exit.ridge_agreement is not None and exit.layer not in maps:
            raise EdgeSkipError(f"{file} has no map for exit layer {exit.layer} of {path.name}: calibrate again")
        if exit.adapter != (adapters[exit.layer].kind if exit.layer in adapters else None):
            raise EdgeSkipError(f"{file} has another adapter for exit layer {exit.layer} than {path.name}: train again")
    _check_biases(profile, path, arrays)
    counts = arrays.get("token_counts")
    return Vectors(
        mean_in={p: arrays[f"{p}.mean_in"] for p in phases if f"{p}.mean_in" in arrays},
        mean_out={p: arrays[f"{p}.mean_out"] for p in phases if f"{p}.mean_out" in arrays},
        exit_maps=dict(sorted(maps.items())),
        exit_adapters=adapters,
        plan_bias=arrays.get("plan.bias"),
        front_bias={int(match[1]): array for name, array in arrays.items() if (match := _FRONT_BIAS.fullmatch(name))},
        token_counts=None if counts is None else counts.astype(np.int64),
    )


def _check_biases(profile: Profile, path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """EdgeSkipError where a fitted affine plan has no biases."""
    fits: dict[str, bool] = {}
    if profile.plan is not None and profile.plan.scales is not None:
        fits["plan.bias"] = profile.plan.compensation == "affine"
    if profile.front is not None and profile.front.compensation == "affine":
        fits |= {f"front.{number}.bias": True for number in range(len(profile.front.points))}
    for name, wanted in fits.items():
        if wanted and name not in arrays:
            raise EdgeSkipError(f"{path.parent / profile.vectors.file} has no {name} of {path.name}: plan again")


def _expected(name: str, profile: Profile) -> tuple[tuple[type[np.generic], ...], tuple[int, ...]]:
    """Types and shape of an array of the vectors file."""
    model = profile.model
    front = _FRONT_BIAS.fullmatch(name)
    if front and profile.front and int(front[1]) < len(profile.front.points):
        return (np.float32,), (len(profile.front.points[int(front[1])].skip), model.hidden_size)
    if name == "plan.bias":
        return (np.float32,), (len(profile.plan.skip) if profile.plan else 0, model.hidden_size)
    if _EXIT_MAP.fullmatch(name):
        return (np.float16, np.float32), (model.hidden_size, model.hidden_size)
    if name == "token_counts":
        return (np.int32,), (model.vocab_size,)
    return (np.float32,), (2 * model.num_blocks, model.hidden_size)


def pack_vectors(vectors: Vectors, path: Path) -> tuple[VectorsRecord, bytes]:
    """The vectors file of the profile at `path`: the record the profile must carry, and the file's bytes."""
    from safetensors.numpy import save

    arrays: dict[str, NDArray[Any]] = {}
    for phase, array in vectors.mean_in.items():
        arrays[f"{phase}.mean_in"] = np.ascontiguousarray(array, dtype=np.float32)
        arrays[f"{phase}.mean_out"] = np.ascontiguousarray(vectors.mean_out[phase], dtype=np.float32)
    for layer, exit_map in vectors.exit_maps.items():
        arrays[f"exit.{layer}.map"] = narrowed(exit_map)
    arrays |= pack_adapters(vectors.exit_adapters)
    if vectors.plan_bias is not None:
        arrays["plan.bias"] = np.ascontiguousarray(vectors.plan_bias, dtype=np.float32)
    for number, bias in vectors.front_bias.items():
        arrays[f"front.{number}.bias"] = np.ascontiguousarray(bias, dtype=np.float32)
    if vectors.token_counts is not None:
        arrays["token_counts"] = vectors.token_counts.astype(np.int32)
    data = save(arrays)
    return VectorsRecord(file=vectors_path(path).name, sha256=hashlib.sha256(data).hexdigest()), data
