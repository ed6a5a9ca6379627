"""From a model, text and costs to the front; and from one of its plans to a fitted plan for the profile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeskip.calibration.calibrate import end_tokens_of
from edgeskip.core.progress import Progress, ProgressEvent, silent
from edgeskip.core.sublayers import Sublayer, sublayers_of
from edgeskip.planning.search.forward import StreamState, forward, kept_streams, recomputed_streams
from edgeskip.planning.search.greedy import Saved, greedy_path
from edgeskip.planning.search.pareto import pareto_points
from edgeskip.planning.search.plan_evaluator import PlanEvaluator, QualityLog, SkipSet
from edgeskip.planning.search.progress_estimate import SearchEstimate
from edgeskip.planning.search.quality import PlanQuality, QualityMeter
from edgeskip.planning.search.runner import SublayerRunner
from edgeskip.planning.search.text import search_text
from edgeskip.profiles.schema import ParetoFront, ParetoPoint

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

    from edgeskip.calibration.corpus import Corpus
    from edgeskip.models.source import ModelSource
    from edgeskip.planning.search.costs import CostModel
    from edgeskip.planning.search.decode_set import DecodeSet
    from edgeskip.planning.search.fit import Fit
    from edgeskip.planning.search.policy import SearchPolicy

MOST_KEPT = 2**29  # numbers: the dense model's streams are kept up to there, and run along each time beyond


@dataclass(frozen=True)
class FittedPlan:
    """`scales` [n] and `biases` float32 [n, d] of the sublayers `skip`, `maps` float32 [n, d, d] if the compensation
    is linear; `quality` and the dense model's on the text to report on: `tokens` that count, in windows of `window`."""

    skip: tuple[Sublayer, ...]
    scales: list[float]
    biases: NDArray[np.float32] | None
    maps: NDArray[np.float32] | None
    fits: dict[int, Fit]
    quality: PlanQuality
    dense: PlanQuality
    tokens: int
    window: int


