"""Searching on a tiny model. Oracle: the whole transformers model with the plan applied by hooks."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import tiny_checkpoint

from edgeskip.calibration.corpus import Corpus
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.plan import Compensation
from edgeskip.core.sublayers import parse_sublayer, sublayers_of
from edgeskip.models.source import ModelSource, open_model
from edgeskip.models.torch_reference.load import load_torch_model
from edgeskip.models.torch_reference.skipping import skipped
from edgeskip.planning.planner import fitted_plan
from edgeskip.planning.search import search as search_module
from edgeskip.planning.search.costs import DeviceCostModel, weight_cost_model
from edgeskip.planning.search.plan_evaluator import PlanEvaluator, QualityLog, SkipSet
from edgeskip.planning.search.policy import SearchPolicy
from edgeskip.planning.search.quality import PlanQuality
from edgeskip.planning.search.runner import SublayerRunner
from edgeskip.planning.search.search import FittedPlan, Searcher
from edgeskip.planning.search.text import search_text
from edgeskip.profiles.device_profile import DecodeCost, DeviceProfile, DeviceRecord, PrefillCost
from edgeskip.profiles.schema import ModelRecord, PlanRecord

TEXT = " ".join(f"Sentence {n} tells of {n * 7 % 13} foxes and {n * n % 31} dogs that jump." for n in range(300))
CORPUS = Corpus((TEXT,), ())
POLICY = SearchPolicy(
    fit_tokens=256, search_tokens=128, report_tokens=128, context=32, max_skips=3, max_kl=100.0, dtype="float32"
)
SKIP = tuple(parse_sublayer(name, 4) for name in ("attn.1", "ffn.1", "attn.3"))


def source_of(folder: Path, family: str = "llama") -> ModelSource:
    return open_model(str(tiny_checkpoint(family, folder / family)))


def policy(compensation: Compensation) -> SearchPolicy:
    return SearchPolicy(**{**POLICY.__dict__, "compensation": compensation})


def by_hooks(source: ModelSource, fitted: FittedPlan, compensation: Compensation) -> tuple[float, float, float]:
    """KL, loss and agreement over the text to report on, by the whole model."""
    record = PlanRecord(
        method="explicit", compensation=compensation, skip=[str(s) for s in fitted.skip], scales=fitted.scales
    )
    plan = fitted_plan(4, record, fitted.biases, fitted.maps)
    model = load_torch_model(source)
    ids = torch.tensor(search_text(source, CORPUS, POLICY).report)
    dense = model(ids).logits[:, :-1].double().log_softmax(-1)
    with skipped(model, plan):
        other = model(ids).logits[:, :-1].double().log_softmax(-1)
    kl = (dense.exp() * (dense - other)).sum(-1).mean()
    loss = -other.gather(2, ids[:, 1:, None]).mean()
    return float(kl), float(loss), float((dense.argmax(-1) == other.argmax(-1)).double().mean())


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("compensation", ["none", "scale", "affine", "linear"])
def test_a_fitted_plan_is_what_it_says(tmp_path: Path, compensation: Compensation, family: str) -> None:
    source = source_of(tmp_path, family)
    fitted = Searcher(source, CORPUS, policy(compensation)).fitted(SKIP)
    kl, loss, top1 = by_hooks(source, fitted, compensation)
    assert fitted.quality.kl == pytest.approx(kl, rel=1e-3, abs=1e-6)
    assert fitted.quality.loss == pytest.approx(loss, rel=1e-4)
    assert fitted.quality.top1 == pytest.approx(top1, abs=0.01)
    assert (fitted.biases is None) == (compensation in ("none", "scale"))
    assert (fitted.maps is None) == (compensation != "linear")


def test_compensation_helps_on_the_text_it_was_fitted_to(tmp_path: Path) -> None:
    """The stream it leaves is nearer to the dense one's: KL on text of the same kind falls from none to linear."""
    source = source_of(tmp_path)
    kls = [Searcher(source, CORPUS, policy(kind)).fitted(SKIP).quality.kl for kind in ("none", "linear")]
    assert kls[1] < kls[0]


