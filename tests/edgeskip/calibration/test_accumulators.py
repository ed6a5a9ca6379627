"""Sums and statistics. Oracle: AdaSkip's equations 2 and 3 and the moments, by hand and in plain numpy."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny_models import FAMILIES, tiny_model

from edgeskip.calibration.accumulators import PhaseSums, statistics_of
from edgeskip.calibration.hooks import recording
from edgeskip.core.errors import EdgeSkipError
from edgeskip.profiles.schema import PhaseStatistics

CPU = torch.device("cpu")
Array = NDArray[np.float64]


def sums_of(x: Array, y: Array, measured: list[bool] | None = None) -> PhaseSums:
    """Sums of a model of one block; only attn.0 gets the tokens, ffn.0 gets x → x."""
    sums = PhaseSums(2, x.shape[1], CPU)
    a, b = torch.tensor(x), torch.tensor(y)
    mask = None if measured is None else torch.tensor(measured)
    sums.add(0, a, b, ((a * a).sum(1), (b * b).sum(1)), mask)
    sums.add(1, a, a, ((a * a).sum(1), (a * a).sum(1)), mask)
    return sums


def statistics(sums: PhaseSums) -> tuple[PhaseStatistics, NDArray[np.float32], NDArray[np.float32]]:
    found, mean_in, mean_out = statistics_of(*sums.arrays(), "prefill")
    return found[0], mean_in[0], mean_out[0]


def by_definition(x: Array, y: Array) -> dict[str, Any]:
    """Every statistic straight from its definition, token by token."""
    lengths_in, lengths_out = np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1)
    weight = 1 / lengths_in**2
    mean_in, mean_out = np.average(x, axis=0, weights=weight), np.average(y, axis=0, weights=weight)
    variance_in = np.average(((x - mean_in) ** 2).sum(1), weights=weight)
    variance_out = np.average(((y - mean_out) ** 2).sum(1), weights=weight)
    s = np.sqrt(variance_out / variance_in)
    residual = y - (s * x + mean_out - s * mean_in)
    return {
        "tokens": len(x),
        "similarity": np.mean((x * y).sum(1) / (lengths_in * lengths_out)),
        "scale": np.mean(lengths_out / lengths_in),
        "affine_scale": s,
        "error": np.mean(((y - x) ** 2).sum(1) / lengths_in**2),
        "affine_error": np.mean((residual**2).sum(1) / lengths_in**2),
        "mean_square_in": np.mean(lengths_in**2),
        "mean_square_out": np.mean(lengths_out**2),
        "mean_dot": np.mean((x * y).sum(1)),
    }


def test_equations_by_hand() -> None:
    """cos: 1 and 0; ratio: 2 and 1. Weights 1/25 and 1: ⟨x⟩ = (28/25, 4/25) / (26/25) and so on."""
    found, mean_in, mean_out = statistics(sums_of(np.array([[3.0, 4], [1, 0]]), np.array([[6.0, 8], [0, 1]])))
    assert found.tokens == 2
    assert found.similarity == pytest.approx(0.5)
    assert found.scale == pytest.approx(1.5)
    assert found.mean_square_in == pytest.approx((25 + 1) / 2)
    assert found.mean_square_out == pytest.approx((100 + 1) / 2)
    assert found.mean_dot == pytest.approx((50 + 0) / 2)
    assert found.error == pytest.approx((25 / 25 + 2 / 1) / 2)
    np.testing.assert_allclose(mean_in, [28 / 26, 4 / 26], rtol=1e-6)
    np.testing.assert_allclose(mean_out, [6 / 26, 33 / 26], rtol=1e-6)
    # var(x) = 2·25/26 − (28² + 4²)/26²; var(y) = (100/25 + 1)·25/26 − (6² + 33²)/26²
    expected = (5 * 25 / 26 - (36 + 1089) / 676) / (2 * 25 / 26 - (784 + 16) / 676)
    assert found.affine_scale == pytest.approx(np.sqrt(expected))


def test_random_tokens() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(50, 7)) * generator.uniform(0.1, 100, size=(50, 1))
    y = 1.3 * x + 0.2 * generator.normal(size=(50, 7)) + 0.5
    found, _, _ = statistics(sums_of(x, y))
    assert found.model_dump(exclude_none=True) == pytest.approx(by_definition(x, y), rel=1e-9)


def test_an_affine_sublayer_is_recovered() -> None:
    """Where y is exactly s·x + b, compensation leaves no error."""
    x = np.random.default_rng(1).normal(size=(40, 5))
    found, mean_in, mean_out = statistics(sums_of(x, 0.8 * x + np.arange(5)))
    assert found.affine_scale == pytest.approx(0.8)
    assert found.affine_error == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(mean_out - 0.8 * mean_in, np.arange(5), atol=1e-6)


def test_a_negating_sublayer_still_folds() -> None:
    """y = −x has a negative least-squares slope; the compensation's scale must be positive."""
    x = np.random.default_rng(2).normal(size=(40, 5))
    assert statistics(sums_of(x, -x))[0].affine_scale == pytest.approx(1.0)


