"""Bytes and operations counted from a GGUF header. Oracle: hand calculation on files the gguf package writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from harness.work_left import prediction, work_of

from edgeskip.bench.model_cost import attention_shapes
from edgeskip.core.errors import EdgeSkipError

WIDTH, VOCABULARY, HEAD, HIDDEN = 32, 100, 8, 64
PROMPT, NEW, SEEN = 10, 4, 12  # SEEN: positions at the middle of decoding


def matrix(rows: int, columns: int, kind: Any) -> tuple[Any, Any]:
    return gguf.quants.quantize(np.zeros((rows, columns), np.float32), kind), kind


def write(path: Path, *, heads: list[int], kv_heads: list[int], ffn: list[int], head: bool = False) -> Path:
    """Block i: attention of heads[i], an FFN of ffn[i]; matrices Q8_0 (34 bytes for 32), the embedding float16."""
    writer = gguf.GGUFWriter(path, "deci")
    writer.add_uint32("deci.block_count", len(heads))
    writer.add_uint32("deci.embedding_length", WIDTH)
    writer.add_array("deci.attention.head_count", heads)
    writer.add_array("deci.attention.head_count_kv", kv_heads)
    writer.add_uint32("deci.attention.key_length", HEAD)
    writer.add_uint32("deci.attention.value_length", HEAD)
    q8, f16 = gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.F16
    tensors = {"token_embd.weight": matrix(VOCABULARY, WIDTH, f16)}
    if head:
        tensors["output.weight"] = matrix(VOCABULARY, WIDTH, q8)
    for i, (count, kv_count, width) in enumerate(zip(heads, kv_heads, ffn, strict=True)):
        if count:
            tensors[f"blk.{i}.attn_q.weight"] = matrix(count * HEAD, WIDTH, q8)
            tensors[f"blk.{i}.attn_k.weight"] = matrix(kv_count * HEAD, WIDTH, q8)
        tensors[f"blk.{i}.ffn_down.weight"] = matrix(WIDTH, width, q8)
    for name, (data, kind) in tensors.items():
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.add_tensor("blk.0.ffn_norm.weight", np.ones(WIDTH, np.float32))
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def work(path: Path) -> Any:
    return work_of(path, prompt_tokens=PROMPT, new_tokens=NEW)


def test_work_of_a_tied_file(tmp_path: Path) -> None:
    """Block 0 has attention, block 1 none; both FFNs are read, the embedding once as the head."""
    counted = work(write(tmp_path / "a.gguf", heads=[4, 0], kv_heads=[2, 0], ffn=[HIDDEN, HIDDEN]))
    blocks = 4 * HEAD * WIDTH + 2 * HEAD * WIDTH + 2 * WIDTH * HIDDEN
    table = VOCABULARY * WIDTH
    kv = SEEN * 2 * (HEAD + HEAD) * 2  # two kv heads, keys and values, float16
    assert counted.decode_bytes == blocks // 32 * 34 + table * 2 + kv
    assert counted.decode_flops == 2 * (blocks + table) + SEEN * 2 * 4 * (HEAD + HEAD)
    # Causal: 10 positions see 55 in all.
    assert counted.prefill_flops == 2 * (PROMPT * blocks + table) + 55 * 2 * 4 * (HEAD + HEAD)


def test_a_head_of_its_own_is_read_instead_of_the_embedding(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"heads": [4], "kv_heads": [2], "ffn": [HIDDEN]}
    tied, own = work(write(tmp_path / "a", **arguments)), work(write(tmp_path / "b", **arguments, head=True))
    assert tied.decode_bytes - own.decode_bytes == VOCABULARY * WIDTH * (2 - 34 / 32)
    assert tied.decode_flops == own.decode_flops


def test_what_a_plan_leaves(tmp_path: Path) -> None:
    """An attention and an FFN less; a stub FFN of width 32 is what it is, not nothing."""
    dense = work(write(tmp_path / "a", heads=[4, 4], kv_heads=[2, 2], ffn=[HIDDEN, HIDDEN]))
    plan = work(write(tmp_path / "b", heads=[4, 0], kv_heads=[2, 0], ffn=[32, HIDDEN]))
    attention = (4 + 2) * HEAD * WIDTH
    ffn = WIDTH * (HIDDEN - 32)
    assert dense.decode_bytes - plan.decode_bytes == (attention + ffn) // 32 * 34 + SEEN * 2 * 16 * 2
    assert 0.5 < prediction(plan, dense).decode < 1


def test_one_number_stands_for_every_block_and_lengths_follow_the_width() -> None:
    metadata = {
        "general.architecture": "llama",
        "llama.block_count": 2,
        "llama.embedding_length": 64,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
    }
    assert attention_shapes(metadata) == [(4, 2, 16, 16)] * 2


def test_what_cannot_be_counted_is_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    writer.add_tensor("blk.0.ffn_up_exps.weight", np.zeros((2, 4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(EdgeSkipError, match=r"ffn_up_exps\.weight is a stack of experts"):
        work(tmp_path / "x.gguf")
