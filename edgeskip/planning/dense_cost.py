"""Measures what a plan costs against the dense model, on a text that ships and that nothing is calibrated on."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeskip.core.held_out import HELD_OUT_TEXT
from edgeskip.core.metrics import compare_logits, log_softmax
from edgeskip.core.plan_cost import DenseComparison, PlanCost, SpeedPrediction, cost_of, plan_digest
from edgeskip.models.source import is_large

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from edgeskip.core.plan import Plan
    from edgeskip.models.source import ModelSource
    from edgeskip.planning.search.costs import CostModel
    from edgeskip.profiles.schema import Profile

WINDOW, WINDOWS = 512, 2  # as `edgeskip bench` measures its targets' losses, on the same text
LEAST = 16  # tokens, below which a text means nothing
NAME = f"edgeskip:{HELD_OUT_TEXT.name}"


@dataclass(frozen=True)
class HeldOutText:
    """Windows of token ids int64 [W, T]; T ≤ 512."""

    windows: NDArray[np.int64]
    sha256: str

    @property
    def tokens(self) -> int:
        """Tokens that are predicted: all but each window's first."""
        return self.windows.size - len(self.windows)


def held_out_text(source: ModelSource, *, positions: int | None = None, large: bool = False) -> HeldOutText | None:
    """Return the text that ships, cut for the model; None if its context or tokenizer leaves fewer than 16 tokens.

    Args:
        source: the model, for its tokenizer and limits.
        positions: the context if it is shorter than the model's, tokens.
        large: one window alone, for a model whose dense pass takes long.
    """
    data = HELD_OUT_TEXT.read_bytes()
    tokenizer = source.encoder()
    config = source.decoder.config
    start = list(tokenizer.encode("").ids)
    ids = tokenizer.encode(data.decode("utf-8"), add_special_tokens=False).ids
    body = min(WINDOW, config.max_positions, positions or config.max_positions) - len(start)
    windows = min(1 if large else WINDOWS, len(ids) // body if body > 0 else 0)
    if windows == 0 and body > 0:
        windows, body = 1, len(ids)
    if body < LEAST or max(ids, default=0) >= config.vocab_size:
        return None
    cut = [[*start, *ids[n * body : (n + 1) * body]] for n in range(windows)]
    return HeldOutText(np.array(cut, np.int64), hashlib.sha256(data).hexdigest())


def dense_logits(model: PreTrainedModel, text: HeldOutText) -> Iterator[NDArray[np.float32]]:
    """Yield logits float32 [T, V] of each window by a torch model as it is (hooks included)."""
    import torch

    with torch.inference_mode():
        for window in text.windows:
            logits = model(input_ids=torch.from_numpy(window)[None], use_cache=False).logits[0]
            yield logits.float().numpy()


def compare_windows(
    text: HeldOutText, dense: Iterable[NDArray[np.float32]], other: Iterable[NDArray[np.float32]]
) -> DenseComparison | None:
    """Compare `other` with `dense`, logits float32 [T, V] of each window; None if a number would not be finite."""
    kl, top1, losses = 0.0, 0.0, [0.0, 0.0]
    for window, reference, found in zip(text.windows, dense, other, strict=True):
        _, here, agreed = compare_logits(reference[:-1], found[:-1])
        kl, top1 = kl + here, top1 + agreed
        for number, logits in enumerate((reference, found)):
            losses[number] += _loss(logits[:-1], window[1:])
    count = len(text.windows)
    numbers = [kl / count, top1 / count, *(_exp(loss / count) for loss in losses)]
    if not all(map(math.isfinite, numbers)):
        return None
    return DenseComparison(
        text=NAME,
        sha256=text.sha256,
        tokens=text.tokens,
        window=text.windows.shape[1],
        kl_divergence=max(numbers[0], 0.0),
        top1_agreement=min(numbers[1], 1.0),
        dense_perplexity=numbers[2],
        perplexity=numbers[3],
    )


def measure_plan(source: ModelSource, plan: Plan, dense: ModelSource) -> DenseComparison | None:
    """Measure `plan` on the torch model of `source` in float32, against `dense`, usually the same."""
    from edgeskip.models.torch_reference.load import load_torch_model
    from edgeskip.models.torch_reference.skipping import skipped

    large = is_large(source)
    text = held_out_text(source, large=large)
    if text is None:
        return None
    model = load_torch_model(source, stream=large)
    reference = list(dense_logits(model if dense is source else load_torch_model(dense, stream=True), text))
    with skipped(model, plan):
        return compare_windows(text, reference, dense_logits(model, text))


def dense_source(profile: Profile, source: ModelSource, plan: Plan, *, planning: bool = False) -> ModelSource | None:
    """Return the model that `plan` is compared with: the profile's, or if its LoRA heals a plan the one before healing.

    None if that is not known: a profile that was healed before profiles said so, or healed on top of another LoRA.
    `planning`: the plan has just been made, so it is not one that an older EdgeSkip healed.
    """
    record = profile.plan
    if not plan.skips or record is None or profile.model.adapter is None:
        return source
    if record.healed_from is None:
        known = planning or cost_of(record.cost, source.fingerprint, plan) is not None
        return source if known else None
    base = source.adaptation.base if source.adaptation is not None else None
    return base if base is not None and base.fingerprint == record.healed_from else None


def predict_speedup(source: ModelSource, plan: Plan, costs: CostModel | None = None) -> SpeedPrediction | None:
    """Predict the speed-up of `plan` from `costs`, by default from the weights a step reads; None if dense."""
    from edgeskip.planning.search.costs import weight_cost_model

    if not plan.skips:
        return None
    costs = costs or weight_cost_model(source.decoder)
    prefill, decode = costs.speedups(plan.skipped)
    return SpeedPrediction(prefill=prefill, decode=decode, basis=costs.name)


def artifact_cost(
    profile: Profile, source: ModelSource, plan: Plan, measured: DenseComparison | None
) -> PlanCost | None:
    """Return a manifest's cost: `measured` of the artifact, and what the profile knows about its plan; None if none."""
    known = cost_of(profile.plan.cost if profile.plan else None, source.fingerprint, plan)
    speedup = known.speedup if known and known.speedup else predict_speedup(source, plan)
    if measured is None and speedup is None:
        return None
    digest = plan_digest(source.fingerprint, plan)
    return PlanCost(digest=digest, plan=known.plan if known else None, artifact=measured, speedup=speedup)


def _loss(logits: NDArray[np.float32], tokens: NDArray[np.int64]) -> float:
    """Return mean −ln p of `tokens` [n] by logits [n, V], in nats."""
    total = 0.0
    for start in range(0, len(tokens), 64):  # rows in memory twice
        with np.errstate(invalid="ignore"):  # infinite logits end as a NaN, which is not a cost
            rows = log_softmax(logits[start : start + 64])
        total -= float(rows[np.arange(len(rows)), tokens[start : start + 64]].sum(dtype=np.float64))
    return total / len(tokens)


def _exp(loss: float) -> float:
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf
