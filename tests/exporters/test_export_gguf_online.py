"""A decode plan for llama.cpp: two files, and the second takes over the KV cache while decoding. Oracles: transformers
under the two plans, each over its phase, on one KV cache; plain decoding; each file run alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exports import export_gguf
from random_profiles import random_profile
from tiny_models import tiny_checkpoint

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.plan import Plan
from edgeskip.exporters.gguf.formats import gguf_format
from edgeskip.exporters.job import ExportResult
from edgeskip.exporters.options import ExportPolicy, OnlineRequest, parse_online
from edgeskip.models.source import ModelSource, open_model
from edgeskip.models.torch_reference.load import load_torch_model
from edgeskip.models.torch_reference.skipping import skipped
from edgeskip.planning.decode_plan import decode_plan
from edgeskip.planning.planner import resolve
from edgeskip.profiles.schema import PlanRecord, Profile
from edgeskip.profiles.vectors import Vectors
from edgeskip.runtime.decoding.handover import HandoverDecoding, HandoverEngine
from edgeskip.runtime.decoding.interface import DecodeRequest, History
from edgeskip.runtime.engines.llamacpp.engine import LlamaCppEngine
from edgeskip.runtime.engines.llamacpp.handover import LlamaCppHandoverEngine
from edgeskip.runtime.engines.llamacpp.model import LlamaModel
from edgeskip.runtime.online import Online
from edgeskip.runtime.sampling import Sampling, TokenSampler
from edgeskip.runtime.session import load

PROMPT = np.array([(7 * i * i + 3 * i) % 300 + 2 for i in range(24)], dtype=np.int64)
F32 = gguf_format("f32", None)
WINDOW = 4

pytest.importorskip("llama_cpp")


@pytest.fixture(scope="module")
def source(tiny_llama: Path) -> ModelSource:
    return open_model(str(tiny_llama))


def planned(
    source: ModelSource, folder: Path, skip: tuple[str, ...], decode_skip: tuple[str, ...], compensation: Any = "affine"
) -> tuple[Profile, Vectors]:
    profile, vectors = random_profile(source, folder / "p.json")
    record = PlanRecord(
        method="explicit",
        compensation=compensation if skip else "none",
        skip=list(skip),
        decode_skip=list(decode_skip),
        window=WINDOW,
    )
    return profile.model_copy(update={"plan": record}), vectors


def export(
    source: ModelSource, profile: Profile, vectors: Vectors, target: Path, check: bool = False
) -> list[ExportResult]:
    policy = ExportPolicy(check=check)
    return export_gguf(source, profile, vectors, F32, target, online=OnlineRequest(), policy=policy)


def in_two_phases(model: Any, tokens: Any, split: int, first: Plan, second: Plan) -> Any:
    """Logits of transformers: `split` tokens under the first plan, the others one by one under the second."""
    with torch.no_grad():
        with skipped(model, first):
            found = model(torch.tensor(tokens[None, :split]), use_cache=True)
        rows = [found.logits[0].numpy()]
        with skipped(model, second):
            for token in tokens[split:]:
                found = model(torch.tensor([[token]]), past_key_values=found.past_key_values, use_cache=True)
                rows.append(found.logits[0].numpy())
    return np.concatenate(rows)


@pytest.mark.parametrize(
    ("family", "skip", "decode_skip", "compensation"),
    [
        ("llama", (), ("ffn.1", "ffn.3"), "none"),
        ("llama", ("attn.1", "ffn.2"), ("ffn.0", "ffn.3"), "affine"),
        ("llama", ("attn.0", "attn.2"), ("ffn.0", "ffn.1"), "affine"),
        ("llama", ("attn.3",), ("ffn.3",), "scale"),
        ("qwen2", ("attn.1",), ("ffn.1", "ffn.2"), "scale"),
    ],
)
def test_both_phases_are_those_of_torch(
    family: str, skip: tuple[str, ...], decode_skip: tuple[str, ...], compensation: Any, tmp_path: Path
) -> None:
    source = open_model(str(tiny_checkpoint(family, tmp_path / "model")))
    profile, vectors = planned(source, tmp_path, skip, decode_skip, compensation)
    files = export(source, profile, vectors, tmp_path / "m.gguf")
    first, second = resolve(profile, vectors), decode_plan(profile, resolve(profile, vectors))
    assert set(map(str, second.skipped)) == {*skip, *decode_skip}
    expected = in_two_phases(load_torch_model(source), PROMPT, 16, first, second)
    with load(files[0].path, threads=1) as session:
        engine = session.engine
        assert isinstance(engine, HandoverEngine)
        rows = [engine.step(PROMPT[:16], logits=0).copy()]
        engine.hand_over()
        assert (engine.length, engine.handed_over) == (16, True)
        rows += [engine.step(PROMPT[i : i + 1]).copy() for i in range(16, len(PROMPT))]
        np.testing.assert_allclose(np.concatenate(rows), expected, rtol=0, atol=2e-3)
        assert (
            np.abs(expected[16:] - in_two_phases(load_torch_model(source), PROMPT, 24, first, first)[16:]).max() > 0.1
        )
        engine.truncate(18)
        np.testing.assert_allclose(engine.step(PROMPT[18:19])[0], expected[18], rtol=0, atol=2e-3)
        engine.truncate(0)  # and a new sequence begins with the first model again
        assert not engine.handed_over
        np.testing.assert_allclose(engine.step(PROMPT[:16], logits=0), expected[:16], rtol=0, atol=2e-3)


def test_a_handover_to_the_same_model_changes_nothing(source: ModelSource, tmp_path: Path) -> None:
    profile, vectors = random_profile(source, tmp_path / "p.json")
    path = tmp_path / "m.gguf"
    export_gguf(source, profile, vectors, F32, path, policy=ExportPolicy(check=False))
    plain = LlamaCppEngine(path, threads=1)
    engine = LlamaCppHandoverEngine(LlamaModel(path), lambda: LlamaModel(path), threads=1)
    plain.step(PROMPT)
    engine.step(PROMPT)
    for number in range(300):  # past the capacity that both began with
        if number == 7:
            engine.hand_over()
        token = np.array([(11 * number) % 300])
        np.testing.assert_array_equal(engine.step(token), plain.step(token))
    engine.close()
    plain.close()


def test_greedy_text_after_a_handover(source: ModelSource, tmp_path: Path) -> None:
    """P decode steps by the first model, the rest by the second, counted; oracle: torch's argmax in two phases."""
    profile, vectors = planned(source, tmp_path, ("attn.2",), ("ffn.1", "ffn.2"), "scale")
    (first, second) = export(source, profile, vectors, tmp_path / "m.gguf")
    with load(first.path, threads=1) as session:
        assert session.default_strategy == "online"
        answer = session.generate(PROMPT, max_tokens=12)
        again = session.generate(PROMPT, max_tokens=12)
        one = session.generate(PROMPT, max_tokens=3)
        session_plain = session.generate(PROMPT, max_tokens=12, strategy="plain")
        wide = session.generate(PROMPT, max_tokens=12, online=Online(window=2))
    assert (answer.strategy, answer.label, answer.tokens) == ("online", "lossy-skip", again.tokens)
    stats, short, early = answer.stats.online, one.stats.online, wide.stats.online
    assert stats is not None
    assert short is not None
    assert early is not None
    assert (stats.window, stats.watched_steps, stats.gated_steps) == (WINDOW, WINDOW, 7)
    assert (stats.gated, stats.threshold) == (("ffn.1", "ffn.2"), None)
    assert (short.watched_steps, short.gated_steps, short.gated) == (2, 0, ())
    assert (early.watched_steps, early.gated_steps) == (2, 9)
    sequence = np.concatenate([PROMPT, answer.tokens])
    expected = in_two_phases(
        load_torch_model(source),
        sequence,
        len(PROMPT) + WINDOW,
        resolve(profile, vectors),
        decode_plan(profile, resolve(profile, vectors)),
    )
    assert list(expected[len(PROMPT) - 1 : -1].argmax(axis=1)) == list(answer.tokens)
    with load(first.path, threads=1) as session:
        second.path.unlink()
        assert list(session.generate(PROMPT, max_tokens=12, strategy="plain").tokens) == list(session_plain.tokens)


