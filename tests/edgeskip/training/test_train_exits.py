"""Exit adapters, whole. Oracles: transformers' hidden states and logits, targets and agreement by hand, an
uninterrupted run, and the exported artifact's plain logits against those of the profile before."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from random_profiles import random_profile

from edgeskip.core.errors import EdgeSkipError
from edgeskip.models.source import open_model
from edgeskip.models.torch_reference.load import load_torch_model
from edgeskip.profiles.draft_vocabulary import draft_vocabulary
from edgeskip.profiles.schema import read_profile
from edgeskip.profiles.vectors import read_vectors
from edgeskip.training import exit_cache
from edgeskip.training.config import ExitPolicy, OptimizerConfig
from edgeskip.training.data import Data
from edgeskip.training.examples import Example
from edgeskip.training.exit_cache import ExitCache
from edgeskip.training.loop import Report
from edgeskip.training.train_exits import agreement, train_exits, untrained_exits
from edgeskip.training.trained_profile import open_profile

EXAMPLES = [Example((5, 6, 7), (8, 9)), Example((), (3, 4, 5)), Example((9,), (2, 2, 2, 2, 1))]
HIDDEN = 64


class StopError(Exception):
    pass


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> Any:
    return load_torch_model(open_model(str(tiny_llama)))


@pytest.fixture
def profile(tiny_llama: Path, tmp_path: Path) -> Path:
    path = tmp_path / "given" / "tiny.json"
    path.parent.mkdir()
    random_profile(open_model(str(tiny_llama)), path)
    return path


def nothing(done: int, total: int) -> None:
    pass


def filled(model: Any, folder: Path, examples: list[Example] = EXAMPLES) -> ExitCache:
    from contextlib import nullcontext

    cache = ExitCache(folder, examples, (1, 3), HIDDEN)
    cache.fill(model, nullcontext, nothing)
    return cache


def test_the_cache_holds_what_transformers_computes(model: Any, tmp_path: Path) -> None:
    """Each example alone, unpadded: states in float16, and the teacher's likeliest tokens where a token is learned."""
    cache = filled(model, tmp_path)
    for example, item in zip(EXAMPLES, cache.items, strict=True):
        with torch.no_grad():
            found = model(input_ids=torch.tensor([example.ids]), output_hidden_states=True)
        for layer in (1, 3):
            wanted = found.hidden_states[layer][0].numpy()
            np.testing.assert_allclose(cache.states[layer][item.tokens], wanted, rtol=1e-3, atol=1e-3)
        first = max(len(example.prompt), 1) - 1
        top = torch.log_softmax(found.logits[0, first : len(example) - 1], -1).topk(exit_cache.TOP)
        assert cache.top[item.rows, 0].tolist() == top.indices[:, 0].tolist()
        np.testing.assert_allclose(cache.log_probabilities[item.rows], top.values, rtol=2e-3, atol=2e-3)
    assert [item.rows.stop - item.rows.start for item in cache.items] == [2, 2, 5]


def test_a_batch_of_the_cache(model: Any, tmp_path: Path) -> None:
    """Padded on the right; rows stand where the tokens that are learned are predicted."""
    cache = filled(model, tmp_path)
    batch = cache.collate([cache.items[0], cache.items[1]])
    assert batch["states-1"].shape == (2, 5, HIDDEN)
    assert batch["states-1"].dtype == torch.float32
    assert not batch["states-1"][1, 3:].any()
    assert batch["rows"].tolist() == [[False, False, True, True, False], [True, True, False, False, False]]
    assert batch["top"][:, 0].tolist() == cache.top[:4, 0].tolist()
    assert torch.all(batch["probabilities"].sum(-1) <= 1.01)


