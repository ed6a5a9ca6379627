"""Early exits in calibration. Oracle: hidden states that transformers itself returns, and numpy's least squares."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from tiny_models import tiny_checkpoint, tiny_model, tiny_tokenizer

from edgeskip.calibration.calibrate import calibrate
from edgeskip.calibration.config import CalibrationConfig, parse_exits
from edgeskip.calibration.corpus import Corpus, corpus_named, cut, ids_of
from edgeskip.calibration.exits import CHOOSE, FIT, HELD_OUT, HELD_OUT_TOKENS, LAMBDAS, ridge, roles_of
from edgeskip.core.errors import EdgeSkipError
from edgeskip.models.source import open_model
from edgeskip.profiles.schema import Profile
from edgeskip.profiles.vectors import Vectors, read_vectors

Array = NDArray[np.float64]
Cli = Callable[..., Any]
SETTINGS = CalibrationConfig(tokens=1280, context=128, decode_tokens=0, exits=(1, 3))


def run(folder: Path, into: Path, settings: CalibrationConfig, corpus: Corpus | None = None) -> tuple[Profile, Vectors]:
    path = into / "m.json"
    profile = calibrate(open_model(str(folder)), corpus or corpus_named([]), settings, path).save(path, overwrite=True)
    return profile, read_vectors(profile, path)


def least_squares(z: Array, h: Array, strength: float, prior: Array) -> Array:
    """min ‖h − z·Aᵀ‖² + strength·‖A − prior‖² as one least-squares problem of stacked rows."""
    root = np.sqrt(strength)
    rows = np.concatenate((z, root * np.eye(z.shape[1])))
    found: Array = np.linalg.lstsq(rows, np.concatenate((h, root * prior.T)), rcond=None)[0].T
    return found


def sums(z: Array, h: Array) -> torch.Tensor:
    return torch.from_numpy(z.T @ np.concatenate((z, h), axis=1))


@pytest.mark.parametrize("noise", [0.01, 3.0, 30.0])
def test_ridge_is_least_squares_with_the_best_lambda(noise: float) -> None:
    generator = np.random.default_rng(0)
    prior, true = np.diag(generator.uniform(0.5, 2, 6)), generator.normal(size=(6, 6))
    z, z_choose = generator.normal(size=(40, 6)), generator.normal(size=(20, 6))
    h, h_choose = (x @ true.T + noise * generator.normal(size=x.shape) for x in (z, z_choose))
    errors = [((h_choose - z_choose @ least_squares(z, h, 40 * each, prior).T) ** 2).sum() for each in LAMBDAS]
    best = LAMBDAS[int(np.argmin(errors))]
    both = np.concatenate((z, z_choose)), np.concatenate((h, h_choose))
    found = ridge(sums(z, h), sums(z_choose, h_choose), (40, 20), torch.from_numpy(prior))
    np.testing.assert_allclose(found, least_squares(*both, 60 * best, prior), rtol=1e-9, atol=1e-12)


def test_ridge_without_tokens_to_choose_by() -> None:
    generator = np.random.default_rng(1)
    z, h = generator.normal(size=(2, 40, 6))
    found = ridge(sums(z, h), torch.zeros(6, 12, dtype=torch.float64), (40, 0), torch.eye(6, dtype=torch.float64))
    np.testing.assert_allclose(found, least_squares(z, h, 40 * LAMBDAS[1], np.eye(6)), rtol=1e-9)


def test_maps_and_agreement_of_a_model(tiny_llama: Path, tmp_path: Path) -> None:
    """Everything again from `output_hidden_states`, whose last state is the one behind the final norm."""
    profile, vectors = run(tiny_llama, tmp_path, SETTINGS)
    ids = ids_of(corpus_named([]), tiny_tokenizer())
    windows = cut(ids, [], context=128, tokens=1280, seed=0)
    roles = np.repeat(roles_of(len(windows), 128), 128)
    model = tiny_model("llama")
    outputs = [model(torch.tensor([window]), output_hidden_states=True) for window in windows]
    head, norm = model.lm_head.weight.double().numpy(), model.model.norm
    final = torch.cat([output.hidden_states[-1][0] for output in outputs]).double().numpy()
    expected = torch.cat([output.logits[0] for output in outputs]).argmax(dim=-1).numpy()
    assert [each.layer for each in profile.exits] == [1, 3]
    for statistics in profile.exits:
        x = torch.cat([output.hidden_states[statistics.layer][0] for output in outputs]).double().numpy()
        z = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + norm.variance_epsilon)
        prior = np.diag(norm.weight.double().numpy())
        fit, choose, held_out = (roles == role for role in (FIT, CHOOSE, HELD_OUT))
        maps = [least_squares(z[fit], final[fit], each * fit.sum(), prior) for each in LAMBDAS]
        best = LAMBDAS[int(np.argmin([((final[choose] - z[choose] @ each.T) ** 2).sum() for each in maps]))]
        exit_map = least_squares(z[~held_out], final[~held_out], best * (~held_out).sum(), prior)
        np.testing.assert_allclose(vectors.exit_maps[statistics.layer], exit_map, rtol=2e-3, atol=2e-4)
        for found, read in ((statistics.plain_agreement, z @ prior), (statistics.ridge_agreement, z @ exit_map.T)):
            agreed = (read[held_out] @ head.T).argmax(axis=1) == expected[held_out]
            assert found == pytest.approx(agreed.mean(), abs=1.5 / held_out.sum())  # a near-tie may fall otherwise
        assert statistics.tokens == held_out.sum() == 256
        assert statistics.ridge_agreement > statistics.plain_agreement


def test_a_model_whose_later_blocks_add_nothing_exits_perfectly(tmp_path: Path) -> None:
    """Then h = diag(w)·z: the map is the model's own head's, however few the tokens."""
    folder = tiny_checkpoint("llama", tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    for block in (2, 3):
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            weights[f"model.layers.{block}.{name}.weight"] *= 0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    profile, vectors = run(folder, tmp_path, CalibrationConfig(tokens=96, context=32, decode_tokens=0, exits=(2,)))
    assert profile.exits[0].plain_agreement == profile.exits[0].ridge_agreement == 1
    np.testing.assert_allclose(vectors.exit_maps[2], weights["model.norm.weight"].diag(), atol=1e-3)


def test_the_default_is_no_exits_and_exits_change_nothing_else(tiny_llama: Path, tmp_path: Path) -> None:
    settings = CalibrationConfig(tokens=384, context=128, decode_tokens=64)
    profile, vectors = run(tiny_llama, tmp_path, settings)
    assert (profile.exits, vectors.exit_maps) == ([], {})
    probed, _ = run(tiny_llama, tmp_path, CalibrationConfig(tokens=384, context=128, decode_tokens=64, exits=(2,)))
    assert probed.sublayers == profile.sublayers
    assert [each.tokens for each in probed.exits] == [128]


def test_token_counts_are_the_whole_corpus(tiny_llama: Path, tmp_path: Path) -> None:
    _, vectors = run(tiny_llama, tmp_path, CalibrationConfig(tokens=128, context=128, decode_tokens=0))
    documents = corpus_named([]).documents
    ids = [i for text in documents for i in tiny_tokenizer().encode(text + "\n\n").ids]
    assert vectors.token_counts is not None
    assert vectors.token_counts.tolist() == [ids.count(token) for token in range(320)]


def test_corpus_self(tiny_llama: Path, tmp_path: Path) -> None:
    settings = CalibrationConfig(tokens=2560, context=256, exits=(3,))
    profile, vectors = run(tiny_llama, tmp_path, settings, corpus_named(["self"]))
    assert profile.exits[0].tokens == 2 * 256
    assert vectors.token_counts is not None
    assert vectors.token_counts.sum() >= profile.sublayers[0].prefill.tokens


def test_half_precision(tiny_llama: Path, tmp_path: Path) -> None:
    """A model in bfloat16 has maps of its own that differ little from those in float32."""
    wide, narrow = (
        run(tiny_llama, tmp_path, CalibrationConfig(tokens=1280, context=128, decode_tokens=0, dtype=dtype, exits=(3,)))
        for dtype in ("float32", "bfloat16")
    )  # fmt: skip
    assert narrow[0].exits[0].ridge_agreement == pytest.approx(wide[0].exits[0].ridge_agreement, abs=0.1)
    difference = np.linalg.norm(narrow[1].exit_maps[3] - wide[1].exit_maps[3])
    assert difference < 0.1 * np.linalg.norm(wide[1].exit_maps[3])


@pytest.mark.parametrize(
    ("windows", "expected"),
    [
        (2, [FIT, HELD_OUT]),
        (3, [FIT, HELD_OUT, CHOOSE]),
        (6, [FIT, FIT, CHOOSE, HELD_OUT, FIT, FIT]),
    ],
)
def test_roles_of_few_windows(windows: int, expected: list[int]) -> None:
    assert sorted(roles_of(windows, 128)) == sorted(expected)
    assert roles_of(windows, 128).index(HELD_OUT) == expected.index(HELD_OUT)


@pytest.mark.parametrize("windows", [16, 40, 1000])
def test_roles_are_spread(windows: int) -> None:
    roles = np.array(roles_of(windows, 128))
    held_out = np.flatnonzero(roles == HELD_OUT)
    assert len(held_out) == min(windows // 5, HELD_OUT_TOKENS // 128)
    assert np.diff(held_out).max() - np.diff(held_out).min() <= 1
    assert (roles == CHOOSE).sum() == (windows - len(held_out)) // 5


def test_windows_longer_than_the_cap() -> None:
    assert roles_of(20, 10**6).count(HELD_OUT) == 1


def test_list_of_exits() -> None:
    assert parse_exits("8, 4,6,4") == (4, 6, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--exits", "4;6"], r"--exits 4;6 is not a list"),
        (["--exits", ""], r"--exits '' is not a list"),
        (["--exits", "2,x"], r"--exits 2,x is not a list"),
        (["--exits", "0,2"], r"--exits 0 is not an exit layer"),
        (["--exits=-1"], r"--exits -1 is not a list"),
        (["--exits", "4"], r"--exits 4 is not an exit layer"),
        (["--exits", "2", "--tokens", "128", "--context", "128"], r"--exits holds out .*--context 25 "),
    ],
)
def test_bad_exits(cli: Cli, tiny_llama: Path, tmp_path: Path, options: list[str], message: str) -> None:
    import re

    line = cli("calibrate", tiny_llama, *options, "-o", tmp_path / "m.json").complaint()
    assert re.search(message, line)
    assert not list(tmp_path.iterdir())


def test_overflow_is_an_error(tmp_path: Path) -> None:
    """An FFN that float16 cannot carry; the exit before it is well."""
    folder = tiny_checkpoint("llama", tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    for name in ("up_proj", "down_proj"):
        weights[f"model.layers.1.mlp.{name}.weight"] *= 400
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    settings: dict[str, Any] = {"tokens": 256, "context": 128, "decode_tokens": 0}
    with pytest.raises(EdgeSkipError, match=r"overflows before exit layer 2: .*--dtype float32"):
        run(folder, tmp_path, CalibrationConfig(**settings, dtype="float16", exits=(2,)))
    run(folder, tmp_path, CalibrationConfig(**settings, exits=(1, 2)))
