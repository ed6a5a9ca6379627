"""A session's strategies over artifacts that draft. Oracle: plain decoding by the same artifact, and transformers' own
hidden states where the draft speaks alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
from drafting_artifacts import early_exit_artifact, skip_plan_artifact
from tiny_models import tiny_checkpoint, tiny_model

import edgeskip
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.plan import Plan, Skip
from edgeskip.core.sublayers import parse_sublayer
from edgeskip.exporters.onnx.sidecars import write_sidecars
from edgeskip.models.source import open_model
from edgeskip.runtime.comparison import find_difference
from edgeskip.runtime.sampling import Sampling
from edgeskip.runtime.speculation.policy import Speculation

PROMPT = "The quick brown fox"
LAYERS = (1, 3)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return open_model(str(tiny_checkpoint("llama", tmp_path_factory.mktemp("checkpoint"))))


def _finish(source, manifest, folder):
    source.write_tokenizer(folder)
    write_sidecars(source, manifest.graph, folder)
    (folder / "edgeskip.json").write_text(manifest.model_dump_json())
    return folder


@pytest.fixture(scope="module")
def early_exit(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("early-exit")
    return _finish(source, early_exit_artifact(source, folder, LAYERS), folder)


@pytest.fixture(scope="module")
def skip_plan(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("skip-plan")
    plan = Plan(4, (Skip(parse_sublayer("attn.2", 4), 1.1),), "scale")
    return _finish(source, skip_plan_artifact(source, folder, plan), folder)


@pytest.fixture(params=["early_exit", "skip_plan"])
def session(request):
    with edgeskip.load(request.getfixturevalue(request.param), threads=1) as session:
        yield session


@pytest.fixture
def exits(early_exit):
    with edgeskip.load(early_exit, threads=1) as session:
        yield session


def test_an_artifact_that_drafts_speculates_unless_told_otherwise(session):
    plain = session.generate(PROMPT, max_tokens=40, strategy="plain")
    found = session.generate(PROMPT, max_tokens=40)
    assert (plain.strategy, plain.label, plain.stats.speculation) == ("plain", "dense", None)
    assert (found.strategy, found.label) == ("speculative", "verified")
    assert (found.tokens, found.text, found.finish_reason) == (plain.tokens, plain.text, plain.finish_reason)
    assert not any(plain.drafted)


@pytest.mark.parametrize("drafter", ["model", "ngram", "mixed"])
def test_statistics_and_drafted_tokens_agree(session, drafter):
    found = session.generate(PROMPT, max_tokens=40, speculation=Speculation(drafter, 3))
    stats = found.stats.speculation
    assert len(found.drafted) == len(found.tokens)
    assert sum(found.drafted) <= stats.accepted <= stats.drafted
    assert stats.speedup == pytest.approx(found.stats.decode_tokens_per_s / stats.plain_tokens_per_s)
    spent = stats.draft_s + stats.verify_s + stats.plain_s + stats.overhead_s
    assert spent == pytest.approx(found.stats.decode_s, rel=0.02)
    assert json.loads(json.dumps(found.as_dict()))["stats"]["speculation"]["rounds"] == stats.rounds


def test_a_stop_string_inside_an_accepted_draft(session):
    """The text ends where plain decoding's does, though the round had drafted beyond it."""
    plain = session.generate(PROMPT, max_tokens=40, strategy="plain")
    stop = plain.text[len(plain.text) // 2 :][:3]
    wanted = session.generate(PROMPT, max_tokens=40, strategy="plain", stop=stop)
    found = session.generate(PROMPT, max_tokens=40, speculation=Speculation("model", 8), stop=stop)
    assert wanted.finish_reason == found.finish_reason == "stop"
    assert (found.text, found.tokens) == (wanted.text, wanted.tokens)


def test_pieces_tell_what_was_drafted(session):
    stream = session.stream(PROMPT, max_tokens=40, speculation=Speculation("model", 4))
    pieces = list(stream)
    assert "".join(pieces) == stream.generation.text
    assert any(piece.drafted for piece in pieces) == any(stream.generation.drafted)


def test_a_stream_that_is_dropped_leaves_a_session_that_works(session):
    stream = session.stream(PROMPT, speculation=Speculation("model", 4))
    for _ in range(3):
        next(stream)
    plain = session.generate(PROMPT, max_tokens=20, strategy="plain")
    assert session.generate(PROMPT, max_tokens=20).tokens == plain.tokens


def test_drawing_is_repeatable(session):
    sampling = Sampling(0.8, top_p=0.9, seed=11)
    one, other = (
        session.generate(PROMPT, max_tokens=30, sampling=sampling, speculation=Speculation("model", 3)).tokens
        for _ in range(2)
    )
    assert one == other


@pytest.mark.parametrize("which", [0, 1])
def test_draft_only_is_the_exits_own_text(exits, which):
    """Oracle: transformers' hidden state after the exit's blocks, through its final norm and head, token by token."""
    import torch

    model = tiny_model("llama")
    found = exits.generate(
        PROMPT, chat=False, max_tokens=12, strategy="draft-only", speculation=Speculation(exit_layer=LAYERS[which])
    )
    ids = exits.encode(PROMPT, chat=False).tolist()
    for token in found.tokens:
        with torch.inference_mode():
            states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[LAYERS[which]]
            logits = model.lm_head(model.model.norm(states[0, -1]))
        assert logits[token] >= logits.max() - 1e-3
        ids.append(token)
    assert (found.label, found.strategy, all(found.drafted)) == ("draft-only", "draft-only", True)


def test_draft_only_by_confidence_asks_deeper(exits):
    """No draft is ever sure enough: every token is the whole model's. Oracle: plain decoding."""
    plain = exits.generate(PROMPT, max_tokens=30, strategy="plain")
    found = exits.generate(PROMPT, max_tokens=30, strategy="draft-only", speculation=Speculation(confidence=1.0))
    assert found.tokens == plain.tokens
    assert not any(found.drafted)
    mixed = exits.generate(PROMPT, max_tokens=80, strategy="draft-only", speculation=Speculation(confidence=0.5))
    assert mixed.label == "draft-only"
    assert len(set(mixed.drafted)) == 2  # some by an exit, some by the whole


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"speculation": Speculation("model", 2, exit_layer=2)}, "no exit after 2 blocks; its exits: 1, 3"),
        ({"strategy": "magic"}, "strategy magic is unknown: choose one of plain, speculative, draft-only"),
    ],
)
def test_what_the_artifact_has_not_is_refused(exits, arguments, message):
    with pytest.raises(EdgeSkipError, match=message):
        exits.generate(PROMPT, max_tokens=5, **arguments)