class Searcher:
    """Searches with one model and text; loads the model once.

    Raises:
        EdgeSkipError: If the text is too short.
    """

    def __init__(self, source: ModelSource, corpus: Corpus, policy: SearchPolicy) -> None:
        from edgeskip.models.torch_reference.load import load_torch_model

        self._corpus, self._policy = corpus, policy
        self._text = search_text(source, corpus, policy)
        self._model = load_torch_model(source, dtype=_dtype(policy.dtype), device=policy.device)
        self._ends = end_tokens_of(source)
        self._sublayers = sublayers_of(source.decoder.config.num_blocks)
        self._settings = {
            "model": source.fingerprint,
            "corpus": [file.sha256 for file in corpus.files],
            "field": corpus.field,
            "device": self._model.device.type,
            "dtype": str(self._model.dtype).removeprefix("torch."),
        }
        self._reporter: _Reporter | None = None

    @property
    def settings(self) -> dict[str, object]:
        """What the quality of a plan depends on."""
        return {**self._policy.settings, **self._settings}

    def search(self, costs: CostModel, log: Path | None, progress: Progress = silent) -> ParetoFront:
        """Follow two greedy paths, by loss and by loss over time saved, and measure their plans on unseen text.

        What is measured goes into `log` at once; an interrupted search resumes from there.
        """
        import torch

        policy, fit_windows = self._policy, self._policy.windows[1]
        found: dict[SkipSet, PlanQuality] = {}
        with torch.inference_mode():
            windows = self._tensor(self._text.fit[:fit_windows] + self._text.compare)
            runner = SublayerRunner(self._model, windows)
            known = QualityLog(log, self.settings)
            evaluator = PlanEvaluator(runner, fit_windows, policy.compensation, known)
            ends = policy.max_skips or evaluator.num_sublayers
            cost = sum(policy.windows[::2]) / (2 * policy.windows[1])
            estimate = SearchEstimate(evaluator.num_sublayers, ends, policy.max_kl, 2 * cost)

            def report(detail: str) -> None:
                done, total = round(estimate.done), round(estimate.total)
                progress(ProgressEvent("searching", done, total, detail=detail))

            for name, saved in (("by loss", lambda plan, index: 1.0), ("by loss and time", self._saved(costs))):

                def step(plan: SkipSet, name: str = name) -> None:
                    if plan not in known.known:
                        estimate.measured()
                    report(f"{name}, {len(plan)} skipped")

                for plan, quality in greedy_path(evaluator, policy, saved, progress=step):
                    estimate.stepped(quality.kl)
                    found[plan] = quality
                estimate.next_path()
            del evaluator, runner
        points = []
        fresh = sum(plan not in known.reported for plan in found)  # those of an interrupted search are there
        reported = 0
        for plan in sorted(found, key=lambda plan: (len(plan), sorted(plan))):
            estimate.reporting(reported, fresh)
            report("measuring on unseen text")
            skip = [self._sublayers[index] for index in sorted(plan)]
            if plan not in known.reported:
                known.report(plan, self._report(skip))
                reported += 1
            prefill, decode = costs.speedups(skip)
            names = [str(sublayer) for sublayer in skip]
            speeds = {"prefill_speedup": prefill, "decode_speedup": decode}
            points.append(ParetoPoint(skip=names, **speeds, **known.reported[plan]))
        estimate.reporting(reported, fresh)
        report("measured on unseen text")
        reporter = self._reporting()
        return ParetoFront(
            points=pareto_points(points, policy.objective),
            compensation=policy.compensation,
            objective=policy.objective,
            corpus=list(self._corpus.files),
            tokens=reporter.tokens,
            perplexity=reporter.dense.perplexity,
            device=costs.name,
            context=getattr(costs, "context", 0),
            settings={**self.settings, **policy.limits},
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def _report(self, skip: Sequence[Sublayer]) -> dict[str, float]:
        """Return the quality of a plan as a front's point names it."""
        fitted = self.fitted(skip)
        ratio, error = fitted.quality.perplexity_ratio(fitted.dense)
        return {
            "kl": fitted.quality.kl,
            "perplexity_ratio": ratio,
            "perplexity_error": error,
            "top1_agreement": fitted.quality.top1,
        }

    def fitted(self, skip: Sequence[Sublayer]) -> FittedPlan:
        """Return the plan that skips these, its compensation fitted to `fit_tokens`, its quality on `report_tokens`."""
        return self._reporting().fitted(tuple(sorted(skip)))

    def decode_set(self, fitted: FittedPlan, max_kl: float) -> DecodeSet | None:
        """Return what decoding may leave out in addition to `fitted`: see `choose_decode_set`.

        None if the dense model ends nearly every continuation early, of prompts that are half a window of text that
        nothing was fitted to.
        """
        import torch

        from edgeskip.calibration.continuation import continue_greedily
        from edgeskip.planning.search.decode_set import choose_decode_set

        half = self._policy.context // 2
        prompts = [window[:half] for window in self._text.compare + self._text.report]
        rows = continue_greedily(self._model, prompts, new_tokens=half, end_tokens=self._ends)
        whole = [prompt + row for prompt, row in zip(prompts, rows, strict=True) if len(row) == half]
        if len(whole) < 2:
            return None
        with torch.inference_mode():
            return choose_decode_set(self._model, self._tensor(whole), half, fitted.fits, max_kl)

    def _reporting(self) -> _Reporter:
        if self._reporter is None:
            windows = self._tensor(self._text.fit + self._text.report)
            self._reporter = _Reporter(self._model, windows, len(self._text.fit), self._policy)
        return self._reporter

    def _tensor(self, windows: list[list[int]]) -> Tensor:
        import torch

        return torch.tensor(windows, device=self._policy.device)

    def _saved(self, costs: CostModel) -> Saved:
        """Return seconds of a dense decode step = 1 that one more skip saves."""

        def time(plan: SkipSet) -> float:
            return 1 / costs.speedups([self._sublayers[index] for index in plan])[1]

        return lambda plan, index: max(time(plan) - time(plan | {index}), 1e-9)


class _Reporter:
    """Fits plans to the first `fit_windows` of `windows` and measures them on the others."""

    def __init__(self, model: PreTrainedModel, windows: Tensor, fit_windows: int, policy: SearchPolicy) -> None:
        import torch

        self._compensation = policy.compensation
        self._rows = slice(0, fit_windows)
        with torch.inference_mode():
            self._runner = SublayerRunner(model, windows)
            self._streams: list[Tensor] = []
            keep = self._runner.num_sublayers * self._runner.start[self._rows].numel() <= MOST_KEPT

            def watch(index: int, kept: StreamState) -> None:
                if keep and index:
                    self._streams.append(kept[0][self._rows].clone())

            x, _ = forward(self._runner, (), "none", kept_streams([]), self._rows, watch=watch)
            if keep:
                self._streams.append(x[self._rows].clone())
            self._meter = QualityMeter(self._runner, x, slice(fit_windows, None))
            self.dense = self._meter.measure(x)

    @property
    def tokens(self) -> int:
        return self._meter.tokens

    def fitted(self, skip: tuple[Sublayer, ...]) -> FittedPlan:
        import torch

        with torch.inference_mode():
            indices = [sublayer.index for sublayer in skip]
            dense = kept_streams(self._streams) if self._streams else recomputed_streams(self._runner, self._rows)
            x, fits = forward(self._runner, indices, self._compensation, dense, self._rows)
            quality = self._meter.measure(x)
        ordered = [fits[index] for index in indices]
        size = x.shape[-1]
        biased = self._compensation in ("affine", "linear")
        biases = [_array(fit.bias, (size,)) for fit in ordered]
        maps = [_array(fit.map, (size, size)) for fit in ordered] if self._compensation == "linear" else []
        return FittedPlan(
            skip=skip,
            scales=[fit.scale for fit in ordered],
            biases=np.stack(biases) if biased and biases else None,
            maps=np.stack(maps) if maps else None,
            fits=fits,
            quality=quality,
            dense=self.dense,
            tokens=self.tokens,
            window=x.shape[1],
        )


def _array(value: Tensor | None, shape: tuple[int, ...]) -> NDArray[np.float32]:
    if value is None:
        return np.zeros(shape, np.float32)
    found: NDArray[np.float32] = value.cpu().numpy().astype(np.float32)
    return found


def _dtype(name: str) -> torch.dtype:
    import torch

    from edgeskip.models.torch_reference.load import has_bfloat16

    narrow = name == "bfloat16" or (name == "auto" and has_bfloat16())
    return torch.bfloat16 if narrow else torch.float32
