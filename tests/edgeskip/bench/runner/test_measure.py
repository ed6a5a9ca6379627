"""One round of one cell, by the real child. Oracles: numpy over the tiny artifact, and `Session.generate`."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_graph import TinyArtifact, build_tiny_artifact

from edgeskip.bench.runner import measure as measure_module
from edgeskip.bench.runner.local import LocalLauncher
from edgeskip.bench.runner.measure import measure_round
from edgeskip.bench.runner.process import CHILD, run_worker
from edgeskip.bench.runner.quality import QualityRequest, measure_quality
from edgeskip.bench.runner.request import BenchPrompt, RoundRequest, SyntheticTest
from edgeskip.bench.schema import BenchCell, RoundResult, Strategy
from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.session import load

PROMPTS = [BenchPrompt(name="a", text="the quick brown fox"), BenchPrompt(name="b", text="jumps")]


def quiet(message: str) -> None:
    """Nobody listens."""


def asked(path: Path, strategy: Strategy = "plain", provider: str = "cpu", **more: object) -> RoundRequest:
    cell = BenchCell(target="tiny", device="local", provider=provider, threads=1, strategy=strategy)
    tests = [SyntheticTest(test="pp", tokens=20, depth=0), SyntheticTest(test="tg", tokens=5, depth=30)]
    fields = {"tests": tests, "prompts": PROMPTS, "max_tokens": 12, **more}
    return RoundRequest(path=str(path), cell=cell, round=0, **fields)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyArtifact:
    return build_tiny_artifact(tmp_path_factory.mktemp("tiny") / "artifact")


@pytest.fixture(scope="module")
def local() -> LocalLauncher:
    return LocalLauncher([])


def test_a_round_in_a_process_of_its_own(tiny: TinyArtifact, local: LocalLauncher) -> None:
    heard: list[str] = []
    sample = local.run(asked(tiny.folder), heard.append)
    assert heard == ["loading", "warming up", "measuring"]
    assert [(t.test, t.tokens, t.depth) for t in sample.tests] == [("pp", 20, 0), ("tg", 5, 30)]
    assert all(t.seconds > 0 for t in sample.tests)
    assert (sample.ran.engine, sample.ran.provider, sample.ran.threads) == ("onnxruntime", "cpu", 1)
    assert sample.peak_rss_bytes is not None
    assert sample.peak_rss_bytes > 10_000_000
    with load(tiny.folder, threads=1) as session:
        for prompt, answer in zip(PROMPTS, sample.answers, strict=True):
            made = session.generate(prompt.text, max_tokens=12, strategy="plain")
            assert tuple(answer.tokens) == made.tokens
            assert answer.finish_reason == made.finish_reason
            assert answer.prompt_tokens == made.stats.prompt_tokens
            assert len(answer.gaps_s) == len(made.tokens) - 1
            assert answer.ttft_s >= answer.prefill_s > 0


def test_answers_come_before_anything_of_the_tests(tiny: TinyArtifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that cells with tests and cells without answer on the same machine."""
    done: list[str] = []

    def noting(name: str) -> None:
        work = getattr(measure_module, name)
        monkeypatch.setattr(measure_module, name, lambda *given: (done.append(name), work(*given))[1])

    for name in ("_prefill_random", "_answer_prompt", "_run_test"):
        noting(name)
    measure_round(asked(tiny.folder), quiet)
    assert done == ["_answer_prompt", "_answer_prompt", "_prefill_random", "_run_test", "_run_test"]


def test_speculation_gives_the_same_tokens_and_says_what_it_did(tmp_path: Path) -> None:
    """Oracle: plain decoding. The tiny artifact has no draft: n-grams draft."""
    folder = build_tiny_artifact(tmp_path / "artifact").folder
    plain = measure_round(asked(folder, tests=[]), quiet)
    drafted = measure_round(asked(folder, "speculative", tests=[]), quiet)
    assert [a.tokens for a in drafted.answers] == [a.tokens for a in plain.answers]
    assert all(a.speculation is None for a in plain.answers)
    for answer in drafted.answers:
        told = answer.speculation
        assert told is not None
        assert told.accepted <= told.drafted
        # The prefill gives one token; every round its accepted ones and one more, every plain step one.
        steps = told.rounds + told.plain_steps + told.accepted
        assert steps >= len(answer.tokens) - 1


