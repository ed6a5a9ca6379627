"""Calibration as a whole, on a tiny model. Oracle: the model's own hidden states and numpy; one process for two."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import tiny_checkpoint, tiny_model, tiny_tokenizer

from edgeskip.calibration.calibrate import calibrate, end_tokens_of
from edgeskip.calibration.config import CalibrationConfig
from edgeskip.calibration.corpus import Corpus, corpus_named, prompts_from, read_corpus
from edgeskip.core.errors import EdgeSkipError
from edgeskip.models.source import ModelSource, open_model
from edgeskip.planning.planner import choose
from edgeskip.profiles.schema import Profile, read_profile, read_vectors_file, write_profile
from edgeskip.profiles.vectors import read_vectors

SETTINGS = CalibrationConfig(tokens=384, context=128, decode_tokens=192)


@pytest.fixture(scope="module")
def source(tiny_llama: Path) -> ModelSource:
    return open_model(str(tiny_llama))


def run(
    source: ModelSource, settings: CalibrationConfig = SETTINGS, corpus: Corpus | None = None
) -> tuple[Profile, bytes]:
    profile = calibrate(source, corpus or corpus_named([]), settings, Path("m.json"))
    return profile, read_vectors_file(profile, Path("m.json"))


def command(*arguments: object, processes: int = 1) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [sys.executable, *(launcher if processes > 1 else []), "-m", "edgeskip", "calibrate", *map(str, arguments)]


def test_profile_says_what_was_done(source: ModelSource, tmp_path: Path) -> None:
    profile, packed = run(source)
    path = tmp_path / "m.json"
    write_profile(profile, path, packed)
    read = read_profile(path)
    assert read == profile
    assert read.plan is None
    assert read.model == source.record()
    assert read.calibration.context == 128
    assert read.calibration.corpus[0].name.startswith("edgeskip:")
    assert {s.prefill.tokens for s in read.sublayers} == {384}
    assert 0 < min(s.decode.tokens for s in read.sublayers if s.decode) <= 192
    assert read_vectors(read, path).mean_in["decode"].shape == (8, 64)
    assert choose(read, skip_sublayers=2).beta == sorted(s.prefill.similarity for s in read.sublayers)[-2]


def test_prefill_statistics_by_hand(source: ModelSource, tmp_path: Path) -> None:
    """Block boundaries from output_hidden_states: attn and ffn of one block together change them."""
    text = tmp_path / "a.txt"
    text.write_text("A model reads tokens and writes tokens. " * 40)
    profile, _ = run(source, CalibrationConfig(tokens=64, context=64, decode_tokens=0, seed=3), read_corpus([text]))
    assert all(s.decode is None for s in profile.sublayers)
    # The text repeats, but its windows do not start alike: find the one that the seed drew by its statistics.
    ids = tiny_tokenizer().encode(text.read_text() + "\n\n").ids
    matches = 0
    for start in range(0, len(ids) - 63, 64):
        states = tiny_model("llama")(torch.tensor([ids[start : start + 64]]), output_hidden_states=True).hidden_states
        squares = [float((h.double() ** 2).sum(-1).mean()) for h in states[:4]]
        found = [profile.sublayers[2 * block].prefill.mean_square_in for block in range(4)]
        matches += bool(np.allclose(squares, found, rtol=1e-5))
    assert matches == 1


def test_seed_and_repetition(source: ModelSource) -> None:
    first, again, other = (run(source, CalibrationConfig(384, 128, 64, seed))[0] for seed in (0, 0, 1))
    assert first.sublayers == again.sublayers
    assert first.vectors == again.vectors
    assert first.sublayers != other.sublayers


def test_two_processes_write_the_same_profile(tiny_llama: Path, tmp_path: Path) -> None:
    """Twenty windows and two batches of prompts, dealt to two Gloo processes, against one process."""
    options = ("--tokens", 2560, "--context", 128, "--decode-tokens", 1200, "--exits", "1,3")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    profiles, vectors = [], []
    for processes in (1, 2):
        path = tmp_path / f"{processes}.json"
        done = subprocess.run(
            command(tiny_llama, *options, "-o", path, processes=processes),
            env=environment, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == str(path)
        profiles.append(read_profile(path))
        vectors.append(read_vectors(profiles[-1], path))
    assert [s.prefill.tokens for s in profiles[0].sublayers] == [2560] * 8
    for one, two in zip(profiles[0].sublayers, profiles[1].sublayers, strict=True):
        for phase in ("prefill", "decode"):
            expected = getattr(one, phase).model_dump(exclude_none=True)
            assert getattr(two, phase).model_dump(exclude_none=True) == pytest.approx(expected, rel=1e-6, abs=1e-9)
    for phase, mean in vectors[0].mean_out.items():
        np.testing.assert_allclose(vectors[1].mean_out[phase], mean, rtol=1e-6, atol=1e-6)
    for one, two in zip(profiles[0].exits, profiles[1].exits, strict=True):
        assert one.tokens == two.tokens == 512
        assert (two.plain_agreement, two.ridge_agreement) == pytest.approx(
            (one.plain_agreement, one.ridge_agreement), abs=1.5 / 512
        )
        # Solved to 1e-9, then rounded to float16, where half a step may fall either way.
        expected_map = vectors[0].exit_maps[one.layer]
        np.testing.assert_allclose(vectors[1].exit_maps[one.layer], expected_map, rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(vectors[0].token_counts, vectors[1].token_counts)
    assert profiles[0].model == profiles[1].model
    assert profiles[0].calibration.corpus == profiles[1].calibration.corpus


def test_interrupted_leaves_nothing(tiny_llama: Path, tmp_path: Path) -> None:
    """Ctrl-C once a line says how far it is; FORCE_COLOR must not make bars of lines."""
    long_text = tmp_path / "long.txt"
    long_text.write_text("The quick brown fox jumps over the lazy dog. " * 20_000)
    process = subprocess.Popen(
        command(
            tiny_llama,
            "--tokens",
            150_000,
            "--decode-tokens",
            10**6,
            "--corpus",
            long_text,
            "-o",
            tmp_path / "out" / "m.json",
        ),
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "FORCE_COLOR": "1"},
    )
    assert process.stderr is not None
    while not (line := process.stderr.readline()).startswith(("prefill", "decode")):
        assert line, "ended before it was interrupted"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"context": 513}, "512 positions"),
        ({"context": 0}, "--context 0"),
        ({"tokens": 0}, "--tokens 0"),
        ({"decode_tokens": -1}, "negative"),
        ({"dtype": "int8"}, "float32, bfloat16, float16"),
        ({"device": "abacus"}, "--device cpu"),
        ({"device": "cuda:99"}, "--device cpu"),
    ],
)
def test_bad_settings(source: ModelSource, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(EdgeSkipError, match=message):
        run(source, CalibrationConfig(**settings))


def test_overflow_is_an_error(tmp_path: Path) -> None:
    """Weights that float16 cannot carry: 400 · 400 > 65504."""
    folder = tiny_checkpoint("llama", tmp_path / "m")
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    weights = load_file(file)
    for name in ("up_proj", "down_proj"):
        weights[f"model.layers.1.mlp.{name}.weight"] *= 400
    save_file(weights, file, metadata={"format": "pt"})
    source = open_model(str(folder))
    with pytest.raises(EdgeSkipError, match=r"not finite at ffn\.1 \(prefill\).*--dtype float32"):
        run(source, CalibrationConfig(tokens=128, context=128, decode_tokens=0, dtype="float16"))
    run(source, CalibrationConfig(tokens=128, context=128, decode_tokens=0))


def test_default_context_fits_the_model(source: ModelSource) -> None:
    assert run(source, CalibrationConfig(tokens=512, decode_tokens=0))[0].calibration.context == 512


def test_prompts_are_pieces_of_the_windows() -> None:
    windows = [list(range(100)), list(range(100, 200))]
    prompts = prompts_from(windows, count=3, length=30, seed=0)
    assert len(prompts) == 3
    assert all(len(p) == 30 and any(w[i : i + 30] == p for w in windows for i in (0, 30, 60)) for p in prompts)
    assert len(prompts_from(windows, count=50, length=30, seed=0)) == 6


def test_end_tokens_are_the_union(tmp_path: Path) -> None:
    folder = tiny_checkpoint("llama", tmp_path / "m")
    settings = folder / "generation_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "eos_token_id": [7, 9]}))
    assert end_tokens_of(open_model(str(folder))) == {1, 7, 9}


def test_corpus_self_measures_what_the_model_writes(source: ModelSource) -> None:
    """The windows are the prompts and the greedy continuations, end to end."""
    from edgeskip.calibration.continuation import continue_greedily

    corpus = corpus_named(["self"])
    profile, _ = run(source, CalibrationConfig(tokens=6000, context=256), corpus)
    assert profile.calibration.continued
    tokenizer = tiny_tokenizer()
    prompts = [tokenizer.encode(prompt).ids for prompt in corpus.documents]
    new_tokens = -(-6000 // len(prompts))
    rows = continue_greedily(tiny_model("llama"), prompts, new_tokens=new_tokens, end_tokens=frozenset({1}))
    written = sum(map(len, rows))
    decode, prefill = profile.sublayers[0].decode, profile.sublayers[0].prefill
    assert decode is not None
    assert decode.tokens == written
    assert prefill.tokens == min((sum(map(len, prompts)) + written) // 256, 6000 // 256) * 256


def test_self_and_files_exclude_each_other() -> None:
    with pytest.raises(EdgeSkipError, match="cannot be combined"):
        corpus_named(["self", "a.txt"])


def test_half_precision_measures_nearly_the_same(source: ModelSource) -> None:
    wide, narrow = (run(source, CalibrationConfig(256, 128, 0, dtype=dtype))[0] for dtype in ("float32", "bfloat16"))
    for one, two in zip(wide.sublayers, narrow.sublayers, strict=True):
        assert two.prefill.similarity == pytest.approx(one.prefill.similarity, abs=0.02)
        assert two.prefill.scale == pytest.approx(one.prefill.scale, rel=0.02)


@pytest.mark.parametrize("asked", [8, 70])
def test_no_more_decode_tokens_than_were_asked_for(asked: int, tiny_llama: Path) -> None:
    """Whole prompts of 64 are no unit: 8 are 8. Oracle: the counts that the profile keeps (a model may end early)."""
    profile, _ = run(open_model(str(tiny_llama)), CalibrationConfig(tokens=512, context=128, decode_tokens=asked))
    decode = profile.sublayers[0].decode
    assert decode is not None
    assert decode.tokens <= asked + 1  # shared out evenly between prompts


def test_fewer_tokens_than_a_window(tiny_llama: Path) -> None:
    with pytest.raises(EdgeSkipError, match="--tokens 100 do not fill one window of --context 128"):
        CalibrationConfig(tokens=100, context=128)
    assert (
        run(open_model(str(tiny_llama)), CalibrationConfig(tokens=100, decode_tokens=0))[0].calibration.context == 100
    )
