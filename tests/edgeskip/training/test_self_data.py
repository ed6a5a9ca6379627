"""What the model itself answers. Oracle: transformers' own generate of each prompt alone, without padding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from edgeskip.core.errors import EdgeSkipError
from edgeskip.models.source import open_model
from edgeskip.models.torch_reference.load import load_torch_model
from edgeskip.training import sampler
from edgeskip.training.config import SelfDataConfig
from edgeskip.training.examples import Encoder
from edgeskip.training.self_data import batch_for, write_self_data

PROMPTS = ["Skip it.", "Measure what the tokens cost, and say so.", "fox", "Jumps over", "fox", " ", "A model reads."]
NEW = 24


@pytest.fixture(scope="module")
def encoder(tiny_llama: Path) -> Encoder:
    return Encoder(open_model(str(tiny_llama)))


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(PROMPTS) + "\n")
    return str(path)


@pytest.fixture(autouse=True)
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeskip.models.torch_reference.load.has_bfloat16", lambda: False)


def write(model: Path, encoder: Encoder, prompts: str, file: Path, *, context: int = 128, **how: Any) -> int:
    generation = SelfDataConfig((prompts,), NEW, batch=2, **how)
    return write_self_data(open_model(str(model)), encoder, generation, file, context=context, seed=3)


def test_greedy_answers_are_transformers_own(tiny_llama: Path, encoder: Encoder, prompts: str, tmp_path: Path) -> None:
    """Padding is invisible; the end token is the answer's last; an empty prompt and a second copy are left out."""
    model: Any = load_torch_model(open_model(str(tiny_llama)))
    assert write(tiny_llama, encoder, prompts, tmp_path / "self.jsonl") == 5
    records = [json.loads(line) for line in (tmp_path / "self.jsonl").read_text().splitlines()]
    assert sorted(record["prompt"] for record in records) == sorted({text.strip() for text in PROMPTS} - {""})
    for record in records:
        assert record["prompt_ids"] == list(encoder.prompt(record["prompt"]))
        ids = torch.tensor([record["prompt_ids"]])
        alone = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NEW,
            do_sample=False,
            eos_token_id=list(encoder.ends),
            pad_token_id=encoder.ends[0],
        )
        answer = record["response_ids"]
        assert answer == alone[0, ids.shape[1] :].tolist()
        assert not set(answer[:-1]) & set(encoder.ends)
        assert record["response"] == encoder.fast.decode(answer)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_broken_off_file_goes_on(
    tiny_llama: Path,
    encoder: Encoder,
    prompts: str,
    tmp_path: Path,
    temperature: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Cut in the middle of a line, in the middle of a batch: the same file, and whole batches are not made again."""
    write(tiny_llama, encoder, prompts, tmp_path / "whole.jsonl", temperature=temperature)
    data = (tmp_path / "whole.jsonl").read_bytes()
    third = data.index(b"\n", data.index(b"\n", data.index(b"\n") + 1) + 1) + 1
    (tmp_path / "broken.jsonl").write_bytes(data[: third + 9])
    made = []
    real = sampler.BatchSampler.answers

    def counted(self: sampler.BatchSampler, prompts: Any, number: int, context: int) -> Any:
        made.append(number)
        return real(self, prompts, number, context)

    monkeypatch.setattr(sampler.BatchSampler, "answers", counted)
    write(tiny_llama, encoder, prompts, tmp_path / "broken.jsonl", temperature=temperature)
    assert (tmp_path / "broken.jsonl").read_bytes() == data
    assert made == [1, 2]
    write(tiny_llama, encoder, prompts, tmp_path / "broken.jsonl", temperature=temperature)
    assert made == [1, 2], "a finished file needs no model"


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: [lines[0], lines[1].replace(b'"response_ids": [', b'"response_ids": [5, '), *lines[2:]],
        lambda lines: [lines[0], *lines[2:]],  # one is gone
        lambda lines: [lines[0], b"[" * 5000 + b"\n", *lines[2:]],
        lambda lines: [*lines, lines[0]],
    ],
)
def test_a_damaged_file_is_written_again(
    tiny_llama: Path, encoder: Encoder, prompts: str, tmp_path: Path, damage: Any, notes: list[str]
) -> None:
    """Oracle: the file as it was; all prompts were done."""
    file = tmp_path / "self.jsonl"
    assert write(tiny_llama, encoder, prompts, file) == 5
    data = file.read_bytes()
    file.write_bytes(b"".join(damage(data.splitlines(keepends=True))))
    assert write(tiny_llama, encoder, prompts, file) == 5
    assert file.read_bytes() == data
    assert ["is damaged" in line for line in notes] == [True]


def test_an_answer_ends_with_an_end_token(encoder: Encoder) -> None:
    found = sampler.BatchSampler.__new__(sampler.BatchSampler)
    found._ends = [1, 7]
    assert found._until_end([4, 5, 7, 1, 1]) == [4, 5, 7]
    assert found._until_end([4, 5]) == [4, 5]


def test_how_many_answers_at_once(tiny_llama: Path) -> None:
    """By hand: 4 blocks of 2 heads of 16 numbers, keys and values of two bytes: 512 bytes a token."""
    source = open_model(str(tiny_llama))
    config = source.decoder.config
    assert (config.num_blocks, config.num_kv_heads, config.head_dim) == (4, 2, 16)
    assert [batch_for(source, context) for context in (512, 1 << 16, 1 << 23)] == [96, 64, 1]


def test_prompts_that_leave_no_room(tiny_llama: Path, encoder: Encoder, prompts: str, tmp_path: Path) -> None:
    with pytest.raises(EdgeSkipError, match="raise --context"):
        write(tiny_llama, encoder, prompts, tmp_path / "self.jsonl", context=8)
    assert not (tmp_path / "self.jsonl").exists()


@pytest.mark.parametrize("wrong", [{"new_tokens": 0}, {"temperature": -1.0}, {"temperature": float("nan")}])
def test_generations_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(EdgeSkipError, match="--temperature"):
        SelfDataConfig(**wrong)