@pytest.mark.parametrize("y", [[[2.0, 0]], [[0.0, 2]]])
def test_one_token(y: list[list[float]]) -> None:
    """Without variance the norm ratio is kept."""
    assert statistics(sums_of(np.array([[1.0, 0]]), np.array(y)))[0].affine_scale == pytest.approx(2.0)


def test_bias_share_by_hand() -> None:
    """Two windows of equal weight whose biases are (1, 0) and (1, 1): b = (1, ½), variance ½, share 1 − 0.5/1.25."""
    x = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    sums = PhaseSums(2, 2, CPU)
    for bias in ((1.0, 0.0), (1.0, 1.0)):
        for sublayer in (0, 1):
            a, b = torch.tensor(x), torch.tensor(x + np.array(bias))
            sums.add(sublayer, a, b, ((a * a).sum(1), (b * b).sum(1)), None)
        sums.close_window()
    found, mean_in, mean_out = statistics(sums)
    np.testing.assert_allclose(mean_in, 0, atol=1e-12)
    np.testing.assert_allclose(mean_out, [1, 0.5])
    assert found.bias_share == pytest.approx(1 - 0.5 / 1.25)


def test_bias_share_of_windows_that_agree() -> None:
    generator = np.random.default_rng(5)
    sums = PhaseSums(2, 4, CPU)
    for _ in range(3):
        x = torch.tensor(generator.normal(size=(20, 4)))
        for sublayer in (0, 1):
            sums.add(sublayer, x, x + 3, ((x * x).sum(1), ((x + 3) ** 2).sum(1)), None)
        sums.close_window()
    assert statistics(sums)[0].bias_share == pytest.approx(1.0)


def test_unmeasured_and_zero_tokens_are_left_out() -> None:
    generator = np.random.default_rng(3)
    x, y = generator.normal(size=(2, 6, 4))
    x[1] = 0
    found, _, _ = statistics(sums_of(x, y, [True, True, True, False, True, False]))
    assert found.model_dump(exclude_none=True) == pytest.approx(by_definition(x[[0, 2, 4]], y[[0, 2, 4]]), rel=1e-9)


def test_shards_add_up() -> None:
    x, y = np.random.default_rng(4).normal(size=(2, 30, 4))
    whole = sums_of(x, y)
    for name in ("scalars", "vectors"):
        parts = [getattr(sums_of(x[part], y[part]), name) for part in (slice(11), slice(11, None))]
        torch.testing.assert_close(sum(parts), getattr(whole, name))


def test_overflow_names_the_first_sublayer() -> None:
    x = np.ones((2, 3))
    with pytest.raises(EdgeSkipError, match=r"attn\.0 \(prefill\)"):
        statistics(sums_of(x, np.array([[np.inf] * 3, [1.0] * 3])))


@pytest.mark.parametrize("family", FAMILIES)
def test_recorded_statistics_of_a_model(family: str) -> None:
    """x and y of every sublayer from the sublayers' own outputs: the stream is what they have added so far."""
    model = tiny_model(family)
    ids = torch.arange(40).reshape(2, 20) * 13 % 320
    outputs: list[Array] = []
    modules = [module for layer in model.model.layers for module in (layer.self_attn, layer.mlp)]
    hooks = [m.register_forward_hook(lambda _, __, out: outputs.append(_array(out))) for m in modules]
    with recording(model) as recorder:
        recorder.sums = PhaseSums(8, 64, CPU)
        model.model(ids)
        sums = recorder.sums
    for hook in hooks:
        hook.remove()
    found, mean_in, _ = statistics_of(*sums.arrays(), "prefill")
    stream = model.model.embed_tokens(ids).double().flatten(0, 1).numpy()
    for index, output in enumerate(outputs):
        after = stream + output
        assert found[index].model_dump(exclude_none=True) == pytest.approx(by_definition(stream, after), rel=2e-5)
        weights = 1 / (stream**2).sum(1)
        np.testing.assert_allclose(mean_in[index], np.average(stream, axis=0, weights=weights), rtol=1e-4, atol=1e-5)
        stream = after
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def _array(output: Any) -> Array:
    tensor = output[0] if isinstance(output, tuple) else output
    return tensor.detach().double().flatten(0, 1).numpy()  # type: ignore[no-any-return]