def test_the_cache_goes_on_where_it_was_broken_off(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill between passes: what is marked as done is not run again, and the arrays are the same."""
    monkeypatch.setattr(exit_cache, "BATCH_TOKENS", 1)
    many = [Example((n % 300,), tuple(range(2, 4 + n % 5))) for n in range(80)]
    whole = filled(model, tmp_path / "whole", many)
    runs = []
    real = ExitCache._run

    def counted(self: ExitCache, model: Any, batch: list[int]) -> None:
        runs.append(batch)
        if len(runs) == 70:
            raise StopError
        real(self, model, batch)

    monkeypatch.setattr(ExitCache, "_run", counted)
    with pytest.raises(StopError):
        filled(model, tmp_path / "broken", many)
    again = filled(model, tmp_path / "broken", many)
    assert len(runs) == 70 + 80 - 64
    for name in ("top", "log_probabilities"):
        assert np.array_equal(getattr(again, name), getattr(whole, name))
    for layer in (1, 3):
        assert np.array_equal(again.states[layer], whole.states[layer])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero_the_end(path: Path) -> None:
    """As a file system leaves what was never flushed."""
    data = path.read_bytes()
    path.write_bytes(data[:-200] + bytes(200))


def sparse(path: Path) -> None:
    """As large as it was, and all zeros behind the header."""
    data = path.read_bytes()
    path.write_bytes(data[:128])
    os.truncate(path, len(data))


DAMAGES: list[Any] = [Path.unlink, cut, zero_the_end, sparse, lambda path: path.write_bytes(b"\x93NUMPY" + bytes(300))]
MARKS = ["", "80", "[" * 5000, '{"format": 2, "what": "0", "pieces": []}', "1e400"]


DAMAGED = [("top.npy", number) for number in range(len(DAMAGES))]
DAMAGED += [("log_probabilities.npy", 0), ("states-1.npy", 0), ("states-3.npy", 3)]


@pytest.mark.parametrize(("name", "damage"), DAMAGED)
def test_a_damaged_cache_is_made_again(model: Any, tmp_path: Path, name: str, damage: int, notes: list[str]) -> None:
    """Oracle: the cache as it was. All examples were done; what the damage does not reach is not run again."""
    whole = filled(model, tmp_path)
    kept = {name: np.array(array) for name, array in whole.states.items()}
    top, logs = np.array(whole.top), np.array(whole.log_probabilities)
    del whole
    DAMAGES[damage](tmp_path / name)
    again = filled(model, tmp_path)
    assert len(notes) == 1
    assert np.array_equal(again.top, top)
    assert np.array_equal(again.log_probabilities, logs)
    assert all(np.array_equal(again.states[layer], kept[layer]) for layer in kept)


@pytest.mark.parametrize("mark", MARKS)
def test_a_damaged_mark_of_the_cache(model: Any, tmp_path: Path, mark: str, notes: list[str]) -> None:
    whole = np.array(filled(model, tmp_path).top)
    (tmp_path / "done.json").write_text(mark)
    assert np.array_equal(filled(model, tmp_path).top, whole)
    assert ["done.json is damaged" in line for line in notes] == [True]
    (tmp_path / "done.json").unlink()  # as good as none: nobody need be told
    assert np.array_equal(filled(model, tmp_path).top, whole)
    assert len(notes) == 1


def test_a_mark_that_claims_too_much(model: Any, tmp_path: Path) -> None:
    """The run of all examples but the last, and a mark from the run of all."""
    marks = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        filled(model, folder, EXAMPLES[:number] if number == 1 else EXAMPLES)
        marks.append((folder / "done.json").read_text())
    (tmp_path / "1" / "done.json").write_text(marks[1])
    again = filled(model, tmp_path / "1", EXAMPLES)
    assert np.array_equal(again.top, filled(model, tmp_path / "new").top)


def test_damage_in_the_middle_keeps_what_is_before(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """80 examples, written down at 64 and 80; what is run again is counted."""
    monkeypatch.setattr(exit_cache, "BATCH_TOKENS", 1)
    many = [Example((n % 300,), tuple(range(2, 4 + n % 5))) for n in range(80)]
    cache = filled(model, tmp_path, many)
    whole = np.array(cache.top)
    cache.top[cache.items[cache._order[70]].rows] = 0
    cache.top.flush()
    runs, real = [], ExitCache._run

    def counted(self: ExitCache, model: Any, batch: list[int]) -> None:
        runs.append(batch)
        real(self, model, batch)

    monkeypatch.setattr(ExitCache, "_run", counted)
    assert np.array_equal(filled(model, tmp_path, many).top, whole)
    assert len(runs) == 80 - 64


def made_batch() -> dict[str, torch.Tensor]:
    """Two rows; the teacher's three likeliest tokens are 2, 5, 7 and 9, 2, 8."""
    return {
        "states-1": torch.randn(1, 3, HIDDEN, generator=torch.Generator().manual_seed(0)),
        "rows": torch.tensor([[True, False, True]]),
        "top": torch.tensor([[2, 5, 7], [9, 2, 8]]),
        "probabilities": torch.tensor([[0.5, 0.3, 0.1], [0.6, 0.2, 0.1]]),
    }


def test_trimmed_targets_by_hand(model: Any) -> None:
    """A head of tokens 2 and 7 (rows 0 and 1): 0.5 and 0.1 become 5/6 and 1/6, and 2's 0.2 becomes 1. Without 2 and
    9, the second row has no target at all."""
    objective = untrained_exits(model, [1], torch.tensor([2, 7]))
    columns, probabilities = objective.targets(made_batch())
    assert columns.tolist() == [[0, -1, 1], [-1, 0, -1]]
    torch.testing.assert_close(probabilities, torch.tensor([[5 / 6, 0, 1 / 6], [0, 1, 0]]))
    columns, probabilities = untrained_exits(model, [1], torch.tensor([5, 7])).targets(made_batch())
    torch.testing.assert_close(probabilities, torch.tensor([[0, 0.75, 0.25], [0, 0, 0]]))


@pytest.mark.parametrize("tokens", [None, [2, 5, 7]])
def test_the_loss_by_hand(model: Any, tokens: list[int] | None) -> None:
    """−Σ p log q over the rows that have a target, by transformers' own norm and head."""
    batch = made_batch()
    objective = untrained_exits(model, [1], None if tokens is None else torch.tensor(tokens))
    found = objective(batch, 0)
    logits = model.lm_head(model.model.norm(batch["states-1"][batch["rows"]]))
    q = torch.log_softmax(logits if tokens is None else logits[:, tokens], -1)
    if tokens is None:
        first = (0.5 * q[0, 2] + 0.3 * q[0, 5] + 0.1 * q[0, 7]) / 0.9
        second = (0.6 * q[1, 9] + 0.2 * q[1, 2] + 0.1 * q[1, 8]) / 0.9
    else:
        first, second = (0.5 * q[0, 0] + 0.3 * q[0, 1] + 0.1 * q[0, 2]) / 0.9, q[1, 0]
    torch.testing.assert_close(found.total, -(first + second) / 2)


def test_agreement_by_hand(model: Any) -> None:
    """A token that the draft's head does not have is never agreed on."""
    batch = made_batch()
    logits = model.lm_head(model.model.norm(batch["states-1"][batch["rows"]]))
    batch["top"] = torch.stack([logits[0].topk(3).indices, logits[1].topk(3).indices.flip(0)])
    assert agreement(untrained_exits(model, [1], None), [batch, batch], "cpu") == {1: 0.5}
    others = [n for n in range(320) if n != int(logits[0].argmax())]
    trimmed = untrained_exits(model, [1], torch.tensor(others))
    assert agreement(trimmed, [batch], "cpu") == {1: 0.0}


def run(profile: Path, data: Path, folder: Path, exits: ExitPolicy, *, steps: int = 6, stop: int = 0) -> Any:
    def progress(report: Report) -> None:
        if report.step == stop:
            raise StopError

    policy = OptimizerConfig(5e-3, 4, steps=steps, warmup=1, save_every=2)
    given = open_profile(str(profile))
    return train_exits(
        given, Data((str(data),), 64, held_out=0.1), exits, policy, folder, dtype="float32", progress=progress
    )


@pytest.mark.parametrize("kind", ["map", "block"])
def test_a_profile_with_trained_exits(kind: Any, profile: Path, pairs_file: Path, tmp_path: Path) -> None:
    card = run(profile, pairs_file, tmp_path / "run", ExitPolicy((1, 3), kind, 40), steps=20)
    path = tmp_path / "run" / card["profile"]
    found, before = read_profile(path), read_profile(profile)
    vectors = read_vectors(found, path)
    assert {name: adapter.kind for name, adapter in vectors.exit_adapters.items()} == {1: kind, 3: kind}
    assert found.model == before.model
    assert found.sublayers == before.sublayers
    for statistics in found.exits:
        assert statistics.adapter == kind
        assert statistics.adapter_agreement == card["held_out"]["exits"][statistics.layer]["agreement"]
    losses = card["losses"]
    assert set(losses) == {"loss", "exit 1", "exit 3"}
    assert losses["loss"] == pytest.approx(losses["exit 1"] + losses["exit 3"], rel=1e-4)
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        path.name, path.with_suffix(".safetensors").name, "train.json", "losses.csv", "loss.png"
    }  # fmt: skip
    assert vectors.token_counts is not None
    assert len(draft_vocabulary(vectors.token_counts, 40, (1,))) == 40


