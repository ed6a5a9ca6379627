"""What a plan costs against the dense model, from `plan` to `run`. Oracle: transformers' own model of the folder, a
hook that takes the skipped attention's output away, and torch's cross-entropy, KL divergence and argmax."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from device_profiles import make_device_profile
from tiny_models import tiny_checkpoint
from typer.testing import CliRunner

from edgeskip.artifacts.manifest import PlanSummary, read_manifest
from edgeskip.cli.main import app
from edgeskip.cli.views.generation import cost_clause
from edgeskip.cli.views.inspection import inspect_path
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.held_out import HELD_OUT_TEXT as TEXT
from edgeskip.core.plan_cost import DenseComparison, PlanCost, SpeedPrediction, short_cost
from edgeskip.profiles.device_profile import write_device_profile
from edgeskip.profiles.schema import read_profile

SKIP = ("--skip", "attn.1", "--compensation", "none")


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model (tiny) and its profile (tiny.json), which names the model by its whole path."""
    folder = tmp_path_factory.mktemp("cost")
    (folder / "text.txt").write_text("Foxes and dogs jump over what is lazy, and over each other. " * 40)
    tiny_checkpoint("llama", folder / "tiny")
    corpus = ("--corpus", str(folder / "text.txt"), "--context", "32", "--tokens", "128")
    invoke("calibrate", str(folder / "tiny"), "-o", str(folder / "tiny.json"), *corpus)
    return folder


