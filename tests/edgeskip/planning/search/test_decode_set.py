"""What decoding may leave out. Oracles: hand-made similarities; the whole model with hooks that change FFNs late."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import tiny_checkpoint

from edgeskip.models.source import open_model
from edgeskip.models.torch_reference.load import load_torch_model
from edgeskip.planning.search.decode_set import choose_decode_set, hit_rates

PROMPT, TOTAL = 12, 40


def test_hit_rates_by_hand() -> None:
    """One continuation, β 0.9: the whole gates FFNs 1 and 3; two tokens find 1, four find 1, 3 and, wrongly, 5."""
    one = np.array([[0.95] * 8])
    three = np.array([[0.8, 0.8, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]])
    five = np.array([[0.8, 0.8, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5]])
    rates = hit_rates({1: one, 3: three, 5: five}, 0.9, windows=(2, 4, 8))
    assert rates == {2: pytest.approx(1 / 2), 4: pytest.approx(2 / 3)}


def test_nothing_to_find_is_found() -> None:
    assert hit_rates({1: np.full((2, 8), 0.5)}, 0.9, windows=(4,)) == {4: 1.0}
    assert hit_rates({}, None) == {}


def test_kl_of_late_skips_is_the_whole_models(tmp_path: Path) -> None:
    """From the continuation on, the chosen FFNs give x·scale: hooks on the transformers model, KL over those tokens."""
    source = open_model(str(tiny_checkpoint("llama", tmp_path / "m")))
    model = load_torch_model(source)
    texts = torch.randint(2, 300, (3, TOTAL), generator=torch.Generator().manual_seed(0))
    found = choose_decode_set(model, texts, PROMPT, {}, max_kl=1e9)
    assert len(found.skip) == 3  # of four FFNs one stays
    assert found.kl_plan == pytest.approx(0, abs=1e-9)
    assert list(found.curve) == sorted(found.curve)
    similarity, ratio = late_statistics(model, texts)
    order = sorted(range(4), key=lambda block: -similarity[block])
    assert [s.block for s in found.skip] == order[:3]
    dense = model(texts).logits[:, PROMPT:-1].double().log_softmax(-1)
    # Measured under the dense plan, so each one's ratio is the dense model's.
    with late(model, {order[0]: ratio[order[0]]}):
        other = model(texts).logits[:, PROMPT:-1].double().log_softmax(-1)
    kl = float((dense.exp() * (dense - other)).sum(-1).mean())
    assert found.curve[1] == pytest.approx(kl, rel=1e-3)
    assert found.scales[0] == pytest.approx(ratio[order[0]], rel=1e-4)


def test_a_budget_ends_the_set(tmp_path: Path) -> None:
    model = load_torch_model(open_model(str(tiny_checkpoint("llama", tmp_path / "m"))))
    texts = torch.randint(2, 300, (3, TOTAL), generator=torch.Generator().manual_seed(0))
    whole = choose_decode_set(model, texts, PROMPT, {}, max_kl=1e9)
    between = (whole.curve[1] + whole.curve[2]) / 2
    some = choose_decode_set(model, texts, PROMPT, {}, max_kl=between)
    assert some.skip == whole.skip[:1]
    assert some.kl == whole.curve[1]
    assert some.threshold is not None
    none = choose_decode_set(model, texts, PROMPT, {}, max_kl=whole.curve[1] / 2)
    assert (none.skip, none.threshold) == ((), None)


def late_statistics(model: Any, texts: torch.Tensor) -> tuple[list[float], list[float]]:
    """Mean cosine and length ratio of each FFN over the continuations, by hooks."""
    before: list[torch.Tensor] = []
    after: list[torch.Tensor] = []
    hooks = []
    for layer in model.model.layers:
        norm = layer.post_attention_layernorm
        hooks.append(norm.register_forward_pre_hook(lambda _, args: before.append(args[0][:, PROMPT:])))
        hooks.append(layer.register_forward_hook(lambda _, __, out: after.append(first(out)[:, PROMPT:])))
    model(texts)
    for hook in hooks:
        hook.remove()
    cosines = [float(torch.cosine_similarity(x, y, dim=-1).mean()) for x, y in zip(before, after, strict=True)]
    return cosines, [float((y.norm(dim=-1) / x.norm(dim=-1)).mean()) for x, y in zip(before, after, strict=True)]


def first(output: Any) -> torch.Tensor:
    found: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return found


class late:  # noqa: N801 - reads as a verb
    """FFNs of these blocks become x·scale after the prompt."""

    def __init__(self, model: Any, scales: dict[int, float]) -> None:
        self.hooks = []
        for block, scale in scales.items():
            layer, seen = model.model.layers[block], []

            def note(_: Any, args: Any, seen: list[torch.Tensor] = seen) -> None:
                seen.append(args[0])

            def replaced(_: Any, __: Any, out: Any, seen: list[torch.Tensor] = seen, scale: float = scale) -> Any:
                changed = out.clone()
                changed[:, PROMPT:] = seen.pop()[:, PROMPT:] * (scale - 1)
                return changed

            self.hooks.append(layer.post_attention_layernorm.register_forward_pre_hook(note))
            self.hooks.append(layer.mlp.register_forward_hook(replaced))

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exception: object) -> None:
        for hook in self.hooks:
            hook.remove()
