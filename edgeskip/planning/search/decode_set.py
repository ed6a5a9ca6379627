"""Which FFNs decoding may leave out in addition to the plan, from which similarity on (β), and after how long (P).

AdaSkip takes β from the skipped set: its least similarity. Where that set was chosen by what it costs rather than by
similarity, the least means nothing, so β is set by what skipping costs on the model's own continuations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeskip.core.sublayers import Sublayer, sublayers_of
from edgeskip.planning.search.quality import QualityMeter
from edgeskip.planning.search.runner import SublayerRunner

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from edgeskip.planning.search.fit import Fit

WINDOWS = (5, 10, 20, 40)  # P: tokens that may be watched
NEAR = 0.02  # of the hit rate with the most tokens: a shorter window that is as near as this will do


@dataclass(frozen=True)
class DecodeSet:
    """`skip` by falling similarity, FFNs at or above `threshold` on these continuations; `scales` in their place.

    `window` tokens are enough to identify them (`hit_rates`: how well the first P tokens find the whole continuation's
    set). `kl_plan` and `kl` are of the continuations without and with them; `curve` KL by number of FFNs left out, from
    0.
    """

    skip: tuple[Sublayer, ...]
    scales: tuple[float, ...]
    threshold: float | None
    window: int
    hit_rates: dict[int, float]
    kl_plan: float
    kl: float
    curve: tuple[float, ...]


def choose_decode_set(
    model: PreTrainedModel, texts: Tensor, prompt: int, fits: Mapping[int, Fit], max_kl: float
) -> DecodeSet:
    """Return the most similar FFNs that decoding can leave out with KL(dense ‖ skipped) up to `max_kl` nats per token.

    `texts` int64 [W, T] are prompts of `prompt` tokens and the dense model's greedy continuations, of which everything
    is measured; the plan's `fits` hold throughout, and the FFNs give way after the prompt.
    """
    runner = SublayerRunner(model, texts)
    meter = QualityMeter(runner, _run(runner, {}, {}, prompt)[0], slice(None), first=prompt)
    stream, watched = _run(runner, fits, {}, prompt)
    similarity = {index: cosine.mean() for index, (cosine, _) in watched.items()}
    order = sorted(watched, key=lambda index: (-similarity[index], index))
    curve = [meter.measure(stream).kl]
    late: dict[int, float] = {}
    for index in order[: len(order) - 1]:
        late[index] = float(watched[index][1].mean())
        found = meter.measure(_run(runner, fits, late, prompt)[0]).kl
        if not found <= max_kl:
            break
        curve.append(found)
    count = len(curve) - 1
    chosen = order[:count]
    threshold = None
    if chosen:
        # Half way to the next: a request's own similarities lie to both sides of the mean.
        after = similarity[order[count]] if count < len(order) else similarity[chosen[-1]]
        threshold = float((similarity[chosen[-1]] + after) / 2)
    rates = hit_rates({index: cosine for index, (cosine, _) in watched.items()}, threshold)
    names = sublayers_of(runner.num_sublayers // 2)
    return DecodeSet(
        skip=tuple(names[index] for index in chosen),
        scales=tuple(late[index] for index in chosen),
        threshold=threshold,
        window=_enough(rates),
        hit_rates=rates,
        kl_plan=curve[0],
        kl=curve[-1],
        curve=tuple(curve),
    )


def hit_rates(
    cosines: Mapping[int, NDArray[np.floating]], threshold: float | None, windows: Sequence[int] = WINDOWS
) -> dict[int, float]:
    """Return, for each P, how well the first P tokens of a continuation predict what the whole of it would gate.

    `cosines` [W, tokens] by FFN. The rate is the mean over continuations of |found ∩ true| / |found ∪ true|, 1 if
    neither gates anything; windows longer than the continuations are left out.
    """
    if threshold is None or not cosines:
        return {}
    values = np.stack(list(cosines.values()))  # [FFNs, W, tokens]
    truth = values.mean(axis=2) >= threshold
    rates = {}
    for window in windows:
        if window < values.shape[2]:
            found = values[:, :, :window].mean(axis=2) >= threshold
            union = (found | truth).sum(axis=0)
            rates[window] = float(np.where(union, (found & truth).sum(axis=0) / np.maximum(union, 1), 1.0).mean())
    return rates


def _enough(rates: Mapping[int, float]) -> int:
    """Return the shortest window whose hit rate is within NEAR of the best; AdaSkip's 20 if nothing is known."""
    best = max(rates.values(), default=0.0)
    return min((window for window, rate in rates.items() if rate >= best - NEAR), default=20)


def _run(
    runner: SublayerRunner, fits: Mapping[int, Fit], late: Mapping[int, float], prompt: int
) -> tuple[Tensor, dict[int, tuple[NDArray[np.float32], NDArray[np.float32]]]]:
    """Return the last stream under a plan whose FFNs `late` become x·scale after the prompt; and of each other FFN,
    cosine and length ratio [W, T − prompt] of what it makes of the continuations' tokens.
    """
    import torch

    x, update = runner.start, None
    watched: dict[int, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
    for index in range(runner.num_sublayers):
        if index in fits:
            x = fits[index].apply(x, update)
            continue
        update = runner.update(index, x)
        if index in late:
            update[:, prompt:] = x[:, prompt:] * (late[index] - 1)
        y = x + update
        if index % 2 == 1 and index not in late:
            before, after = x[:, prompt:], y[:, prompt:]
            lengths = before.norm(dim=-1), after.norm(dim=-1)
            cosine = torch.linalg.vecdot(before, after) / (lengths[0] * lengths[1]).clamp_min(1e-30)
            ratio = lengths[1] / lengths[0].clamp_min(1e-30)
            watched[index] = cosine.cpu().numpy(), ratio.cpu().numpy()
        if index in late:
            # A map of a later skip reads what the FFN adds: nothing if it does not run.
            update = update.clone()
            update[:, prompt:] = 0
        x = y
    return x, watched
