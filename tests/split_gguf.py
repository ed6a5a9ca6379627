"""Splits a GGUF file of the llama architecture at an exit layer with the gguf package, blocks untouched."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np

STUB_WIDTH = 32


def split_gguf(
    whole: Path, folder: Path, exit_layer: int, metadata: dict[str, dict[str, str]] | None = None
) -> tuple[Path, Path]:
    """(first, rest): two `deci` files in `folder`. `metadata` adds string keys, by "first" and "rest"."""
    reader = gguf.GGUFReader(whole)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    blocks = int(reader.fields["llama.block_count"].contents())
    added = metadata or {}
    first = _write(
        reader, tensors, folder / "first.gguf", range(exit_layer), stub=True, head=False, added=added.get("first", {})
    )
    rest = _write(
        reader, tensors, folder / "rest.gguf", range(exit_layer, blocks), stub=False, head=True,
        added=added.get("rest", {}),
    )  # fmt: skip
    return first, rest


def _write(
    reader: Any, tensors: dict[str, Any], path: Path, blocks: range, *, stub: bool, head: bool, added: dict[str, str]
) -> Path:
    writer = gguf.GGUFWriter(path, "deci")
    sizes = {name: int(reader.fields[f"llama.{name}"].contents()) for name in (
        "attention.head_count", "attention.head_count_kv", "feed_forward_length", "embedding_length",
    )}  # fmt: skip
    hidden = sizes.pop("embedding_length")
    head_dim = hidden // sizes["attention.head_count"]
    for key, field in reader.fields.items():
        name = key.removeprefix("llama.")
        if key.startswith("GGUF.") or key == "general.architecture" or name == "block_count" or name in sizes:
            continue
        sub_type = field.types[1] if len(field.types) > 1 else None
        new = f"deci.{name}" if key.startswith("llama.") else key
        writer.add_key_value(new, field.contents(), field.types[0], sub_type)
    for name, size in sizes.items():
        last = [STUB_WIDTH if name == "feed_forward_length" else 0] if stub else []
        writer.add_array(f"deci.{name}", [size] * len(blocks) + last)
    writer.add_uint32("deci.block_count", len(blocks) + stub)
    for name in ("key_length", "value_length"):
        if f"llama.attention.{name}" not in reader.fields:
            writer.add_uint32(f"deci.attention.{name}", head_dim)
    for key, value in added.items():
        writer.add_string(key, value)
    for name, tensor in tensors.items():
        block = re.match(r"blk\.(\d+)\.(.*)", name)
        if block and int(block[1]) in blocks:
            name = f"blk.{int(block[1]) - blocks.start}.{block[2]}"
        elif block or (head and name == "token_embd.weight" and "output.weight" in tensors):
            continue
        elif head and name == "output.weight":
            name = "token_embd.weight"
        writer.add_tensor(name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
    if stub:
        prefix = f"blk.{len(blocks)}"
        writer.add_tensor(f"{prefix}.ffn_norm.weight", np.ones(hidden, np.float32))
        for name, shape in (
            ("gate", (STUB_WIDTH, hidden)),
            ("up", (STUB_WIDTH, hidden)),
            ("down", (hidden, STUB_WIDTH)),
        ):
            writer.add_tensor(f"{prefix}.ffn_{name}.weight", np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