def test_a_context_that_is_too_short_is_said(tiny: TinyArtifact, local: LocalLauncher) -> None:
    too_long = [SyntheticTest(test="pp", tokens=500, depth=200)]
    with pytest.raises(EdgeSkipError, match=r"pp500 @ d200 needs a context of 700 tokens, the model has 600"):
        local.run(asked(tiny.folder, tests=too_long), quiet)


def test_a_provider_that_is_not_there_is_an_error_unless_allowed(tiny: TinyArtifact, local: LocalLauncher) -> None:
    with pytest.raises(EdgeSkipError, match="built without the provider 'coreml'"):
        local.run(asked(tiny.folder, provider="coreml"), quiet)
    sample = local.run(asked(tiny.folder, provider="coreml", allow_fallback=True), quiet)
    assert sample.ran.provider == "cpu"
    assert sample.notes[0].startswith("fell back to the CPU: this onnxruntime was built without")


def test_a_target_that_is_not_there(tmp_path: Path, local: LocalLauncher) -> None:
    with pytest.raises(EdgeSkipError, match="is not an artifact folder"):
        local.run(asked(tmp_path / "nothing"), quiet)


def test_a_request_that_is_none() -> None:
    with pytest.raises(EdgeSkipError, match="Invalid JSON"):
        run_worker([sys.executable, "-m", CHILD], None, 60)


def test_the_device_is_this_machine() -> None:
    launcher = LocalLauncher([("coreml", 1)])
    assert (launcher.device.id, launcher.device.type) == ("local", "local")
    assert launcher.device.versions["edgeskip"]
    assert [(r.provider, r.threads, r.flops_per_s) for r in launcher.device.rooflines] == [("coreml", 1, None)]


def test_quality_is_that_of_the_logits(tiny: TinyArtifact, tmp_path: Path) -> None:
    """Oracle: softmax of the numpy layer's logits in float64, window by window."""
    text = tmp_path / "text.txt"
    text.write_text("a text of some words that nobody knows" * 2)
    request = QualityRequest(
        path=str(tiny.folder), text=str(text), reference=str(tiny.folder), reference_name="itself", window=30
    )
    found = measure_quality(request, quiet)
    with load(tiny.folder, threads=1) as session:
        tokens = session.encode(text.read_text(), chat=False)
    losses = []
    for start in (0, 30):
        window = tokens[start : start + 30]
        logits = tiny.logits(window).astype(np.float64)[:-1]
        logits -= np.log(np.exp(logits).sum(1, keepdims=True))
        losses += [-logits[np.arange(len(logits)), window[1:]]]
    assert found.tokens == 58
    assert found.perplexity == pytest.approx(float(np.exp(np.concatenate(losses).mean())), rel=1e-4)
    assert (found.reference, found.top1_agreement) == ("itself", 1.0)
    assert found.kl_divergence == pytest.approx(0, abs=1e-6)


def test_quality_needs_a_text(tiny: TinyArtifact, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("a")
    with pytest.raises(EdgeSkipError, match="too short to measure quality on"):
        measure_quality(QualityRequest(path=str(tiny.folder), text=str(tmp_path / "text.txt")), quiet)


def test_a_sample_survives_json(tiny: TinyArtifact, local: LocalLauncher) -> None:
    sample = local.run(asked(tiny.folder, tests=[], prompts=PROMPTS[:1]), quiet)
    assert RoundResult.model_validate_json(sample.model_dump_json()) == sample


def test_chat_options_reach_the_template(tiny: TinyArtifact, tmp_path: Path) -> None:
    """Oracle: `Session.encode` with the same option of a template that reads it; one that none reads is refused."""
    folder = tmp_path / "artifact"
    shutil.copytree(tiny.folder, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] += "{% if thinking is defined %}{{ thinking }}{% endif %}"
    data = json.dumps(config).encode()
    (folder / "tokenizer_config.json").write_bytes(data)
    manifest = json.loads((folder / "edgeskip.json").read_text())
    manifest["files"]["tokenizer_config.json"] = hashlib.sha256(data).hexdigest()
    (folder / "edgeskip.json").write_text(json.dumps(manifest))
    sample = measure_round(asked(folder, tests=[], chat_options={"thinking": "so it thinks"}), quiet)
    with load(folder, threads=1) as session:
        for prompt, answer in zip(PROMPTS, sample.answers, strict=True):
            ids = session.encode(prompt.text, chat_kwargs={"thinking": "so it thinks"})
            assert answer.prompt_tokens == len(ids) > len(session.encode(prompt.text))
    with pytest.raises(EdgeSkipError, match="nonsense"):
        measure_round(asked(folder, tests=[], chat_options={"nonsense": 1}), quiet)