def test_an_artifact_without_a_draft_has_only_ngrams(tiny_artifact):
    with edgeskip.load(tiny_artifact.folder, threads=1) as session:
        assert session.generate([1, 2, 3], max_tokens=5).strategy == "plain"
        found = session.generate([1, 2, 3], max_tokens=5, strategy="speculative")
        assert found.label == session.label == "lossy-skip"
        for arguments in ({"strategy": "draft-only"}, {"strategy": "speculative", "speculation": Speculation("model")}):
            with pytest.raises(EdgeSkipError, match="edgeskip export --draft early-exit"):
                session.generate([1, 2, 3], max_tokens=5, **arguments)


def test_first_difference(exits):
    """By hand: equal texts, one that parts, one that is a prefix of the other."""
    prompt = exits.encode(PROMPT)
    assert find_difference(exits, prompt, [1, 2], [1, 2]) is None
    found = find_difference(exits, prompt, [5, 6, 7], [5, 9, 7])
    row = np.sort(exits.logits([*prompt, 5])[-1])
    assert found.position == 1
    assert found.margin == pytest.approx(row[-1] - row[-2], abs=1e-3)
    assert find_difference(exits, prompt, [5], [5, 6]).position == 1


def test_first_difference_is_of_the_logits_that_decided(exits):
    """With a repetition penalty the margin is that of the penalised logits. Oracle: the rule by hand."""
    prompt = exits.encode(PROMPT)
    found = find_difference(exits, prompt, [5, 6], [5, 9], sampling=Sampling(repetition_penalty=3.0))
    text = [*prompt.tolist(), 5]
    row = exits.logits(text)[-1]
    for token in set(text):
        row[token] = row[token] * 3 if row[token] < 0 else row[token] / 3
    row = np.sort(row)
    assert found.margin == pytest.approx(row[-1] - row[-2], abs=1e-3)