@pytest.fixture
def path(calibrated: Path, tmp_path: Path) -> Path:
    for file in calibrated.glob("tiny.*"):
        shutil.copy(file, tmp_path)
    return tmp_path / "tiny.json"


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    if isinstance(result.exception, EdgeSkipError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


@pytest.fixture(scope="module")
def oracle(calibrated: Path) -> dict[str, float]:
    """Dense and skipped perplexity, KL and top-1 of windows of 512 tokens, without any code of ours."""
    import torch
    from torch.nn.functional import cross_entropy, kl_div
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(calibrated / "tiny", dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(calibrated / "tiny")(
        TEXT.read_text(encoding="utf-8"), add_special_tokens=False, return_tensors="pt"
    ).input_ids[0]
    windows = ids[:1024].reshape(2, 512)
    tokens = windows[:, 1:].reshape(-1)

    def log_probabilities() -> Any:
        with torch.inference_mode():
            return model(input_ids=windows).logits[:, :-1].flatten(0, 1).double().log_softmax(-1)

    dense = log_probabilities()
    attention = model.model.layers[1].self_attn
    hook = attention.register_forward_hook(lambda module, args, out: (torch.zeros_like(out[0]), *out[1:]))
    skipped = log_probabilities()
    hook.remove()
    return {
        "dense_perplexity": math.exp(cross_entropy(dense, tokens)),
        "perplexity": math.exp(cross_entropy(skipped, tokens)),
        "kl_divergence": float(kl_div(skipped, dense, log_target=True, reduction="batchmean")),
        "top1_agreement": float((dense.argmax(-1) == skipped.argmax(-1)).double().mean()),
    }


def agrees(found: DenseComparison | None, oracle: dict[str, float]) -> bool:
    assert found is not None
    assert (found.text, found.tokens, found.window) == ("edgeskip:quality.txt", 1022, 512)
    return {name: getattr(found, name) for name in oracle} == pytest.approx(oracle, rel=1e-3)


def test_from_plan_to_run(path: Path, oracle: dict[str, float], tmp_path: Path) -> None:
    """Measured when the plan is made, again of the artifact in its check, and said by every command."""
    change = f"({(oracle['perplexity'] / oracle['dense_perplexity'] - 1) * 100:+.1f} %)"
    said = invoke("plan", str(path), *SKIP)
    plan = read_profile(path).plan
    assert plan is not None
    assert plan.cost is not None
    assert agrees(plan.cost.plan, oracle)
    assert plan.cost.speedup is not None
    assert change in said
    assert f"top-1 {oracle['top1_agreement']:.1%} of dense" in said
    assert "predicted speed-up: prefill 1." in said

    said = invoke("export", "--profile", str(path), "-o", str(tmp_path / "out"))
    cost = read_manifest(tmp_path / "out").cost
    assert cost is not None
    assert agrees(cost.artifact, oracle)
    assert (cost.plan, cost.speedup) == (plan.cost.plan, plan.cost.speedup)
    assert change in said

    assert change in invoke("inspect", str(path))
    assert change in invoke("inspect", str(tmp_path / "out"))
    report = json.loads(CliRunner().invoke(app, ["inspect", str(tmp_path / "out"), "--json"]).output)
    assert report["cost"] == cost.model_dump(mode="json")
    assert json.loads(CliRunner().invoke(app, ["inspect", str(path), "--json"]).output)["cost"]["plan"] is not None

    prompt = ("-p", "A fox", "--max-tokens", "2")
    assert f"perplexity {change[1:-1]}, top-1" in invoke("run", str(tmp_path / "out"), *prompt)
    answer = CliRunner().invoke(app, ["run", str(tmp_path / "out"), *prompt, "--json"]).stdout
    assert json.loads(answer)["cost"] == cost.model_dump(mode="json")


def test_int4_is_compared_with_the_dense_model_too(path: Path, tmp_path: Path) -> None:
    """A dense artifact loses by its precision alone. Oracle: eval's perplexity of the same artifact's own logits."""
    import numpy as np

    import edgeskip
    from edgeskip.core.metrics import log_softmax as log_probabilities

    invoke("plan", str(path), "--skip-sublayers", "0")
    assert "cost" not in read_profile(path).model_dump(exclude_none=True)["plan"]
    invoke("export", "--profile", str(path), "-o", str(tmp_path / "out"), "--precision", "int4", "--block-size", "16")
    cost = read_manifest(tmp_path / "out").cost
    assert cost is not None
    assert cost.artifact is not None
    assert (cost.plan, cost.speedup) == (None, None)
    with edgeskip.load(tmp_path / "out") as session:
        ids = session.encode(TEXT.read_text(encoding="utf-8"), chat=False)[:1024].reshape(2, 512)
        rows = [log_probabilities(session.logits(window)[:-1].copy()) for window in ids]
    loss = -np.mean([row[np.arange(511), window[1:]] for row, window in zip(rows, ids, strict=True)])
    assert cost.artifact.perplexity == pytest.approx(math.exp(loss), rel=1e-3)


def test_another_plan_than_was_measured_is_not_given_its_cost(path: Path, tmp_path: Path) -> None:
    """A profile is a file to edit: the number of a plan that is gone would be false."""
    invoke("plan", str(path), *SKIP)
    edited = json.loads(path.read_text())
    edited["plan"]["skip"] = ["attn.2"]
    path.write_text(json.dumps(edited))
    said = invoke("inspect", str(path))
    assert "not measured" in said
    assert json.loads(CliRunner().invoke(app, ["inspect", str(path), "--json"]).output)["cost"] is None
    invoke("export", "--profile", str(path), "-o", str(tmp_path / "out"), "--no-check")
    cost = read_manifest(tmp_path / "out").cost
    assert cost is not None
    assert (cost.plan, cost.artifact) == (None, None)
    assert "not measured" in invoke("run", str(tmp_path / "out"), "-p", "A fox", "--max-tokens", "1")


def test_without_a_check_the_plans_own_cost_is_said_to_be_that(path: Path, tmp_path: Path) -> None:
    invoke("plan", str(path), *SKIP)
    said = invoke("export", "--profile", str(path), "-o", str(tmp_path / "out"), "--no-check")
    assert "not measured for this artifact; the plan alone, in float32: perplexity" in said
    said = invoke("run", str(tmp_path / "out"), "-p", "A fox", "--max-tokens", "1")
    assert "(the plan alone, in float32)" in said


def without_torch(path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("edgeskip.planning.measure_cost.find_spec", lambda name: None)
    return "torch and transformers not installed"


def without_model(path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    return elsewhere(path, str(path.parent / "gone"), "the model of tiny.json, ")


def with_a_hub_id(path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Nothing is downloaded for a number that was not asked for."""
    return elsewhere(path, "nobody/no-such-model", "the model nobody/no-such-model is not on this machine")


def without_memory(path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """As torch says it on a CPU."""
    error = RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory")
    return measuring_raises(error, monkeypatch, "not enough memory")


def with_a_broken_torch(path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    error = ImportError("libcudart.so.12: cannot open shared object file", name="torch")
    return measuring_raises(error, monkeypatch, "the installed package 'torch' does not work here")


def measuring_raises(error: Exception, monkeypatch: pytest.MonkeyPatch, says: str) -> str:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("edgeskip.planning.dense_cost.measure_plan", fail)
    return says


def elsewhere(path: Path, source: str, says: str) -> str:
    """Make the profile's model another one, without the location it was calibrated at."""
    record = read_profile(path)
    model = record.model.model_copy(update={"source": source})
    moved = record.model_copy(update={"model": model, "model_location": None})
    path.write_text(moved.model_dump_json(exclude_none=True))
    return says


@pytest.mark.parametrize("prepare", [without_torch, without_model, with_a_hub_id, without_memory, with_a_broken_torch])
def test_a_plan_that_cannot_be_measured_says_so(
    path: Path, monkeypatch: pytest.MonkeyPatch, prepare: Callable[[Path, pytest.MonkeyPatch], str]
) -> None:
    says = prepare(path, monkeypatch)
    said = invoke("plan", str(path), *SKIP)
    assert f"cost against the dense model: not measured ({says}" in said
    assert "edgeskip export measures it" in said
    plan = read_profile(path).plan
    assert plan is not None
    assert plan.skip == ["attn.1"]
    assert plan.cost is None or plan.cost.plan is None


def test_a_device_profile_predicts_for_any_method(path: Path, tmp_path: Path) -> None:
    """Oracle: the device profile's own arithmetic."""
    from edgeskip.core.sublayers import parse_sublayer

    profile = read_profile(path)
    count = 2 * profile.model.num_blocks
    device = make_device_profile()
    steps = {"base_s": 1.0, "sublayer_s": [0.5 + n for n in range(count)]}
    device = device.model_copy(
        update={
            "model": profile.model,
            "prefill": device.prefill.model_copy(update=steps),
            "decode": [cost.model_copy(update=steps) for cost in device.decode],
        }
    )
    write_device_profile(device, tmp_path / "phone.json")
    said = invoke("plan", str(path), *SKIP, "--no-cost", "--device-profile", str(tmp_path / "phone.json"))
    prefill, decode = device.speedups({parse_sublayer("attn.1", count // 2)}, 512)
    assert f"predicted speed-up: prefill {prefill:.2f}×, decode {decode:.2f}× ({device.name}, context 512)" in said
    assert "not measured (--no-cost)" in said


def test_gguf_files_carry_it(path: Path, oracle: dict[str, float], tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    invoke("plan", str(path), *SKIP)
    file = tmp_path / "out.gguf"
    invoke("export", "--profile", str(path), "-o", str(file), "--target", "gguf", "--precision", "f32")
    report = inspect_path(str(file)).as_json()
    assert report["cost"]["artifact"]["perplexity"] == pytest.approx(oracle["perplexity"], rel=1e-2)
    assert "top-1" in invoke("inspect", str(file))


class Answer:
    """As much of a generation as the clause looks at."""

    def __init__(self, label: str, gated: tuple[str, ...] = ()) -> None:
        self.label, self.stats = label, type("Stats", (), {"online": type("Online", (), {"gated": gated})()})()


COMPARISON = DenseComparison(
    text="t",
    sha256="",
    tokens=9,
    window=9,
    perplexity=11.0,
    dense_perplexity=10.0,
    kl_divergence=0.1,
    top1_agreement=0.9,
)
COST = PlanCost(digest="d", artifact=COMPARISON, speedup=SpeedPrediction(prefill=1.1, decode=1.1, basis="b"))
SKIPS = PlanSummary(method="adaskip", compensation="affine", skip=["attn.1"], num_blocks=4)
DENSE = SKIPS.model_copy(update={"skip": []})


@pytest.mark.parametrize(
    ("answer", "plan", "cost", "says"),
    [
        (Answer("lossy-skip"), SKIPS, COST, "perplexity +10.0 %, top-1 90% of dense"),
        (Answer("lossy-skip"), SKIPS, None, "what it loses against the dense model was not measured"),
        (Answer("lossy-skip", ("ffn.2",)), SKIPS, COST, "top-1 90% of dense, before what was skipped online"),
        (Answer("draft-only"), DENSE, COST, "what it loses against the dense model was not measured"),
        (Answer("verified"), DENSE, None, "the dense model's own text"),  # in floating point: nothing is lost
        (Answer("verified"), SKIPS, COST, "perplexity +10.0 %, top-1 90% of dense"),  # verified by a skipped model
        (Answer("dense"), DENSE, COST, "perplexity +10.0 %, top-1 90% of dense"),  # int4
        (Answer("dense"), None, None, None),
    ],
)
def test_what_the_summary_says(answer: Any, plan: PlanSummary | None, cost: PlanCost | None, says: str | None) -> None:
    """Oracle: the labels' meaning (docs/concepts/labels.md)."""
    found = cost_clause(answer, plan, cost)
    assert found == says if says is None or found is None else found.endswith(says)


def test_ruined_plans_are_given_as_a_factor() -> None:
    """A percentage of six digits says nothing."""
    ruined = COMPARISON.model_copy(update={"perplexity": 4e9})
    assert short_cost(COST.model_copy(update={"artifact": ruined})) == "perplexity × 4e+08, top-1 90% of dense"


def test_numbers_that_are_none_are_no_cost(tiny_llama: Path) -> None:
    """NaN or infinite logits (an export that failed its check and was kept)."""
    import numpy as np

    from edgeskip.models.source import open_model
    from edgeskip.planning.dense_cost import compare_windows, held_out_text

    text = held_out_text(open_model(str(tiny_llama)))
    assert text is not None
    logits = [np.zeros((512, 320), np.float32)] * 2
    assert compare_windows(text, logits, logits) is not None
    for value in (np.nan, np.inf):
        bad = [row.copy() for row in logits]
        bad[1][3, 3] = value
        assert compare_windows(text, logits, bad) is None


def test_a_healed_plan_is_compared_with_the_model_before_healing(
    path: Path, oracle: dict[str, float], tmp_path: Path
) -> None:
    """With its LoRA the model without the plan is nobody's dense model; without knowing which was, no number."""
    import numpy as np

    from edgeskip.models.readers.lora import Lora, LoraWeight
    from edgeskip.training.trained_profile import open_profile

    invoke("plan", str(path), *SKIP, "--no-cost")
    rng = np.random.default_rng(0)
    a, b = (rng.normal(scale=0.2, size=shape).astype(np.float32) for shape in ((2, 64), (64, 2)))
    (tmp_path / "healed").mkdir()
    healed = open_profile(str(path)).write_healed(
        tmp_path / "healed", Lora({"model.layers.2.self_attn.q_proj": LoraWeight(a, b, 1.0)})
    )
    invoke("export", "--profile", str(healed), "-o", str(tmp_path / "out"))
    cost = read_manifest(tmp_path / "out").cost
    assert cost is not None
    assert cost.artifact is not None
    assert cost.artifact.dense_perplexity == pytest.approx(oracle["dense_perplexity"], rel=1e-3)
    assert cost.artifact.perplexity != pytest.approx(oracle["perplexity"], rel=1e-3)

    old = json.loads(healed.read_text())
    del old["plan"]["healed_from"]
    healed.write_text(json.dumps(old))
    invoke("export", "--profile", str(healed), "-o", str(tmp_path / "old"))
    cost = read_manifest(tmp_path / "old").cost
    assert cost is None or cost.artifact is None