def test_the_files_and_what_they_say(source: ModelSource, tmp_path: Path) -> None:
    profile, vectors = planned(source, tmp_path, ("attn.1",), ("ffn.2",))
    first, second = export(source, profile, vectors, tmp_path / "m.gguf", check=True)
    assert [file.path.name for file in (first, second)] == ["m.gguf", "m-decode.gguf"]
    assert (first.manifest.decode, first.manifest.window) == ("m-decode.gguf", WINDOW)
    assert first.manifest.decode_plan == second.manifest.plan
    assert second.manifest.plan.skip == ["attn.1", "ffn.2"]
    assert first.manifest.decode_skipped == ("ffn.2",)
    for file in (first, second):
        assert file.manifest.verification is not None
        assert file.manifest.verification.passed
        assert file.manifest.draft is None
    with load(second.path, threads=1) as session:  # a model of its own
        assert (session.default_strategy, session.label) == ("plain", "lossy-skip")
    with load(first.path, threads=1) as session, pytest.raises(EdgeSkipError, match="threshold"):
        session.stream(PROMPT, strategy="online", online=Online(threshold=0.9))


def test_a_missing_or_strange_second_file_is_told(source: ModelSource, tmp_path: Path) -> None:
    profile, vectors = planned(source, tmp_path, (), ("ffn.2",))
    first, second = export(source, profile, vectors, tmp_path / "m.gguf")
    other, _ = planned(source, tmp_path, (), ("ffn.3",))
    _, strange = export(source, other, vectors, tmp_path / "other.gguf")
    strange.path.replace(second.path)
    with load(first.path, threads=1) as session, pytest.raises(EdgeSkipError, match="cannot take over"):
        session.generate(PROMPT, max_tokens=2)
    second.path.unlink()
    with load(first.path, threads=1) as session:
        assert session.default_strategy == "plain"
        assert len(session.generate(PROMPT, max_tokens=2).tokens) == 2
        with pytest.raises(EdgeSkipError, match=r"m-decode\.gguf, which takes over"):
            session.generate(PROMPT, strategy="online")
    with load(strange.path.with_name("other.gguf"), threads=1) as session, pytest.raises(EdgeSkipError):
        session.generate(PROMPT, strategy="online")


