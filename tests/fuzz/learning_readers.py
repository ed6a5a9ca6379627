"""Readers of what models are opened, trained and calibrated from, as `fuzz_harness.Reader`s."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fuzz_seeds
from fuzz_harness import Reader
from fuzz_seeds import TEXT

EXPORTERS = ("edgeskip.models.source", "edgeskip.models.readers.safetensors_folder", "tokenizers")
TRAINING = tuple(
    f"edgeskip.training.{name}" for name in ("exit_cache", "loss_log", "checkpoint", "examples", "self_data")
)
MATPLOTLIB = ("matplotlib.figure", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg")
TORCH = ("torch", "transformers", "edgeskip.models.torch_reference.load")
LLAMA = ("transformers.models.llama.modeling_llama", "edgeskip.training.hooks")

# Training


class _Module:
    """Of training: two parameters and an optimiser that has taken a step."""

    def __init__(self) -> None:
        import torch

        self.module = torch.nn.Linear(4, 3)
        self.optimiser = torch.optim.AdamW(self.module.parameters())
        self.module(torch.ones(2, 4)).sum().backward()
        self.optimiser.step()


def _training(folder: Path) -> None:
    from edgeskip.training.checkpoint import save_state
    from edgeskip.training.loss_log import LossTable
    from edgeskip.training.run_folder import open_folder

    open_folder(folder / "run", {"optimisation": {"rate": 1e-3}, "data": ["x"]}, overwrite=False)
    with LossTable(folder / "run" / "losses.csv") as table:
        for step in range(1, 20):
            table.add(step, 1e-3, {"loss": 2.0 / step, "last": 1.0, "exit 4": 1.0})
    made = _Module()
    save_state(folder / "run" / "checkpoint.safetensors", made.module, made.optimiser, step=9, settings={"a": 1})


def _read_training(folder: Path) -> None:
    from edgeskip.training.checkpoint import load_state
    from edgeskip.training.loss_log import LossTable, plot_losses, read_losses
    from edgeskip.training.run_folder import open_folder

    open_folder(folder / "run", {"optimisation": {"rate": 1e-3}, "data": ["x"]}, overwrite=False)
    made = _Module()
    step = load_state(folder / "run" / "checkpoint.safetensors", made.module, made.optimiser, {"a": 1})
    with LossTable(folder / "run" / "losses.csv", keep=step) as table:
        table.add(20, 1e-3, {"loss": 1.0, "last": 1.0})
    rows = read_losses(folder / "run" / "losses.csv")
    plot_losses(rows, folder / "losses.png", "x")


def _exit_cache(folder: Path) -> Any:
    """Five examples' cache, filled by a tiny random Llama."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from edgeskip.training.examples import Example
    from edgeskip.training.exit_cache import ExitCache

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=40, num_key_value_heads=1, **sizes)).eval()
    examples = [Example((1, 2), tuple(range(3, 6 + number))) for number in range(5)]
    cache = ExitCache(folder / "cache", examples, (1, 2), 16)
    cache.fill(model, nullcontext, lambda done, total: None)
    return cache


def _prepare_exit_cache(folder: Path) -> None:
    import numpy as np

    np.savez(folder / "expected.npz", **_arrays_of(_exit_cache(folder)))


def _arrays_of(cache: Any) -> dict[str, Any]:
    states = {f"states-{layer}": states for layer, states in cache.states.items()}
    return states | {"top": cache.top, "log_probabilities": cache.log_probabilities}


def _read_exit_cache(folder: Path) -> None:
    """Whatever the damage, what is trained on is what it was: a check of hashes, else computed again."""
    import numpy as np

    found = _arrays_of(_exit_cache(folder))
    with np.load(folder / "expected.npz") as expected:
        for name, array in found.items():
            np.testing.assert_array_equal(array, expected[name])


PROMPTS = [((n, n + 1), f"prompt {n}") for n in range(4)]
ENCODER: Any = SimpleNamespace(fast=SimpleNamespace(decode=lambda ids: "-".join(map(str, ids))))


