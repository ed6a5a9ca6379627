"""The recipe's objective. Oracle: the same step written out with transformers' own blocks, norm and head."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import tiny_model
from torch.nn import functional

from edgeskip.training.config import LayerSkipConfig
from edgeskip.training.hooks import dropped_blocks, kept_states
from edgeskip.training.layerskip import LayerSkip
from edgeskip.training.objective import seed_of
from edgeskip.training.schedules import dropout_rates, exit_weights

BATCH, LENGTH, BLOCKS = 3, 9, 4


@pytest.fixture(params=["llama", "mistral", "qwen3"])
def model(request: pytest.FixtureRequest) -> Any:
    return tiny_model(request.param).requires_grad_(True)


def batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(0, 320, (BATCH, LENGTH), generator=torch.Generator().manual_seed(5))
    labels = ids.clone()
    labels[:, :3] = -100
    labels[1, 6:] = -100
    return {"input_ids": ids, "labels": labels}


def by_hand(model: Any, inputs: dict[str, torch.Tensor], weights: dict[int, float], drops: torch.Tensor) -> Any:
    """`drops` bool [blocks, batch]: a sample's stream passes such a block as it came."""
    ids, labels = inputs["input_ids"], inputs["labels"]
    body = model.model
    x = body.embed_tokens(ids)
    position = torch.arange(LENGTH)[None]
    rotary = body.rotary_emb(x, position)
    total = torch.zeros(())
    parts = {}
    for number, block in enumerate(body.layers):
        found = block(x, attention_mask=None, position_ids=position, position_embeddings=rotary)
        found = found[0] if isinstance(found, tuple) else found
        x = torch.where(drops[number][:, None, None], x, found)
        if number in weights:
            logits = model.lm_head(body.norm(x))[:, :-1]
            loss = functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1))
            total = total + weights[number] * loss
            parts[number] = loss
    return total, parts


def drawn(rates: tuple[float, ...], seed: int) -> torch.Tensor:
    """One number for each sample and block with a rate, in the blocks' order."""
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.rand(BATCH, generator=generator) < r if r else torch.zeros(BATCH, dtype=torch.bool) for r in rates]
    return torch.stack(rows)


@pytest.mark.parametrize("step", [0, 5])
def test_a_step_is_what_it_is_by_hand(model: Any, step: int) -> None:
    """Loss, parts and the gradient of every parameter."""
    recipe = LayerSkipConfig(p_max=0.9, e_scale=0.7, interval=2)
    inputs = batch()
    objective = LayerSkip(model, recipe, 10, seed=3, rank=1)
    found = objective(inputs, step)
    weights = exit_weights([0, 2] if step % 2 == 0 else [1], BLOCKS, 0.7)
    drops = drawn(dropout_rates(BLOCKS, 0.9), seed_of(3, step, 1))
    assert 0 < drops.sum() < drops[1:].numel(), "some are dropped, not all"
    total, parts = by_hand(model, inputs, weights, drops)
    torch.testing.assert_close(found.total, total)
    names = {"exit 1": 0, "exit 2": 1, "exit 3": 2, "last": 3}
    for name, loss in found.parts.items():
        torch.testing.assert_close(loss, parts[names[name]].detach())
        assert not loss.requires_grad
    parameters = list(model.parameters())
    ours, wanted = torch.autograd.grad(found.total, parameters), torch.autograd.grad(total, parameters)
    for name_and_parameter, a, b in zip(model.named_parameters(), ours, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-3, msg=lambda m, n=name_and_parameter[0]: f"{n}: {m}")


def test_steps_draw_anew_and_repeat(model: Any) -> None:
    objective = LayerSkip(model, LayerSkipConfig(p_max=0.5), 10, seed=0)
    inputs = batch()
    first, again, next_turn = (float(objective(inputs, step).total.detach()) for step in (0, 0, 8))
    assert first == again != next_turn
    assert not any(block._forward_hooks for block in model.model.layers), "the hooks are gone"


def test_which_exits_learn() -> None:
    model = tiny_model("llama")

    def exits(step: int, recipe: LayerSkipConfig) -> set[int]:
        return {block + 1 for block in LayerSkip(model, recipe, 8, seed=0).weights(step)}

    assert [exits(step, LayerSkipConfig(interval=3)) for step in range(3)] == [{1, 4}, {2, 4}, {3, 4}]
    assert exits(0, LayerSkipConfig(interval=1, exits=(2,))) == {2, 4}
    assert exits(0, LayerSkipConfig(interval=1, e_scale=0)) == {4}
    assert [exits(step, LayerSkipConfig(curriculum="gradual")) for step in (0, 1, 2, 3, 7)] == [
        {4}, {3, 4}, {2, 3, 4}, {1, 2, 3, 4}, {1, 2, 3, 4}
    ]  # fmt: skip


def test_without_exits_and_dropout_it_is_transformers_own_loss(model: Any) -> None:
    inputs = batch()
    found = LayerSkip(model, LayerSkipConfig(p_max=0, e_scale=0), 10, seed=0)(inputs, 0)
    torch.testing.assert_close(found.total, model(**inputs).loss)
    assert set(found.parts) == {"last"}


def test_kept_states_are_those_after_dropping() -> None:
    """Oracle: transformers' hidden states where nothing is dropped, the embedding where everything is."""
    model = tiny_model("llama")
    ids = batch()["input_ids"]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        reference = model(input_ids=ids, output_hidden_states=True).hidden_states
        with kept_states(model, [0, 2]) as kept:
            model(input_ids=ids)
        with dropped_blocks(model, [1.0] * BLOCKS, generator), kept_states(model, [0, 2]) as dropped:
            model(input_ids=ids)
    for block in (0, 2):
        torch.testing.assert_close(kept[block], reference[block + 1], rtol=0, atol=0)
        torch.testing.assert_close(dropped[block], reference[0], rtol=0, atol=0)
