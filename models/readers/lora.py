"""A LoRA of a model: what it holds, the file it is stored in beside a profile, and the model with it merged in.

The folder that PEFT keeps one in is `peft_folder`'s; training one is not here.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.json_file import parse_json
from edgeskip.core.safetensors_bytes import read_arrays
from edgeskip.models.decoder import Float32, Tensor
from edgeskip.models.readers.checkpoint import Checkpoint
from edgeskip.profiles.exit_adapter import narrowed

PREFIX = "base_model.model."  # PEFT puts it before the name of a module
_A, _B = ".lora_A.weight", ".lora_B.weight"
_SCALING = "scaling"
_FILE = "edgeskip.file/"  # before the name of a file that is stored with a LoRA


@dataclass(frozen=True)
class LoraWeight:
    """The update of one linear layer: W + scaling·B·A (Hu et al. 2021, §4.1); a [r, in], b [out, r], float32."""

    a: Float32
    b: Float32
    scaling: float

    @property
    def rank(self) -> int:
        return int(self.a.shape[0])

    def delta(self) -> Float32:
        """Return scaling·B·A [out, in]."""
        product: Float32 = np.matmul(self.b, self.a, dtype=np.float32)
        product *= np.float32(self.scaling)
        return product


@dataclass(frozen=True)
class Lora:
    """Module name (`model.layers.3.self_attn.q_proj`) → its update. Never empty."""

    weights: Mapping[str, LoraWeight]

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks it has, ascending, each once."""
        return tuple(sorted({weight.rank for weight in self.weights.values()}))

    @property
    def num_parameters(self) -> int:
        return sum(weight.a.size + weight.b.size for weight in self.weights.values())

    def digest(self) -> str:
        """Return the sha256 (hex) of the content, whatever the file format and the width of its numbers."""
        found = hashlib.sha256()
        for name, weight in sorted(self.weights.items()):
            found.update(f"{name} {weight.a.shape} {weight.b.shape}\n".encode())
            found.update(struct.pack("<d", weight.scaling))
            for array in (weight.a, weight.b):
                found.update(np.ascontiguousarray(array, dtype="<f4").tobytes())
        return found.hexdigest()


def lora_of(arrays: Mapping[str, NDArray[Any]], scaling: Mapping[str, float] | float, file: str) -> Lora:
    """Return the LoRA in `arrays`, under PEFT's names (`….lora_A.weight`); `scaling` is by module, or one for all.

    EdgeSkipError, which names `file`, for a name that is no plain LoRA's, a half without the other, shapes that do
    not go together, a module without a scaling and values that are not finite.
    """
    halves: dict[str, dict[str, Float32]] = {}
    for name, array in arrays.items():
        end = next((end for end in (_A, _B) if name.endswith(end)), None)
        if end is None or not name.startswith(PREFIX):
            raise EdgeSkipError(f"{file}: {name!r} is not of a plain LoRA on a linear layer: merge it with PEFT first")
        halves.setdefault(name.removeprefix(PREFIX).removesuffix(end), {})[end] = array.astype(np.float32)
    if not halves:
        raise EdgeSkipError(f"{file} holds no LoRA: train again")
    weights = {}
    for module, half in sorted(halves.items()):
        if len(half) != 2:
            raise EdgeSkipError(f"{file}: {module} has lora_A or lora_B, not both: train again")
        a, b = half[_A], half[_B]
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1] or not a.size or not b.size:
            raise EdgeSkipError(
                f"{file}: {module} has lora_A {list(a.shape)} and lora_B {list(b.shape)}, "
                "not [r, in] and [out, r]: train again"
            )
        factor = scaling.get(module) if isinstance(scaling, Mapping) else scaling
        if factor is None:
            raise EdgeSkipError(f"{file} does not say how {module} is scaled: train again")
        if not (np.isfinite(factor) and np.isfinite(a).all() and np.isfinite(b).all()):
            raise EdgeSkipError(f"{file}: {module} has values that are not finite: train again")
        weights[module] = LoraWeight(a, b, float(factor))
    return Lora(weights)


def arrays_of(lora: Lora) -> dict[str, NDArray[Any]]:
    """Return the arrays under PEFT's names, float16 if that represents them exactly, else float32."""
    arrays: dict[str, NDArray[Any]] = {}
    for module, weight in lora.weights.items():
        for end, array in ((_A, weight.a), (_B, weight.b)):
            arrays[f"{PREFIX}{module}{end}"] = np.ascontiguousarray(narrowed(array))
    return arrays