def test_running_on_from_a_base_is_running_all(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    text = search_text(source, CORPUS, POLICY)
    windows = torch.tensor(text.fit[:4] + text.compare)
    plans = [frozenset({3}), frozenset({3, 6}), frozenset({3, 6, 1}), frozenset({1, 6, 7})]
    with torch.inference_mode():
        runner = SublayerRunner(load_torch_model(source), windows)
        moving = PlanEvaluator(runner, 4, "linear", QualityLog(None, {}))
        near = []
        for base, plan in zip([frozenset[int](), *plans], plans, strict=False):
            moving.set_base(base)
            near.append(moving.quality(plan))
        for plan, found in zip(plans, near, strict=True):
            fresh = PlanEvaluator(runner, 4, "linear", QualityLog(None, {})) if plan else moving
            fresh.set_base(frozenset())
            expected = fresh.quality(plan)
            assert (found.kl, found.loss) == pytest.approx((expected.kl, expected.loss), rel=1e-4)


def test_a_search_goes_on_where_it_was_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in the log is not measured again; the front is the uninterrupted search's."""
    source = source_of(tmp_path)
    costs, stem = weight_cost_model(source.decoder), tmp_path / "llama"
    whole = Searcher(source, CORPUS, POLICY).search(costs, stem)
    (log,) = tmp_path.glob("llama.search-*.jsonl")
    lines = log.read_text().splitlines()
    log.write_text("\n".join(lines[:7]) + '\n{"skip": [1, 2')  # killed while writing
    measured: list[SkipSet] = []
    run = PlanEvaluator._run
    monkeypatch.setattr(PlanEvaluator, "_run", lambda self, skips: measured.append(skips) or run(self, skips))
    again = Searcher(source, CORPUS, POLICY).search(costs, stem)
    assert [point.skip for point in again.points] == [point.skip for point in whole.points]
    assert log.read_text().splitlines() == lines
    assert len(measured) == sum('"kl"' in line and "reported" not in line for line in lines[7:])
    reported: list[Any] = []
    report = Searcher._report
    monkeypatch.setattr(Searcher, "_report", lambda self, skip: reported.append(skip) or report(self, skip))
    assert Searcher(source, CORPUS, POLICY).search(costs, stem).points == again.points
    assert reported == []  # a budget that the front cannot meet costs no second measuring
    assert max(len(point.skip) for point in whole.points) == 3
    assert json.loads(lines[0])["compensation"] == "linear"


def test_logs_of_other_settings_stay_and_a_file_that_is_no_log_is_not_touched(tmp_path: Path) -> None:
    one = QualityLog(tmp_path / "x", {"seed": 0})
    one.add(frozenset({3, 1}), PlanQuality(0.5, 1.0, 0.9))
    other = QualityLog(tmp_path / "x", {"seed": 1})
    assert other.known == {}
    assert QualityLog(tmp_path / "x", {"seed": 0}).known == {frozenset({1, 3}): PlanQuality(0.5, 1.0, 0.9)}
    assert other.path is not None
    assert one.path is not None
    one.path.write_text(one.path.read_text().removesuffix("\n"))  # killed between a record and its end
    again = QualityLog(tmp_path / "x", {"seed": 0})
    again.add(frozenset({2}), PlanQuality(0.7, 1.0, 0.8))
    assert len(QualityLog(tmp_path / "x", {"seed": 0}).known) == 2
    other.path.write_text("my notes\n")
    with pytest.raises(EdgeSkipError, match="not the log of this search"):
        QualityLog(tmp_path / "x", {"seed": 1})
    assert other.path.read_text() == "my notes\n"


def test_another_field_of_the_corpus_is_another_search(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    settings = [Searcher(source, Corpus((TEXT,), (), field), POLICY).settings for field in ("question", "answer")]
    assert settings[0] != settings[1]


def test_points_have_the_costs_of_their_skips(tmp_path: Path) -> None:
    """By hand: decode reads every weight once, the head's too."""
    source = source_of(tmp_path)
    costs = weight_cost_model(source.decoder)
    config = source.decoder.config
    ffn = 3 * config.hidden_size * config.intermediate_size
    blocks = sum(costs.weights)
    head = config.vocab_size * config.hidden_size
    prefill, decode = costs.speedups([parse_sublayer("ffn.2", 4)])
    assert prefill == pytest.approx(blocks / (blocks - ffn))
    assert decode == pytest.approx((blocks + head) / (blocks + head - ffn))
    assert len(costs.weights) == len(sublayers_of(4))


def test_text_is_never_used_twice(tmp_path: Path) -> None:
    text = search_text(source_of(tmp_path), CORPUS, POLICY)
    windows = [tuple(window) for part in (text.fit, text.compare, text.report) for window in part]
    assert (len(text.fit), len(text.compare), len(text.report)) == (8, 4, 4)
    assert len(set(windows)) == len(windows) == 16


def test_too_little_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EdgeSkipError, match="add text"):
        search_text(source_of(tmp_path), Corpus(("short text " * 40,), ()), POLICY)


@pytest.mark.parametrize(
    "values",
    [{"objective": "speed"}, {"compensation": "magic"}, {"context": 4}, {"report_tokens": 600}, {"dtype": "int8"},
     {"max_skips": 0}, {"max_kl": math.nan}],
)  # fmt: skip
def test_policies_that_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(EdgeSkipError):
        SearchPolicy(**values)  # type: ignore[arg-type]


def test_streams_that_are_not_kept_are_run_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(tmp_path)
    kept = Searcher(source, CORPUS, POLICY).fitted(SKIP)
    monkeypatch.setattr(search_module, "MOST_KEPT", 0)
    along = Searcher(source, CORPUS, POLICY).fitted(SKIP)
    assert along.quality.kl == pytest.approx(kept.quality.kl, rel=1e-5)
    np.testing.assert_allclose(along.maps, kept.maps, rtol=1e-3, atol=1e-5)  # type: ignore[arg-type]


def test_a_devices_times_are_taken_at_the_context_asked_for() -> None:
    """By hand: a step of 10 ms, 2 of them the attention's at 0 tokens of context; 20 and 12 at 1,024."""
    model = ModelRecord(
        source="m", name="m", family="llama", fingerprint="f", num_blocks=1, hidden_size=2, vocab_size=4
    )  # fmt: skip
    record = DeviceRecord(
        system="s", processor="p", logical_cores=1, usable_cores=1, simd=[], memory_bytes=None, gpus=[]
    )  # fmt: skip
    device = DeviceProfile(
        name="a phone", model=model, device=record, engine="onnxruntime", provider="cpu", threads=1, precision="fp32",
        prefill=PrefillCost(base_s=1, sublayer_s=[2, 3], tokens=8),
        decode=[
            DecodeCost(base_s=0.004, sublayer_s=[0.002, 0.004], context=0),
            DecodeCost(base_s=0.004, sublayer_s=[0.012, 0.004], context=1024),
        ],
        one_row="last", rounds=1, created="2026-01-01", versions={},
    )  # fmt: skip
    attention = [parse_sublayer("attn.0", 1)]
    assert DeviceCostModel(device, 0).speedups(attention)[1] == pytest.approx(10 / 8)
    assert DeviceCostModel(device, 1024).speedups(attention)[1] == pytest.approx(20 / 8)
    assert DeviceCostModel(device, 512).speedups(attention)[1] == pytest.approx(15 / 8)
    assert DeviceCostModel(device, 0).name == "a phone"