def test_it_starts_as_the_models_own_head(model: Any, profile: Path, pairs_file: Path, tmp_path: Path) -> None:
    """After one step at a rate of almost nothing, a block agrees as the plain exit does."""
    given = open_profile(str(profile))
    policy = OptimizerConfig(1e-12, 4, steps=1)
    card = train_exits(given, Data((str(pairs_file),), 64, held_out=0.2), ExitPolicy((1,)), policy, tmp_path / "run")
    assert card is not None
    found = card["held_out"]["exits"][1]
    assert found["agreement"] == pytest.approx(found["plain_agreement"], abs=0.02)


@pytest.mark.parametrize("kind", ["map", "block"])
def test_a_trained_exit_learns_on(kind: Any, profile: Path, pairs_file: Path, tmp_path: Path) -> None:
    """Oracle: what the first run left; one more step at a rate of almost nothing changes none of it."""
    first = run(profile, pairs_file, tmp_path / "first", ExitPolicy((1,), kind, 40), steps=20)
    path = tmp_path / "first" / first["profile"]
    policy = OptimizerConfig(1e-12, 4, steps=1)
    found = {}
    for go_on in (True, False):
        exits = ExitPolicy((1,), kind, 40, go_on)
        folder = tmp_path / f"again-{go_on}"
        data = Data((str(pairs_file),), 64, held_out=0.1)
        card = train_exits(open_profile(str(path)), data, exits, policy, folder, dtype="float32")
        assert card is not None
        again = folder / card["profile"]
        found[go_on] = read_vectors(read_profile(again), again).exit_adapters[1]
    wanted = read_vectors(read_profile(path), path).exit_adapters[1]
    np.testing.assert_allclose(found[True].map, wanted.map, atol=1e-6)
    assert not np.allclose(found[False].map, wanted.map, atol=1e-3)
    for name, array in wanted.block.items():
        np.testing.assert_allclose(found[True].block[name], array, atol=1e-6)


