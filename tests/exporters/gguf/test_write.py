"""GGUF files run by unmodified llama.cpp.

Oracle: transformers on the same checkpoint, its plan applied by hooks. Weights are F32; llama.cpp keeps keys and values
in F16, so logits (of order 10 here) differ by some hundredths where everything is right, and by tenths and more where
a scale, a bias or a rotation is lost.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from files import engine_over, write_plan
from variants import SKIPPED, TOKENS, VARIANTS, Case, case_of, in_one_prefill, in_steps, torch_logits

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.metrics import compare_logits as compare
from edgeskip.core.plan import Plan

# What llama.cpp's own smollm3 is: no rope in every 4th block.
GGUF_VARIANTS = {
    name: variant for name, variant in VARIANTS.items() if "window" not in name and "biases and" not in name
} | {"smollm3": ("smollm3", {"no_rope_layers": [1, 1, 1, 0]})}
OF_DECI = [name for name in GGUF_VARIANTS if name.startswith(("llama", "mistral", "qwen2"))]


def case_named(name: str, tmp_path_factory: pytest.TempPathFactory) -> Case:
    family, overrides = GGUF_VARIANTS[name]
    return case_of(tmp_path_factory.mktemp("case"), family, **overrides)


@pytest.fixture(scope="module", params=GGUF_VARIANTS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return case_named(request.param, tmp_path_factory)


@pytest.fixture(scope="module", params=OF_DECI)
def deci_case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return case_named(request.param, tmp_path_factory)


def assert_matches(path: Path, expected: Any) -> None:
    engine = engine_over(path)
    for logits in (in_one_prefill(engine), in_steps(engine)):
        difference, kl, _ = compare(expected, logits)
        print(difference, kl)
        assert difference < 0.1
        assert kl < 1e-4


def test_dense(case: Case, tmp_path: Path) -> None:
    layout = write_plan(case.source, Plan(4), tmp_path / "dense.gguf")
    assert layout.architecture == {"mistral": "llama"}.get(case.config.family, case.config.family)
    assert_matches(tmp_path / "dense.gguf", torch_logits(case.oracle))


def test_dense_as_deci(deci_case: Case, tmp_path: Path) -> None:
    assert write_plan(deci_case.source, Plan(4), tmp_path / "d.gguf", architecture="deci").architecture == "deci"
    assert_matches(tmp_path / "d.gguf", torch_logits(deci_case.oracle))


@pytest.mark.parametrize("compensation", ["none", "scale", "affine"])
@pytest.mark.parametrize(
    "names",
    [*SKIPPED, ["attn.0"], ["attn.0", "ffn.0"], ["ffn.0"], ["attn.3", "ffn.3"], ["ffn.3"], ["attn.1", "attn.2"]],
    ids="+".join,
)
def test_skipped(deci_case: Case, names: list[str], compensation: str, tmp_path: Path) -> None:
    plan = deci_case.plan(names, compensation)
    expected = deci_case.expected(plan)
    assert np.abs(expected - torch_logits(deci_case.oracle)).max() > 0.3  # the plan is felt
    write_plan(deci_case.source, plan, tmp_path / "skipped.gguf")
    assert_matches(tmp_path / "skipped.gguf", expected)


@pytest.mark.parametrize("names", [["attn.1", "ffn.1"], ["ffn.1", "attn.2"], ["attn.0", "ffn.0"]], ids="+".join)
@pytest.mark.parametrize("compensation", ["none", "scale"])
def test_attention_and_ffn_alternating_fit_the_familys_own_architecture(
    names: list[str], compensation: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for name in ("qwen3", "llama, tied"):
        case = case_named(name, tmp_path_factory)
        plan = case.plan(names, compensation)
        layout = write_plan(case.source, plan, tmp_path / f"{name}.gguf")
        assert (layout.architecture, len(layout.blocks)) == (case.config.family, 3)
        assert_matches(tmp_path / f"{name}.gguf", case.expected(plan))


def test_a_removed_block_keeps_smollm3s_rhythm(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Four blocks gone of eight leave every 4th without rope; one gone does not."""
    case = case_of(
        tmp_path_factory.mktemp("case"),
        "smollm3",
        num_hidden_layers=8,
        no_rope_layers=[1, 1, 1, 0, 1, 1, 1, 0],
        layer_types=["full_attention"] * 8,
    )
    plan = case.plan([f"{kind}.{block}" for block in range(2, 6) for kind in ("attn", "ffn")], "scale")
    assert write_plan(case.source, plan, tmp_path / "half.gguf").architecture == "smollm3"
    assert_matches(tmp_path / "half.gguf", case.expected(plan))
    with pytest.raises(EdgeSkipError, match="'smollm3' has rope in block 2 of the file"):
        write_plan(case.source, case.plan(["attn.2", "ffn.2"], "scale"), tmp_path / "seven.gguf")
    assert not (tmp_path / "seven.gguf").exists()


def test_what_no_architecture_holds(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """One line that names the obstacle in both architectures and what to do; no file."""
    biased = case_of(tmp_path_factory.mktemp("case"), "qwen3", attention_bias=True)
    qwen3 = case_named("qwen3", tmp_path_factory)
    refused = [
        (biased, Plan(4), "'qwen3' has no bias on what a sublayer adds and 'deci' has no query and key norms"),
        (qwen3, qwen3.plan(["attn.1"], "none"), "'qwen3' has an attention and an FFN in every block"),
        (qwen3, qwen3.plan(["attn.1", "ffn.1"], "affine"), "with compensation none or scale"),
    ]
    for case, plan, message in refused:
        with pytest.raises(EdgeSkipError, match=message):
            write_plan(case.source, plan, tmp_path / "none.gguf")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["mistral, window", "qwen2, window above"])
def test_a_sliding_window_ends_the_context(name: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """llama.cpp has no window in these architectures: within the window the model is the same, and it ends there."""
    family, overrides = VARIANTS[name]
    case = case_of(tmp_path_factory.mktemp("case"), family, **overrides)
    write_plan(case.source, Plan(4), tmp_path / "window.gguf")
    engine = engine_over(tmp_path / "window.gguf")
    assert engine.context_length == 8
    expected = torch_logits(case.oracle, TOKENS[:8])
    assert compare(expected, engine.step(TOKENS[:8], logits=0))[0] < 0.1
    with pytest.raises(EdgeSkipError, match="context"):
        engine.step(TOKENS[8:9])
