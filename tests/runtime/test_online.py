"""Online skipping over a tiny artifact. Oracles: the same artifact decoded plainly; transformers, from the window on
without the gated FFNs by hooks; by hand, what P and β leave out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accepted import accept_changes
from exports import export_onnx
from random_profiles import random_profile
from tiny_models import tiny_checkpoint

import edgeskip
from edgeskip import Online, Sampling
from edgeskip.artifacts.manifest import read_manifest
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.plan import Plan, Skip
from edgeskip.core.sublayers import parse_sublayer
from edgeskip.exporters.online import online_record
from edgeskip.exporters.onnx.formats import weight_format
from edgeskip.exporters.options import OnlineRequest
from edgeskip.models.source import open_model
from edgeskip.models.torch_reference.skipping import skipped
from edgeskip.planning.planner import resolve
from edgeskip.profiles.schema import PlanRecord, Profile
from edgeskip.runtime.decoding.online import online_decoding
from edgeskip.runtime.engines.interface import OnlineEngine
from edgeskip.runtime.engines.onnxruntime.online import OnnxRuntimeOnlineEngine

PROMPT = [5, 80, 33, 12, 200, 7]
FFNS = ["ffn.0", "ffn.1", "ffn.2", "ffn.3"]


def calibrated(profile: Profile, prefill: dict[str, float], decode: dict[str, float] | None = None) -> Profile:
    """The profile with these similarities, and a decode phase of those in `decode`."""
    sublayers = []
    for found in profile.sublayers:
        phase = found.prefill.model_copy(update={"similarity": prefill.get(found.name, 0.1)})
        value = (decode or {}).get(found.name)
        other = None if value is None else phase.model_copy(update={"similarity": value})
        sublayers.append(found.model_copy(update={"prefill": phase, "decode": other}))
    return profile.model_copy(update={"sublayers": sublayers})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense artifact with gates, P 4 and β 0.8, checked by its export; calibration thinks any FFN may be left out."""
    path = tmp_path_factory.mktemp("online")
    source = open_model(str(tiny_checkpoint("llama", path / "model")))
    profile, vectors = random_profile(source, path / "p.json")
    profile = calibrated(profile, dict.fromkeys(FFNS, 0.9))
    export_onnx(source, profile, vectors, weight_format("fp32"), path / "out", online=OnlineRequest(4, 0.8))
    (path / "out" / "generation_config.json").write_text("{}", encoding="utf-8")  # no end token
    (path / "out" / "config.json").write_text("{}", encoding="utf-8")
    config = path / "out" / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"eos_token": None}), encoding="utf-8")
    accept_changes(path / "out")
    return path / "out"


@pytest.fixture
def session(folder: Path) -> edgeskip.Session:
    return edgeskip.load(folder, threads=1)


def test_gates_of_those_near_the_threshold(tiny_llama: Path, tmp_path: Path) -> None:
    """By hand: β 0.9 and a margin of 0.01; the decode phase counts where there is one, and the decode set always."""
    source = open_model(str(tiny_llama))
    profile, vectors = random_profile(source, tmp_path / "p.json", skip=("ffn.1",))
    prefill = {"ffn.0": 0.891, "ffn.1": 0.99, "ffn.2": 0.99, "ffn.3": 0.889}
    assert profile.plan is not None

    def ffns(decode: dict[str, float], beta: float, decode_skip: list[str]) -> list[str]:
        found = calibrated(profile, prefill, decode)
        found = found.model_copy(
            update={"plan": PlanRecord.model_validate(profile.plan.model_dump() | {"decode_skip": decode_skip})}
        )
        return online_record(OnlineRequest(4, beta), found, resolve(found, vectors)).ffns

    assert ffns({}, 0.9, []) == ["ffn.0", "ffn.2"]
    assert ffns({"ffn.2": 0.5, "ffn.3": 0.95}, 0.9, []) == ["ffn.0", "ffn.3"]
    assert ffns({}, 0.9, ["ffn.3"]) == ["ffn.0", "ffn.2", "ffn.3"]
    assert ffns({}, 1.0, []) == ["ffn.2"]
    assert ffns({"ffn.2": 0.5}, 1.0, ["ffn.0"]) == ["ffn.0"]
    with pytest.raises(EdgeSkipError, match=r"^--online .* ffn\.0 is the most similar, 0\.8910, .* lower --beta$"):
        ffns({"ffn.2": 0.5}, 1.0, [])