def _self_data(folder: Path) -> None:
    records = [
        {"prompt_ids": list(ids), "response_ids": [7, 8], "prompt": text, "response": "7-8"} for ids, text in PROMPTS
    ]
    (folder / "self.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def _read_self_data(folder: Path) -> None:
    """What is kept is whole: read a second time, nothing is cut off."""
    from edgeskip.training.self_data import _whole_records

    file = folder / "self.jsonl"
    kept = _whole_records(file, PROMPTS, ENCODER)
    assert file.read_bytes().count(b"\n") == kept
    assert _whole_records(file, PROMPTS, ENCODER) == kept


# Texts


def _texts(folder: Path) -> None:
    records = [{"text": TEXT[:40], "n": number, "turns": ["a", "b"]} for number in range(5)]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "corpus.jsonl").write_text(lines, encoding="utf-8")
    (folder / "corpus.txt").write_text(TEXT[:300], encoding="utf-8")
    (folder / "prompts.jsonl").write_text(
        "".join(json.dumps({"prompt": TEXT[:20], "name": f"n{n}"}) + "\n" for n in range(4)), encoding="utf-8"
    )
    (folder / "pairs.csv").write_text("prompt,response\n" + '"a, b","c ""d"""\n' * 5, encoding="utf-8")
    (folder / "pairs.tsv").write_text("prompt\tresponse\n" + 'a "b\tc\n' * 5, encoding="utf-8")
    from tiny_models import write_tiny_tokenizer

    write_tiny_tokenizer(folder)


def _read_texts(folder: Path) -> None:
    from tokenizers import Tokenizer

    from edgeskip.bench.runner.prompts import read_prompts as bench_prompts
    from edgeskip.calibration.corpus import cut, ids_of, read_corpus
    from edgeskip.core.errors import EdgeSkipError
    from edgeskip.training.examples import read_prompts, read_records, text_of

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    refused: EdgeSkipError | None = None

    def attempt(reader: Callable[[], object]) -> None:
        nonlocal refused
        try:
            reader()
        except EdgeSkipError as error:
            refused = error

    def corpus(name: str, field: str | None) -> None:
        cut(ids_of(read_corpus([folder / name], field), tokenizer), [], context=16, tokens=64, seed=0)

    for name, field in (
        ("corpus.jsonl", None),
        ("corpus.jsonl", "text"),
        ("corpus.jsonl", "turns"),
        ("corpus.txt", None),
    ):
        attempt(partial(corpus, name, field))
    for name in ("corpus.txt", "prompts.jsonl", "corpus.jsonl"):
        attempt(partial(bench_prompts, folder / name, None))
    for name in ("pairs.csv", "pairs.tsv", "prompts.jsonl", "corpus.txt"):
        attempt(partial(read_prompts, [str(folder / name)]))
        attempt(partial(lambda name: [text_of(r, "prompt", w) for w, r in read_records(folder / name)], name))
    if refused is not None:
        raise refused


# Models


def _open_model(folder: Path) -> None:
    from edgeskip.models.source import open_model
    from edgeskip.models.torch_reference.load import load_torch_model

    source = open_model("hf")
    assert source.record()
    (folder / "tokenizer").mkdir()
    source.write_tokenizer(folder / "tokenizer")
    load_torch_model(source)


def _hf(folder: Path) -> None:
    fuzz_seeds.checkpoint(folder / "hf")


def _open_shards(folder: Path) -> None:
    from tiny_models import tiny_checkpoint

    tiny_checkpoint("llama", folder / "hf", max_shard_size="100KB")


def _peft(folder: Path) -> None:
    import os

    from tiny_lora import tiny_peft_folder

    os.chdir(folder)
    fuzz_seeds.checkpoint(folder / "hf")
    tiny_peft_folder("hf", folder / "peft")


def _open_peft(folder: Path) -> None:
    from edgeskip.models.source import open_model

    source = open_model("peft")
    assert source.record()
    for tensor in source.tensors.values():
        tensor.read()
    (folder / "tokenizer").mkdir()
    source.write_tokenizer(folder / "tokenizer")


READERS = [
    Reader(
        "training",
        _training,
        ("run/*.json", "run/*.csv", "run/*.safetensors"),
        _read_training,
        (*TORCH, *MATPLOTLIB, *TRAINING),
    ),
    Reader("exit-cache", _prepare_exit_cache, ("cache/*",), _read_exit_cache, (*TORCH, *LLAMA, *TRAINING)),
    Reader("self-data", _self_data, ("self.jsonl",), _read_self_data, TRAINING),
    Reader(
        "texts",
        _texts,
        ("*.jsonl", "*.txt", "*.csv", "*.tsv"),
        _read_texts,
        (*TRAINING, "edgeskip.calibration.corpus", "tokenizers"),
    ),
    Reader(
        "model",
        _hf,
        ("hf/config.json", "hf/config.json", "hf/generation_config.json", "hf/*.safetensors", "hf/tokenizer*.json"),
        _open_model,
        (*EXPORTERS, *TORCH),
    ),
    Reader("model-shards", _open_shards, ("hf/*.index.json", "hf/*.safetensors"), _open_model, (*EXPORTERS, *TORCH)),
    Reader("peft", _peft, ("peft/*",), _open_peft, EXPORTERS),
]
