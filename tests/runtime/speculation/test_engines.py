"""The loop over real graphs: an early-exit chain and a skip-plan graph of a model with a small vocabulary. Oracle: the
dense model's own distribution (a chi-square test over thousands of texts) and its own greedy text."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from chi_square import p_value
from drafting_artifacts import early_exit_artifact, rows_of, skip_plan_artifact
from tiny_models import tiny_checkpoint

from edgeskip.core.plan import Plan, Skip
from edgeskip.core.sublayers import parse_sublayer
from edgeskip.models.source import open_model
from edgeskip.runtime.decoding.autoregressive import decode
from edgeskip.runtime.decoding.interface import DecodeRequest, History
from edgeskip.runtime.engines.onnxruntime.gated import OnnxRuntimeGatedEngine
from edgeskip.runtime.engines.onnxruntime.split import OnnxRuntimeSplitEngine
from edgeskip.runtime.sampling import Sampling, TokenSampler, distribution
from edgeskip.runtime.speculation import acceptance
from edgeskip.runtime.speculation import loop as rounds
from edgeskip.runtime.speculation.policy import Speculation
from edgeskip.runtime.speculation.speculator import DraftInfo, Speculator

DRAWS = [5_000, pytest.param(20_000, marks=pytest.mark.slow)]
VOCABULARY = 8
PROMPT = np.array([3, 1, 4, 1, 5], np.int64)
NO_END: frozenset[int] = frozenset()
SAMPLING = Sampling(1.5, top_p=0.97)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tiny_checkpoint(
        "llama",
        tmp_path_factory.mktemp("small"),
        vocab_size=VOCABULARY,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    return open_model(str(folder))


@pytest.fixture(scope="module")
def early_exit(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("early-exit")
    manifest = early_exit_artifact(source, folder, [2], tokens=np.array([0, 1, 2, 4, 5, 7]))
    return OnnxRuntimeSplitEngine(folder, manifest, threads=1)


@pytest.fixture(scope="module")
def skip_plan(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("skip-plan")
    skips = tuple(Skip(parse_sublayer(name, 4), 1.1) for name in ("ffn.0", "attn.1", "ffn.1", "attn.2", "ffn.3"))
    manifest = skip_plan_artifact(source, folder, Plan(4, skips, "scale"))
    return OnnxRuntimeGatedEngine(folder, manifest, threads=1)


@pytest.fixture(params=["early_exit", "skip_plan"])
def engine(request):
    return request.getfixturevalue(request.param)


def _texts(engine, policy: Speculation, sampling: Sampling, draws: int, length: int = 3) -> np.ndarray:
    """How often each text of `length` tokens came after PROMPT."""
    speculator = Speculator(engine, engine, (DraftInfo("draft", 2),))
    speculator.latencies()
    engine.truncate(0)
    logits = engine.step(PROMPT)[0].copy()
    sampler = TokenSampler(sampling)
    counts = np.zeros((VOCABULARY,) * length, np.int64)
    for _ in range(draws):
        engine.truncate(len(PROMPT))
        decoding = speculator.decoding(policy, sampler)
        text = decoding.decode(DecodeRequest(logits, History(PROMPT), sampler, length))
        counts[tuple(text)] += 1
    return counts


def _target(engine, sampling: Sampling, length: int = 3) -> np.ndarray:
    """The probability of each text, by the whole model over the whole text in one prefill."""
    target = np.zeros((VOCABULARY,) * length)
    for text in itertools.product(range(VOCABULARY), repeat=length):
        tokens = np.concatenate([PROMPT, text])
        rows = rows_of(engine, tokens)
        target[text] = 1.0
        for i, token in enumerate(text):
            before = len(PROMPT) + i
            target[text] *= distribution(rows[before - 1], tokens[:before], sampling)[token]
    return target


@pytest.mark.parametrize("draws", DRAWS)
def test_texts_follow_the_dense_model(engine, draws):
    sampling = Sampling(**{**SAMPLING.__dict__, "seed": 1})
    target = _target(engine, sampling)
    counts = _texts(engine, Speculation("model", 2), sampling, draws)
    assert (target > 0).sum() > 8
    assert p_value(counts, target) > 0.01


@pytest.mark.parametrize("draws", DRAWS)
def test_a_broken_acceptance_rule_fails_the_same_test(engine, monkeypatch, draws):
    """Accepts with min(1, p/q) but draws from p where it should draw from the residual."""

    def careless(logits, text, drafted, q, sampler):
        p = sampler.distribution(logits, text)
        return None if sampler.random() * q[drafted] < p[drafted] else sampler.draw(p)

    monkeypatch.setattr(acceptance, "_sampled", careless)
    sampling = Sampling(**{**SAMPLING.__dict__, "seed": 2})
    counts = _texts(engine, Speculation("model", 2), sampling, draws)
    assert p_value(counts, _target(engine, sampling)) < 0.001


@pytest.mark.parametrize(
    "policy", [Speculation("model", 3), Speculation("ngram", 4), Speculation("mixed", 2), Speculation()]
)
def test_greedy_is_plain_greedy(engine, policy):
    sampler = TokenSampler(Sampling())
    texts = []
    for loop in ("plain", "speculative"):
        decoding = Speculator(engine, engine, (DraftInfo("draft", 2),)).decoding(policy, sampler)
        engine.truncate(0)
        logits, history = engine.step(PROMPT)[0].copy(), History(PROMPT)
        if loop == "plain":
            steps = decode(engine, DecodeRequest(logits, history, sampler, 60))
        else:
            steps = decoding.decode(DecodeRequest(logits, history, sampler, 60))
        texts.append(list(steps))
        assert engine.length == len(PROMPT) + 59
    assert texts[0] == texts[1]
    assert rounds.accept is acceptance.accept