@pytest.mark.parametrize("stop", [1, 3, 6])
def test_a_broken_off_run_goes_on(profile: Path, pairs_file: Path, tmp_path: Path, stop: int) -> None:
    exits = ExitPolicy((2,), "block", 40)
    card = run(profile, pairs_file, tmp_path / "whole", exits)
    with pytest.raises(StopError):
        run(profile, pairs_file, tmp_path / "broken", exits, stop=stop)
    assert (tmp_path / "broken" / "cache" / "done.json").exists()
    run(profile, pairs_file, tmp_path / "broken", exits)
    for name in ("losses.csv", card["profile"].replace(".json", ".safetensors")):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "broken" / "cache").exists()


def test_no_profile(tiny_llama: Path) -> None:
    with pytest.raises(EdgeSkipError, match="not a profile"):
        open_profile(str(tiny_llama))


def test_an_exit_that_is_not_there(profile: Path, pairs_file: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgeSkipError, match="exit layer 9"):
        run(profile, pairs_file, tmp_path / "run", ExitPolicy((2, 9)))
    assert not (tmp_path / "run").exists()


def test_the_profile_is_not_named_as_the_runs_own_files(tiny_llama: Path, pairs_file: Path, tmp_path: Path) -> None:
    """A model's folder called `train` must not make the profile train.json, which the run's card replaces."""
    named = tmp_path / "train"
    named.symlink_to(tiny_llama)
    random_profile(open_model(str(named)), tmp_path / "p.json")
    card = run(tmp_path / "p.json", pairs_file, tmp_path / "run", ExitPolicy((2,), "map"), steps=1)
    assert read_profile(tmp_path / "run" / card["profile"]).exits[0].adapter == "map"
    assert "settings" in json.loads((tmp_path / "run" / "train.json").read_text())


@pytest.mark.parametrize("kind", ["map", "block"])
def test_the_artifacts(cli: Any, kind: Any, profile: Path, pairs_file: Path, tmp_path: Path) -> None:
    """The early-exit artifact passes its check, and the whole model's is the same file to the bit as before."""
    card = run(profile, pairs_file, tmp_path / "run", ExitPolicy((2,), kind))
    path = tmp_path / "run" / card["profile"]
    drafting = ["--draft", "early-exit", "--exit-layer", 2, "--precision", "fp32"]
    outcome = cli("export", "--profile", path, "-o", tmp_path / "drafting", *drafting)
    assert outcome.code == 0, outcome.err
    manifest = json.loads((tmp_path / "drafting" / "edgeskip.json").read_text())
    (draft,) = manifest["draft"]["exits"]
    assert draft["head"] == kind
    assert manifest["verification"]["passed"]
    for name, given in (("before", profile), ("after", path)):
        outcome = cli("export", "--profile", given, "-o", tmp_path / name, "--precision", "fp32")
        assert outcome.code == 0, outcome.err
    for name in ("model.onnx", "model.onnx.data"):
        assert (tmp_path / "after" / name).read_bytes() == (tmp_path / "before" / name).read_bytes()