def test_gates_of_some_are_what_the_runtime_knows(tiny_llama: Path, tmp_path: Path) -> None:
    """The export's own check, with the more similar half shut; a β below every similarity reaches gates only."""
    source = open_model(str(tiny_llama))
    profile, vectors = random_profile(source, tmp_path / "p.json", skip=("attn.1",))
    profile = calibrated(profile, {"ffn.0": 0.95, "ffn.2": 0.93, "ffn.3": 0.92})
    export_onnx(source, profile, vectors, weight_format("fp32"), tmp_path / "out", online=OnlineRequest(2, 0.93))
    record = read_manifest(tmp_path / "out").online
    assert record is not None
    assert record.ffns == ["ffn.0", "ffn.2", "ffn.3"]
    with edgeskip.load(tmp_path / "out", threads=1) as session:
        session.end_tokens = frozenset()
        stats = session.generate(PROMPT, max_tokens=8, online=Online(threshold=-1.0)).stats.online
    assert stats is not None
    assert stats.gated == tuple(stats.similarity) == ("ffn.0", "ffn.2", "ffn.3")


def torch_greedy(folder: Path, plan_from: dict[str, float], watched: int, count: int) -> list[int]:
    """The first `watched` steps by the dense model, the rest without the FFNs in `plan_from`. An FFN has no cache, but
    what the attentions after it cached depends on when each token was run."""
    from transformers import AutoModelForCausalLM, DynamicCache

    model = AutoModelForCausalLM.from_pretrained(folder.parent / "model", dtype=torch.float32).eval()
    skips = tuple(Skip(parse_sublayer(name, 4), scale) for name, scale in plan_from.items())
    cache, tokens, feed = DynamicCache(), [], PROMPT
    with torch.inference_mode():
        for step in range(count):
            with skipped(model, Plan(4, skips if step > watched else ())):
                logits = model(torch.tensor([feed]), past_key_values=cache, use_cache=True).logits[0, -1]
            feed = [int(logits.argmax())]
            tokens += feed
    return tokens


def test_the_manifest_and_the_engine_say_so(folder: Path, session: edgeskip.Session) -> None:
    record = read_manifest(folder).online
    assert record is not None
    assert (record.window, record.threshold, record.ffns) == (4, 0.8, FFNS)
    assert isinstance(session.engine, OnlineEngine)
    assert session.online == record
    assert session.default_strategy == "online"


def test_what_little_changes_is_left_out_after_the_window(folder: Path, session: edgeskip.Session) -> None:
    generation = session.generate(PROMPT, max_tokens=30)
    stats = generation.stats.online
    assert stats is not None
    assert (generation.strategy, generation.label) == ("online", "lossy-skip")
    assert (stats.watched_steps, stats.gated_steps) == (4, 25)  # the prompt gives the first of 30 tokens
    assert stats.gated == tuple(name for name in FFNS if stats.similarity[name] >= 0.8)
    assert 0 < len(stats.gated) < 4
    oracle = torch_greedy(folder, {name: stats.scale[name] for name in stats.gated}, 4, 30)
    assert list(generation.tokens) == oracle
    assert json.loads(json.dumps(generation.as_dict()))["stats"]["online"]["gated"] == list(stats.gated)


@pytest.mark.parametrize("policy", [Online(threshold=1.0), Online(window=30), Online(gate=False)], ids=repr)
def test_nothing_left_out_is_plain_decoding(session: edgeskip.Session, policy: Online) -> None:
    """β above every similarity, a window longer than the answer, watching alone."""
    plain = session.generate(PROMPT, max_tokens=20, strategy="plain")
    generation = session.generate(PROMPT, max_tokens=20, online=policy)
    stats = generation.stats.online
    assert stats is not None
    assert (plain.label, plain.stats.online) == ("dense", None)
    assert generation.label == ("lossy-skip" if policy.gate else "dense")
    assert generation.tokens == plain.tokens
    assert (stats.gated, stats.gated_steps) == ((), 0)
    assert stats.watched_steps == (4 if policy.window is None and policy.gate else 19)


def test_all_of_them_left_out(folder: Path, session: edgeskip.Session) -> None:
    generation = session.generate(PROMPT, max_tokens=12, online=Online(window=1, threshold=-1.0))
    stats = generation.stats.online
    assert stats is not None
    assert stats.gated == tuple(FFNS)
    assert (stats.watched_steps, stats.gated_steps) == (1, 10)
    assert list(generation.tokens) == torch_greedy(folder, stats.scale, 1, 12)