def test_scales_of_the_decode_phase(source: ModelSource, tmp_path: Path) -> None:
    profile, vectors = planned(source, tmp_path, ("attn.1",), ("ffn.2", "ffn.0"), "scale")
    decode = profile.sublayers[5].prefill.model_copy(update={"scale": 1.7})
    measured = list(profile.sublayers)
    measured[5] = measured[5].model_copy(update={"decode": decode})
    profile = profile.model_copy(update={"sublayers": measured})
    plan = decode_plan(profile, resolve(profile, vectors))
    found = {str(skip.sublayer): (skip.scale, skip.bias) for skip in plan.skips}
    assert found == {
        "ffn.0": (profile.sublayers[1].prefill.scale, None),
        "attn.1": (profile.sublayers[2].prefill.scale, None),
        "ffn.2": (1.7, None),
    }
    bare, _ = planned(source, tmp_path, ("attn.1",), ("ffn.2",), "none")
    assert [skip.scale for skip in decode_plan(bare, resolve(bare, None)).skips] == [1, 1]


def test_what_cannot_be_is_told(source: ModelSource, tmp_path: Path) -> None:
    profile, vectors = planned(source, tmp_path, ("ffn.1",), ("ffn.1",))
    with pytest.raises(EdgeSkipError, match=r"decode_skip is empty"):
        export(source, profile, vectors, tmp_path / "m.gguf")
    qwen3 = open_model(str(tiny_checkpoint("qwen3", tmp_path / "qwen3")))
    profile, vectors = planned(qwen3, tmp_path, (), ("ffn.1",))
    with pytest.raises(EdgeSkipError, match="export without --online"):
        export(qwen3, profile, vectors, tmp_path / "m.gguf")
    assert not list(tmp_path.glob("*.gguf"))
    with pytest.raises(EdgeSkipError, match=r"--beta 0\.9 requires --target onnx"):
        parse_online(True, None, 0.9, None, ["gguf"])


def test_a_generation_that_is_given_up_leaves_the_engine_usable(source: ModelSource, tmp_path: Path) -> None:
    profile, vectors = planned(source, tmp_path, (), ("ffn.2",))
    first, _ = export(source, profile, vectors, tmp_path / "m.gguf")
    with load(first.path, threads=1) as session:
        engine = session.engine
        assert isinstance(engine, HandoverEngine)
        decoding = HandoverDecoding(engine, 2, ("ffn.2",))
        history, sampler = History(PROMPT), TokenSampler(Sampling())
        engine.truncate(0)
        tokens = decoding.decode(DecodeRequest(decoding.prefill(PROMPT), history, sampler))
        for _ in range(5):
            next(tokens)
        tokens.close()
        assert engine.handed_over
        whole = session.generate(PROMPT, max_tokens=6, online=Online(window=2)).tokens
        assert list(whole[:5]) == list(history.generated[:5])
