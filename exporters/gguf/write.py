"""Write GGUF files with the gguf package's writer, tensor by tensor, and the side file of a trimmed draft head."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgeskip.core.errors import EdgeSkipError
from edgeskip.exporters.draft import DraftHead
from edgeskip.exporters.gguf.formats import GgufFormat
from edgeskip.exporters.gguf.metadata import Value
from edgeskip.exporters.gguf.tensors import NamedTensor, stored_bytes
from edgeskip.exporters.job import StepCallback, no_step
from edgeskip.runtime.engines.llamacpp.trimmed_head import EPS


def write_gguf(
    path: Path,
    architecture: str,
    metadata: Mapping[str, Value],
    tensors: list[NamedTensor],
    form: GgufFormat,
    *,
    step: StepCallback = no_step,
) -> None:
    """Write the file at `path`; `step` is called with the name of each block as it begins."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter

    kinds = [form.kind_of(named.tensor) for named in tensors]
    writer = GGUFWriter(path, architecture)
    try:
        for key, value in metadata.items():
            _add(writer, key, value)
        for named, kind in zip(tensors, kinds, strict=True):
            block, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
            shape = named.tensor.shape
            bytes_shape = (*shape[:-1], shape[-1] // block * size)
            writer.add_tensor_info(
                named.name,
                bytes_shape,
                np.dtype(np.uint8),
                int(np.prod(bytes_shape, dtype=np.int64)),
                GGMLQuantizationType[kind],
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        part = ""
        for named, kind in zip(tensors, kinds, strict=True):
            if (begun := ".".join(named.name.split(".")[:2])) != part and named.name.startswith("blk."):
                part = begun
                step(part)
            writer.write_tensor_data(stored_bytes(named, kind, keep=form.kind is None))
    finally:
        writer.close()


def write_head_file(path: Path, head: DraftHead) -> str:
    """Write `head` float16 [V', d], the norm's weight in it, `tokens` int32 [V'] and eps; return the file's sha256.

    llama.cpp's models have one head, over all tokens, so a trimmed one has a file to itself.

    Raises:
        EdgeSkipError: If a weight leaves the range of float16.
    """
    from safetensors.numpy import save

    assert head.head is not None
    assert head.tokens is not None
    weight = head.head.weight.read() * head.norm.weight.read()
    with np.errstate(over="ignore"):  # found below
        rounded = weight.astype(np.float16)
    if not np.isfinite(rounded).all():
        raise EdgeSkipError("the draft head leaves the range of 16-bit floats: leave --draft-vocab out")
    data = save({"head": rounded, "tokens": head.tokens.astype(np.int32)}, metadata={EPS: repr(head.norm.eps)})
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def patch_string(path: Path, key: str, old: str, new: str) -> None:
    """Overwrite a metadata string of a written file in place; `new` is padded with spaces to the length of `old`.

    Raises:
        ValueError: If the file has no such string or `new` is longer.
    """
    from gguf import GGUFValueType

    before, after = old.encode(), new.encode()
    if len(after) > len(before):
        raise ValueError(f"{key} has room for {len(before)} bytes, not {len(after)}")
    # The whole entry is looked for: its name alone may be in a token or a description too.
    entry = _counted(key.encode()) + int(GGUFValueType.STRING).to_bytes(4, "little") + _counted(before)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        end = data.find(entry) + len(entry)
        if end < len(entry):
            raise ValueError(f"{path} has no key {key} with that text")
        data[end - len(before) : end] = after.ljust(len(before))


def _counted(text: bytes) -> bytes:
    """Return a string as GGUF stores it."""
    return len(text).to_bytes(8, "little") + text


def _add(writer: Any, key: str, value: Value) -> None:
    from gguf import GGUFValueType

    kind = GGUFValueType(value.type) if value.type is not None else _type_of(value.value)
    if kind != GGUFValueType.ARRAY:
        writer.add_key_value(key, value.value, kind)
    elif len(value.value):  # the writer refuses an empty array; a key without one reads the same
        element = GGUFValueType(value.element) if value.element is not None else _type_of(value.value[0], element=True)
        writer.add_key_value(key, value.value, kind, element)


def _type_of(value: Any, *, element: bool = False) -> Any:
    """Return the type llama.cpp's own converter would choose: UINT32 for an integer, INT32 in an array."""
    from gguf import GGUFValueType

    match value:
        case bool():
            return GGUFValueType.BOOL
        case int():
            return GGUFValueType.INT32 if element else GGUFValueType.UINT32
        case float():
            return GGUFValueType.FLOAT32
        case str():
            return GGUFValueType.STRING
    return GGUFValueType.ARRAY