def test_means_are_of_the_window(folder: Path) -> None:
    """Oracle: the rows that watching alone records, averaged here."""
    engine = edgeskip.load(folder, threads=1).engine
    record = read_manifest(folder).online
    from edgeskip.runtime.decoding.interface import DecodeRequest, History
    from edgeskip.runtime.sampling import TokenSampler

    prompt = np.array(PROMPT, np.int64)
    found = []
    for policy in (Online(gate=False), Online(window=5)):
        decoding = online_decoding(engine, policy, record)
        engine.truncate(0)
        logits = decoding.prefill(prompt)
        list(decoding.decode(DecodeRequest(logits, History(prompt), TokenSampler(Sampling()), 12)))
        found.append(decoding)
    similarity, ratio = found[0].measured
    assert similarity.shape == ratio.shape == (11, 4)
    stats = found[1].online()
    assert list(stats.similarity.values()) == pytest.approx(similarity[:5].mean(0).tolist(), rel=1e-5)
    assert list(stats.scale.values()) == pytest.approx(ratio[:5].mean(0).tolist(), rel=1e-5)


def assert_open(session: edgeskip.Session, before: Any) -> None:
    assert session.generate(PROMPT, max_tokens=12, strategy="plain").tokens == before
    assert isinstance(session.engine, OnnxRuntimeOnlineEngine)


@pytest.mark.parametrize("taken", [2, 9], ids=["in the window", "after it"])
def test_every_request_starts_anew(session: edgeskip.Session, taken: int) -> None:
    """A stream that ends by itself, that is closed early, and one that a stop string ends leave the gates open."""
    before = session.generate(PROMPT, max_tokens=12, strategy="plain").tokens
    whole = session.generate(PROMPT, max_tokens=20, online=Online(threshold=-1.0))
    assert_open(session, before)
    stream = session.stream(PROMPT, max_tokens=20, online=Online(threshold=-1.0))
    for _ in range(taken):
        next(stream)
    stream.close()
    assert_open(session, before)
    session.generate(PROMPT, online=Online(threshold=-1.0), max_tokens=20, stop=whole.text[6:8])
    assert_open(session, before)
    assert session.generate(PROMPT, max_tokens=20, online=Online(threshold=-1.0)).tokens == whole.tokens


def test_an_end_token_inside_the_window(session: edgeskip.Session) -> None:
    """By hand: the third token ends the text, so two steps were run and watched."""
    tokens = session.generate(PROMPT, max_tokens=3, strategy="plain").tokens
    assert tokens[2] not in tokens[:2]
    session.end_tokens = frozenset({tokens[2]})
    generation = session.generate(PROMPT, max_tokens=20)
    assert (generation.tokens, generation.finish_reason) == (tokens[:2], "eos")
    assert generation.stats.online is not None
    assert generation.stats.online.watched_steps == 2


def test_what_is_refused(session: edgeskip.Session, folder: Path, tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgeSkipError, match="at least 1"):
        Online(window=0)
    with pytest.raises(EdgeSkipError, match="from -1 to 1"):
        Online(threshold=1.5)
    source = open_model(str(tiny_llama))
    profile, vectors = random_profile(source, tmp_path / "p.json")
    form = weight_format("fp32")
    with pytest.raises(EdgeSkipError, match=r"needs a threshold .* add --beta"):
        export_onnx(source, profile, vectors, form, tmp_path / "out", online=OnlineRequest())
    plain = tmp_path / "plain"
    from edgeskip.exporters.options import ExportPolicy

    export_onnx(source, profile, vectors, form, plain, policy=ExportPolicy(check=False))
    with pytest.raises(EdgeSkipError, match="edgeskip export --online"):
        edgeskip.load(plain, threads=1).stream(PROMPT, strategy="online")
    with pytest.raises(EdgeSkipError, match=r"has no gates: export it with  edgeskip export --online$"):
        OnnxRuntimeOnlineEngine(plain, read_manifest(plain))
    with pytest.raises(EdgeSkipError, match=r"^model.onnx has other inputs and outputs than its manifest describes"):
        OnnxRuntimeOnlineEngine(plain, replace_online(plain, folder))


def replace_online(plain: Path, online: Path) -> Any:
    return read_manifest(plain).model_copy(update={"online": read_manifest(online).online})