def pack_lora(lora: Lora, files: Mapping[str, bytes] | None = None) -> bytes:
    """Return the file to store beside a profile: safetensors with PEFT's names. Its metadata's `scaling` is a JSON
    object, module name → scaling; "" stands for all modules that it does not name.

    `files` (name → content) are stored with it as arrays of bytes: the tokenizer of a PEFT folder, say.
    """
    from safetensors.numpy import save

    usual, _ = Counter(weight.scaling for weight in lora.weights.values()).most_common(1)[0]
    scaling = {"": usual} | {name: weight.scaling for name, weight in lora.weights.items() if weight.scaling != usual}
    # One entry only: the library writes several in no fixed order.
    arrays = arrays_of(lora)
    arrays |= {_FILE + name: np.frombuffer(content, np.uint8) for name, content in (files or {}).items()}
    data: bytes = save(arrays, metadata={_SCALING: json.dumps(scaling, sort_keys=True)})
    return data


def unpack_lora(data: bytes, file: str) -> Lora:
    """Return the LoRA in the bytes that `pack_lora` made. EdgeSkipError, which names `file`, if they are damaged."""
    try:
        arrays, metadata = read_arrays(data)
        scaling = parse_json(metadata[_SCALING])
        usual = float(scaling[""])
        by_module = {str(name): float(value) for name, value in scaling.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EdgeSkipError(f"{file} is not the LoRA of a profile ({error}): copy it again or train again") from None
    arrays = {name: array for name, array in arrays.items() if not name.startswith(_FILE)}
    modules = {name.removeprefix(PREFIX).rsplit(".lora_", 1)[0] for name in arrays}
    return lora_of(arrays, {module: by_module.get(module, usual) for module in modules}, file)


def unpack_files(data: bytes, file: str) -> dict[str, bytes]:
    """Return the files (name → content) that `pack_lora` stored with a LoRA."""
    try:
        arrays, _ = read_arrays(data)
    except ValueError as error:
        raise EdgeSkipError(f"{file} is not the LoRA of a profile ({error}): copy it again or train again") from None
    return {name.removeprefix(_FILE): array.tobytes() for name, array in arrays.items() if name.startswith(_FILE)}


def combined(first: Lora, second: Lora) -> Lora:
    """Return one LoRA that does what both do, one after the other: B·A of both side by side, rank r₁ + r₂."""
    weights = dict(first.weights)
    for module, weight in second.weights.items():
        if module not in weights:
            weights[module] = weight
            continue
        both = (weights[module], weight)
        # A common scaling stays outside: values that float16 holds then still are.
        common = weight.scaling if both[0].scaling == weight.scaling else 1.0
        parts = [one.b if one.scaling == common else one.b * np.float32(one.scaling) for one in both]
        weights[module] = LoraWeight(np.concatenate([one.a for one in both]), np.concatenate(parts, axis=1), common)
    return Lora(weights)


def merged(checkpoint: Checkpoint, lora: Lora, path: Path | None) -> Checkpoint:
    """Return `checkpoint` with the weights that `lora` names replaced by W + scaling·B·A, still lazy and float32.

    They have no stored blocks any more. `path`, what the LoRA was read from, joins the files that decide the numbers.
    Raises EdgeSkipError if the model has no such linear layer or it has another shape.
    """
    file = "the LoRA" if path is None else str(path)
    tensors = dict(checkpoint.tensors)
    for module, weight in lora.weights.items():
        name = f"{module}.weight"
        tensor = tensors.get(name)
        if tensor is None or len(tensor.shape) != 2 or module == "model.embed_tokens":
            raise EdgeSkipError(f"{file}: {module} is not a linear layer of {checkpoint.file}: is it of another model?")
        if module == "lm_head" and checkpoint.config["tie_word_embeddings"]:
            raise EdgeSkipError(f"{file}: lm_head is the embedding in this model and cannot have its own LoRA")
        shape = (weight.b.shape[0], weight.a.shape[1])
        if tensor.shape != shape:
            raise EdgeSkipError(
                f"{file}: the LoRA of {module} is for a weight {list(shape)} and that of {checkpoint.file} is "
                f"{list(tensor.shape)}: is it of another model?"
            )
        tensors[name] = _sum(tensor, weight)
    return replace(checkpoint, tensors=tensors, files=(*checkpoint.files, *([path] if path else [])))


def _sum(tensor: Tensor, weight: LoraWeight) -> Tensor:
    def read() -> Float32:
        total = weight.delta()
        total += tensor.read()
        return total

    return Tensor(tensor.name, tensor.shape, read)


def adapted_fingerprint(base_fingerprint: str, lora: Lora) -> str:
    """Return the fingerprint (hex sha256) of a model with a LoRA: over the model's own and what the LoRA says."""
    return hashlib.sha256(f"{base_fingerprint} lora {lora.digest()}\n".encode()).hexdigest()
