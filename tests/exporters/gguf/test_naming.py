"""File names. Oracle: written down by hand, after the names in README.md."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from edgeskip.artifacts.manifest import PlanSummary
from edgeskip.exporters.gguf.output_plan import file_name
from edgeskip.models.locate import short_name
from edgeskip.profiles.schema import Method


def summary(method: str, count: int) -> PlanSummary:
    skip = [f"attn.{block}" for block in range(count)]
    return PlanSummary(method=method, compensation="none", skip=skip, num_blocks=30)


@pytest.mark.parametrize(
    ("model", "method", "count", "options", "name"),
    [
        ("smollm2-135m-instruct", "adaskip", 8, {}, "smollm2-135m-instruct-adaskip8-Q4_1.gguf"),
        ("SmolLM2-135M-Instruct", "dense", 0, {}, "smollm2-135m-instruct-Q4_1.gguf"),
        ("My Model", "explicit", 3, {}, "my-model-explicit3-Q4_1.gguf"),
        ("m", "adaskip", 0, {}, "m-Q4_1.gguf"),
        ("m", "dense", 0, {"exit_layer": 8, "part": "first"}, "m-exit8-Q4_1.gguf"),
        ("m", "dense", 0, {"exit_layer": 8, "part": "rest"}, "m-exit8-rest-Q4_1.gguf"),
        ("m", "least-similar", 12, {"exit_layer": 10, "part": "rest"}, "m-least-similar12-exit10-rest-Q4_1.gguf"),
    ],
)
def test_names(model: str, method: str, count: int, options: dict[str, Any], name: str) -> None:
    assert file_name(model, summary(method, count), "Q4_1", **options) == name


def test_the_two_halves_and_every_method_differ() -> None:
    options: list[dict[str, Any]] = [{}, {"exit_layer": 2, "part": "first"}, {"exit_layer": 2, "part": "rest"}]
    names = {file_name("m", summary(method, 2), "F16", **o) for method in get_args(Method) for o in options}
    assert len(names) == 3 * len(get_args(Method))


@pytest.mark.parametrize("precision", ["Q4_1", "F16", "BF16", "Q4_K_M", "IQ4_XS", "Q8_0"])
def test_the_precision_is_where_others_look_for_it(precision: str, tmp_path: Any) -> None:
    """Read back with the rule that finds a model's name in other people's files."""
    path = tmp_path / file_name("m", summary("adaskip", 8), precision)
    assert short_name(path) == "m-adaskip8"
