"""Memory of exporting a large model. Oracle: the kernel's own account (RssAnon: memory that is not the page cache)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from random_profiles import random_profile
from tiny_models import rope_config, write_tiny_tokenizer

BLOCKS, HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, VOCAB = 30, 2048, 5632, 16, 8, 32000
LIMIT = 2_500_000_000  # bytes


@pytest.fixture(scope="module")
def big_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """1.55 billion random bf16 parameters, a shard a block; 3 GB on disk."""
    folder = tmp_path_factory.mktemp("big")
    write_big_checkpoint(folder)
    yield folder
    shutil.rmtree(folder)


def write_big_checkpoint(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    width = HIDDEN * KV_HEADS // HEADS
    block = {
        "input_layernorm": torch.ones(HIDDEN),
        "post_attention_layernorm": torch.ones(HIDDEN),
        "self_attn.q_proj": torch.randn(HIDDEN, HIDDEN) * 0.02,
        "self_attn.k_proj": torch.randn(width, HIDDEN) * 0.02,
        "self_attn.v_proj": torch.randn(width, HIDDEN) * 0.02,
        "self_attn.o_proj": torch.randn(HIDDEN, HIDDEN) * 0.02,
        "mlp.gate_proj": torch.randn(INTERMEDIATE, HIDDEN) * 0.02,
        "mlp.up_proj": torch.randn(INTERMEDIATE, HIDDEN) * 0.02,
        "mlp.down_proj": torch.randn(HIDDEN, INTERMEDIATE) * 0.02,
    }
    mapping = {}

    def shard(file: str, tensors: dict[str, torch.Tensor]) -> None:
        save_file({name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}, folder / file)
        mapping.update(dict.fromkeys(tensors, file))

    for index in range(BLOCKS):  # the same numbers in every block: what counts here is how many there are
        shard(f"{index:02}.safetensors", {f"model.layers.{index}.{k}.weight": v for k, v in block.items()})
    shard("embedding.safetensors", {"model.embed_tokens.weight": torch.randn(VOCAB, HIDDEN)})
    shard(
        "head.safetensors",
        {"lm_head.weight": torch.randn(VOCAB, HIDDEN) * 0.02, "model.norm.weight": torch.ones(HIDDEN)},
    )
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": mapping}))
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_act": "silu",
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": BLOCKS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
        **rope_config(),
    }
    (folder / "config.json").write_text(json.dumps(config))
    write_tiny_tokenizer(folder)


def processes_below(pid: int) -> list[int]:
    """The process and all its descendants that still run."""
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += map(int, children.read_text().split())
            except OSError:
                continue
    return found


def anonymous_bytes(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def peak_of(command: list[str], environment: dict[str, str]) -> tuple[int, int, int]:
    """Runs a command; peak RssAnon in bytes of all its processes together, of the first, and of the others."""
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    together = first = others = 0
    while process.poll() is None:
        own, *children = [anonymous_bytes(pid) for pid in processes_below(process.pid)]
        together, first, others = max(together, own + sum(children)), max(first, own), max(others, sum(children))
        time.sleep(0.05)
    assert process.stderr is not None
    assert process.returncode == 0, process.stderr.read()
    return together, first, others


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int4"])
def test_a_model_of_1_5_billion_parameters_exports_in_2_5_gb(
    big_checkpoint: Path, tmp_path: Path, precision: str
) -> None:
    """Exported with a plan and checked, torch and the artifact included."""
    from edgeskip.models.source import open_model

    needed = {"fp32": 7e9, "fp16": 4e9, "int4": 2e9}[precision]
    if shutil.disk_usage(tmp_path).free < needed:
        pytest.skip(f"needs {needed / 1e9:.0f} GB of disk")
    profile, output = tmp_path / "big.json", tmp_path / "out"
    random_profile(open_model(str(big_checkpoint)), profile, skip=("attn.3", "ffn.20"))
    command = [sys.executable, "-m", "edgeskip", "export", "--profile", str(profile), "-o", str(output)]
    begin = time.perf_counter()
    try:
        together, first, others = peak_of([*command, "--precision", precision], {**os.environ})
        manifest = json.loads((output / "edgeskip.json").read_text())
        assert manifest["verification"]["passed"]
        sizes = f"peak RssAnon {together / 1e9:.2f} GB (export {first / 1e9:.2f}, probe {others / 1e9:.2f})"
        print(f"{precision}: {sizes}, {time.perf_counter() - begin:.0f} s, {manifest['verification']}")
        assert together < LIMIT, sizes
    finally:
        shutil.rmtree(output, ignore_errors=True)
