"""Plans applied by hooks. Oracle: the same model with edited weights, and x ← scale·x + bias by hand."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import FAMILIES, tiny_model

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.plan import Plan, Skip
from edgeskip.core.sublayers import parse_sublayer
from edgeskip.models.torch_reference.skipping import skipped

IDS = torch.arange(24).reshape(1, 24) * 7 % 320


def skips(*names: str, scale: float = 1.0, bias: Any = None) -> tuple[Skip, ...]:
    return tuple(Skip(parse_sublayer(name, 4), scale, bias) for name in names)


@contextmanager
def streams(model: Any) -> Iterator[list[torch.Tensor]]:
    """The stream before every sublayer of the passes inside, in order of execution."""
    seen: list[torch.Tensor] = []
    norms = [norm for layer in model.model.layers for norm in (layer.input_layernorm, layer.post_attention_layernorm)]
    hooks = [norm.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone())) for norm in norms]
    yield seen
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("family", FAMILIES)
def test_no_compensation_equals_zeroed_output_projections(family: str) -> None:
    """A sublayer whose output projection (and its bias) is zero adds nothing to the stream."""
    model, zeroed = tiny_model(family), tiny_model(family)
    for projection in (
        zeroed.model.layers[0].mlp.down_proj,
        zeroed.model.layers[2].self_attn.o_proj,
        zeroed.model.layers[2].mlp.down_proj,
    ):
        projection.weight.zero_()
        if projection.bias is not None:
            projection.bias.zero_()
    with skipped(model, Plan(4, skips("ffn.0", "attn.2", "ffn.2"))):
        logits = model(IDS).logits
    torch.testing.assert_close(logits, zeroed(IDS).logits, rtol=0, atol=1e-5)
    assert (logits - model(IDS).logits).abs().max() > 0.1


@pytest.mark.parametrize("name", ["attn.0", "ffn.1", "attn.2"])
def test_affine_on_the_stream(name: str) -> None:
    model = tiny_model("llama")
    bias = np.random.default_rng(0).normal(size=64).astype(np.float32)
    (skip,) = skips(name, scale=1.25, bias=bias)
    with skipped(model, Plan(4, (skip,), "affine")), streams(model) as seen:
        model(IDS)
    before, after = seen[skip.sublayer.index : skip.sublayer.index + 2]
    torch.testing.assert_close(after, 1.25 * before + torch.from_numpy(bias), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("name", "source"), [("attn.2", "ffn.1"), ("ffn.2", "attn.2"), ("ffn.2", "ffn.0")])
def test_a_map_of_an_earlier_update(name: str, source: str) -> None:
    """After = scale·before + map·u + bias; u = the stream after the source less the stream before it."""
    model = tiny_model("llama")
    rng = np.random.default_rng(0)
    matrix, bias = (rng.normal(size=size).astype(np.float32) for size in ((64, 64), (64,)))
    read = parse_sublayer(source, 4)
    skip = Skip(parse_sublayer(name, 4), 1.25, bias, matrix, read)
    with skipped(model, Plan(4, (skip,), "linear")), streams(model) as seen:
        model(IDS)
    update = seen[read.index + 1] - seen[read.index]
    before, after = seen[skip.sublayer.index : skip.sublayer.index + 2]
    expected = 1.25 * before + update @ torch.from_numpy(matrix).T + torch.from_numpy(bias)
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-4)


def test_last_sublayer_by_hand() -> None:
    """After the last sublayer come the final norm and the head alone."""
    model = tiny_model("llama")
    with streams(model) as seen:
        model(IDS)
    expected = model.lm_head(model.model.norm(0.5 * seen[-1]))
    with skipped(model, Plan(4, skips("ffn.3", scale=0.5), "scale")):
        torch.testing.assert_close(model(IDS).logits, expected, rtol=1e-5, atol=1e-5)


def test_cached_decoding_agrees_with_one_pass() -> None:
    model = tiny_model("llama")
    bias = np.full(64, 0.1, dtype=np.float32)
    with skipped(model, Plan(4, skips("attn.1", "ffn.2", scale=1.1, bias=bias), "affine")):
        whole = model(IDS).logits[0, -1]
        cache = model(IDS[:, :-1], use_cache=True).past_key_values
        last = model(IDS[:, -1:], past_key_values=cache).logits[0, -1]
    torch.testing.assert_close(last, whole, rtol=1e-4, atol=1e-4)


def test_half_precision_keeps_its_dtype() -> None:
    model = tiny_model("llama").to(torch.bfloat16)
    with skipped(model, Plan(4, skips("attn.1", "ffn.1", scale=1.1), "scale")):
        assert model(IDS).logits.dtype == torch.bfloat16


def test_hooks_are_removed_also_after_an_error() -> None:
    model = tiny_model("llama")
    dense = model(IDS).logits
    with pytest.raises(ZeroDivisionError), skipped(model, Plan(4, skips("attn.1", "ffn.3"))):
        raise ZeroDivisionError
    assert torch.equal(model(IDS).logits, dense)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_plan_of_another_model() -> None:
    with pytest.raises(EdgeSkipError, match="5 blocks"), skipped(tiny_model("llama"), Plan(5)):
        pass


def test_unknown_architecture() -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model("gpt2", n_layer=1, n_embd=8, n_head=1, vocab_size=8, n_positions=8)
    with pytest.raises(EdgeSkipError, match="unsupported"), skipped(AutoModelForCausalLM.from_config(config), Plan(1)):
        pass


def test_streamed_model(tmp_path: Any) -> None:
    """A model whose weights come and go block by block gives the same result."""
    from tiny_models import tiny_checkpoint

    from edgeskip.models.source import open_model
    from edgeskip.models.torch_reference.load import load_torch_model

    source = open_model(str(tiny_checkpoint("llama", tmp_path / "m")))
    plan = Plan(4, skips("attn.1", "ffn.2", scale=1.1), "scale")
    logits = []
    for stream in (False, True):
        model = load_torch_model(source, stream=stream)
        with skipped(model, plan):
            logits.append(model(IDS).logits)
    assert torch.equal(*logits)
