"""The `.safetensors` file beside a profile: mean residual streams, exit maps and adapters, fitted biases.

Reading and packing only; `edgeskip.profiles.schema` says what belongs there and writes it.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.safetensors_bytes import read_arrays
from edgeskip.profiles.exit_adapter import ExitAdapter, is_adapter_array, narrowed, pack_adapters, read_adapters
from edgeskip.profiles.output import vectors_path
from edgeskip.profiles.schema import Phase, Profile, SideFiles, VectorsRecord, read_vectors_file

_EXIT_MAP = re.compile(r"exit\.([1-9][0-9]{0,8})\.map")


@dataclass(frozen=True)
class Vectors:
    """Weighted mean residual stream before and after each sublayer, float32 [2M, hidden_size] per phase."""

    mean_in: dict[Phase, NDArray[np.float32]]
    mean_out: dict[Phase, NDArray[np.float32]]
    exit_maps: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    """Exit layer → A [hidden_size, hidden_size]: final normalized state ≈ A · RMS-normalized exit state."""
    exit_adapters: dict[int, ExitAdapter] = field(default_factory=dict)
    """Exit layer → what `edgeskip train --method exit-adapter` trained for it."""
    plan_bias: NDArray[np.float32] | None = None
    """Fitted bias of each of the plan's skips [skips, hidden_size]; None if the plan is not fitted."""
    plan_map: NDArray[np.floating[Any]] | None = None
    """Fitted map of each skip [skips, hidden_size, hidden_size]; None unless the compensation is linear."""
    token_counts: NDArray[np.int64] | None = None
    """How often the corpus has each token [vocab_size]; None if the profile was made before they were kept."""


def read_vectors(profile: Profile, path: Path) -> Vectors:
    """Return the vectors beside the profile at `path`, checked against the hash and shapes the profile states.

    A profile made before exits were calibrated has neither maps nor token counts. EdgeSkipError for a file that is
    missing or another one, an array of another shape, and an exit of the profile without its map.
    """
    file = path.parent / profile.vectors.file
    data = read_vectors_file(profile, path)
    try:
        arrays, _ = read_arrays(data)
    except ValueError as error:
        raise EdgeSkipError(f"{file} is not a vectors file ({error}): calibrate again") from None
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise EdgeSkipError(f"{file}: {name} holds numbers that are not finite: calibrate again")
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
    _check_fit(profile, path, arrays)
    counts = arrays.get("token_counts")
    return Vectors(
        mean_in={p: arrays[f"{p}.mean_in"] for p in phases if f"{p}.mean_in" in arrays},
        mean_out={p: arrays[f"{p}.mean_out"] for p in phases if f"{p}.mean_out" in arrays},
        exit_maps=dict(sorted(maps.items())),
        exit_adapters=adapters,
        plan_bias=arrays.get("plan.bias"),
        plan_map=arrays.get("plan.map"),
        token_counts=None if counts is None else counts.astype(np.int64),
    )


def _check_fit(profile: Profile, path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Raise EdgeSkipError if a fitted plan lacks the arrays that its compensation needs."""
    plan = profile.plan
    if plan is None or plan.scales is None:
        return
    needed = {"affine": ["plan.bias"], "linear": ["plan.bias", "plan.map"]}.get(plan.compensation, [])
    for name in needed:
        if name not in arrays:
            raise EdgeSkipError(f"{path.parent / profile.vectors.file} has no {name} of {path.name}: plan again")


def _expected(name: str, profile: Profile) -> tuple[tuple[type[np.generic], ...], tuple[int, ...]]:
    """Type and shape of an array of the vectors file."""
    model = profile.model
    skips = len(profile.plan.skip) if profile.plan else 0
    if name == "plan.bias":
        return (np.float32,), (skips, model.hidden_size)
    if name == "plan.map":
        return (np.float16, np.float32), (skips, model.hidden_size, model.hidden_size)
    if _EXIT_MAP.fullmatch(name):
        return (np.float16, np.float32), (model.hidden_size, model.hidden_size)
    if name == "token_counts":
        return (np.int32,), (model.vocab_size,)
    return (np.float32,), (2 * model.num_blocks, model.hidden_size)


def pack_vectors(vectors: Vectors, path: Path) -> tuple[VectorsRecord, bytes]:
    """Return the vectors file of the profile at `path`: the record the profile must carry, and the file's bytes."""
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
    if vectors.plan_map is not None:
        arrays["plan.map"] = narrowed(vectors.plan_map)
    if vectors.token_counts is not None:
        arrays["token_counts"] = vectors.token_counts.astype(np.int32)
    data = save(arrays)
    return VectorsRecord(file=vectors_path(path).name, sha256=hashlib.sha256(data).hexdigest()), data


def with_vectors(profile: Profile, vectors: Vectors, *, path: Path, adapter: bytes | None) -> Profile:
    """Return `profile` carrying `vectors` and the file with the LoRA, not saved yet; `path` is where it would go."""
    record, packed = pack_vectors(vectors, path)
    changed = profile.model_copy(update={"vectors": record})
    return changed.with_files(SideFiles(path.absolute(), False, packed, adapter))
