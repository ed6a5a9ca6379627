"""The split engine against the whole model in the same llama.cpp, to the bit; and what it costs."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from drafting_artifacts import random_walk
from numpy.typing import NDArray
from split_gguf import split_gguf
from talking_gguf import byte_level_metadata, talking_gguf
from tiny_gguf import Kind

from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.engines.llamacpp import split as llamacpp_split
from edgeskip.runtime.engines.llamacpp.context import BATCH, LlamaContext
from edgeskip.runtime.engines.llamacpp.engine import LlamaCppEngine
from edgeskip.runtime.engines.llamacpp.exit_states import ExitStateReader
from edgeskip.runtime.engines.llamacpp.split import LlamaCppSplitEngine
from edgeskip.runtime.engines.llamacpp.trimmed_head import TrimmedHead

CONTEXT, EXIT = 700, 3
NOTHING = np.zeros(0, np.int64)
ROUNDING = 0.15  # of any two ways to run the same tokens; one that is missing from the cache is 1 and more
Pair = tuple[Path, Path, Path]  # whole, first, rest


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Untied, so that the rest's embedding table is the head's."""
    folder = tmp_path_factory.mktemp("pair")
    whole, _ = talking_gguf(
        folder / "whole.gguf", max_position_embeddings=CONTEXT, num_hidden_layers=5, tie_word_embeddings=False
    )
    return whole, *split_gguf(whole, folder, EXIT)


@pytest.fixture(scope="module")
def tokens() -> NDArray[np.int64]:
    return np.random.default_rng(1).integers(0, len(byte_level_metadata()["tokenizer.ggml.tokens"]), CONTEXT)


def open_both(pair: Pair) -> tuple[LlamaCppEngine, LlamaCppSplitEngine]:
    return LlamaCppEngine(pair[0], threads=1), LlamaCppSplitEngine(pair[1], pair[2], threads=1)


@pytest.mark.parametrize("logits", [0, 1, 3])
def test_prefill_and_decode_are_the_whole_models(tiny: Pair, tokens: NDArray[np.int64], logits: int) -> None:
    """Oracle: the engine on the whole file, to the bit; the caches grow and the prefill takes two batches."""
    whole, split = open_both(tiny)
    assert (split.vocab_size, split.context_length) == (whole.vocab_size, whole.context_length)
    assert (split.name, split.provider, split.threads) == ("llama.cpp", "cpu", 1)
    for start, end in ((0, 40), (40, 41), (41, 60), (60, 80 + BATCH), *((n, n + 1) for n in range(592, 640))):
        wanted = min(logits, end - start)
        expected = whole.step(tokens[start:end], logits=wanted)
        np.testing.assert_array_equal(split.step(tokens[start:end], logits=wanted), expected)
    assert split.length == whole.length == 640
    assert split.run_s > 0


def test_the_real_model_split_after_eight_blocks(smollm2_gguf: Path, tmp_path: Path) -> None:
    """Oracle: the 4-bit model itself, whole, to the bit: prefill, decode, and a verified draft of four tokens."""
    tokens = np.random.default_rng(2).integers(0, 49152, 40)
    whole, split = open_both((smollm2_gguf, *split_gguf(smollm2_gguf, tmp_path, 8)))
    np.testing.assert_array_equal(split.step(tokens[:24], logits=0), whole.step(tokens[:24], logits=0))
    for position in range(24, 36):
        chunk = tokens[position : position + 1]
        np.testing.assert_array_equal(split.step(chunk), whole.step(chunk))
    for position in range(36, 40):
        split.draft(tokens[position : position + 1])
    np.testing.assert_array_equal(split.verify(NOTHING), whole.step(tokens[36:], logits=0))


def test_drafting_runs_the_first_half_alone(tiny: Pair, tokens: NDArray[np.int64]) -> None:
    """Oracle: an engine on the first file, which is a draft model of its own."""
    draft, split = LlamaCppEngine(tiny[1], threads=1), LlamaCppSplitEngine(*tiny[1:], threads=1)
    np.testing.assert_array_equal(split.draft(tokens[:20]), draft.step(tokens[:20]))
    for position in range(20, 30):
        chunk = tokens[position : position + 1]
        np.testing.assert_array_equal(split.draft(chunk), draft.step(chunk))
    assert (split.length, split.drafted) == (30, 30)


def assert_close(logits: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    """float32 products of one row and of several round differently, so a draft step by step is not to the bit."""
    np.testing.assert_allclose(logits, expected, atol=0.02)


def test_a_verified_draft_is_one_step_of_the_whole_model(tiny: Pair, tokens: NDArray[np.int64]) -> None:
    """Oracle: the whole model over the same tokens at once."""
    whole, split = open_both(tiny)
    whole.step(tokens[:10])
    split.step(tokens[:10])
    for position in range(10, 14):
        split.draft(tokens[position : position + 1])
    assert (split.length, split.drafted) == (14, 4)
    assert_close(split.verify(NOTHING), whole.step(tokens[10:14], logits=0))
    assert split.drafted == 0
    split.draft(tokens[14:16])
    # A step after a draft verifies along: three new exit states, the last row asked for.
    assert_close(split.step(tokens[16:17])[0], whole.step(tokens[14:17])[0])
    with pytest.raises(ValueError, match="nothing to verify"):
        split.verify(NOTHING)


@pytest.mark.parametrize("trimmed", [False, True])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", [Kind.F32, Kind.Q4_1])
def test_any_order_of_calls(
    tiny: Pair, tokens: NDArray[np.int64], seed: int, trimmed: bool, kind: Kind, tmp_path: Path
) -> None:
    """Oracle: the whole model over the same tokens, to the bit where the weights are quantized."""
    files = tiny
    if kind == Kind.Q4_1:
        path, _ = talking_gguf(tmp_path / "whole.gguf", kind=kind, max_position_embeddings=60)  # see test_pair.py
        files = path, *split_gguf(path, tmp_path, 2)
    whole, split = open_both(files)
    if trimmed:
        split._head = TrimmedHead(np.zeros((7, 64), np.float16), np.arange(7), 1e-5)
    random_walk(split, whole, tokens[:60], seed, atol=0 if kind == Kind.Q4_1 else ROUNDING)


def test_a_trimmed_head_drafts_from_the_exit_state(tiny: Pair, tokens: NDArray[np.int64]) -> None:
    """Oracle: rows of the first file's own logits, whose norm and head the trimmed one is made from."""
    ids = np.array([3, 50, 51, 200])
    tensors = {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(tiny[1]).tensors}
    rows = (tensors["output.weight"] * tensors["output_norm.weight"])[ids].astype(np.float16)
    head = TrimmedHead(rows, ids, 1e-6, threads=1)
    plain, split = LlamaCppSplitEngine(*tiny[1:], threads=1), LlamaCppSplitEngine(*tiny[1:], head=head, threads=1)
    assert (plain.draft_tokens, plain.drafts, split.drafts) == (None, 1, 1)
    np.testing.assert_array_equal(split.draft_tokens, ids)
    for engine in (plain, split):
        engine.step(tokens[:10])
    for start, end in ((10, 11), (11, 12), (12, 17), (17, 18)):
        found, expected = split.draft(tokens[start:end]), plain.draft(tokens[start:end])[:, ids]
        assert found.shape == (1, 4)
        np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())
    np.testing.assert_array_equal(split.verify(tokens[18:20]), plain.verify(tokens[18:20]))
    assert split.run_s > 0
    split.close()


def test_plain_steps_leave_the_drafts_head_alone(tiny: Pair, tokens: NDArray[np.int64]) -> None:
    """By hand: a head that cannot be computed."""
    head = TrimmedHead(np.zeros((2, 64), np.float16), np.arange(2), 1e-5)
    head._compute = lambda *_: 1
    split = LlamaCppSplitEngine(*tiny[1:], head=head, threads=1)
    split.step(tokens[:10])
    split.step(tokens[10:11])
    split.verify(tokens[11:15])
    with pytest.raises(EdgeSkipError, match="cannot compute"):
        split.draft(tokens[15:16])
    with pytest.raises(EdgeSkipError, match="is not of this model"):
        LlamaCppSplitEngine(*tiny[1:], head=TrimmedHead(np.zeros((2, 32), np.float16), np.arange(2), 1e-5), threads=1)


@pytest.mark.parametrize("kept", [0, 5, 10, 12, 14])
def test_truncate_rolls_both_halves_back(tiny: Pair, tokens: NDArray[np.int64], kept: int) -> None:
    """Oracle: the whole model over what remains; `kept` falls before, at and inside the drafted tokens."""
    whole, split = open_both(tiny)
    split.step(tokens[:10])
    for position in range(10, 14):
        split.draft(tokens[position : position + 1])
    split.truncate(kept)
    assert (split.length, split.drafted) == (kept, max(0, kept - 10))
    if kept:
        whole.step(tokens[: min(kept, 10)])
    pending = tokens[min(kept, 10) : kept]
    expected = whole.step(np.concatenate([pending, tokens[100:103]]), logits=0)
    assert_close(split.step(tokens[100:103], logits=3), expected[-3:])
    with pytest.raises(ValueError, match="truncate"):
        split.truncate(split.length + 1)


def test_a_long_draft_keeps_every_exit_state(tiny: Pair, tokens: NDArray[np.int64]) -> None:
    """Oracle: the whole model, to the bit; more exit states than fit one batch, appended in two drafts."""
    whole, split = open_both(tiny)
    split.draft(tokens[:500])
    split.draft(tokens[500:650])
    assert split.drafted == 650
    expected = np.concatenate([whole.step(tokens[:512], logits=0), whole.step(tokens[512:650], logits=0)])
    np.testing.assert_array_equal(split.verify(NOTHING), expected)


def test_nothing_runs_twice(tiny: Pair, tokens: NDArray[np.int64], monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: batches that the first half ran in two turns of a conversation, growth of its cache included."""
    batches: list[int] = []
    append = LlamaContext.append_tokens

    def counted(self: LlamaContext, tokens: NDArray[np.int64], logits: Any) -> None:
        batches.append(len(tokens))
        append(self, tokens, logits)

    monkeypatch.setattr(LlamaContext, "append_tokens", counted)
    split = LlamaCppSplitEngine(*tiny[1:], threads=1)
    split.reserve(600)
    for _ in range(2):
        split.truncate(0)
        split.step(tokens[:200])
        for position in range(200, 300):
            split.step(tokens[position : position + 1])
        for position in range(300, 304):
            split.draft(tokens[position : position + 1])
        split.verify(NOTHING)
    assert batches == 2 * [200, *[1] * 104]


def test_a_graph_that_moved_is_run_again_by_name(
    tiny: Pair, tokens: NDArray[np.int64], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the whole model, to the bit, though the remembered tensor is now nothing, or another one."""
    whole, split = open_both(tiny)
    whole.step(tokens[:10])
    split.step(tokens[:10])
    seen: list[int] = []
    name_of = split._reader._name_of
    monkeypatch.setattr(split._reader, "_name_of", lambda node: (seen.append(node), name_of(node))[1])
    split.step(tokens[10:11])
    whole.step(tokens[10:11])
    right = split._reader._node
    before, after = seen[seen.index(right) - 1], 1
    assert right != 0
    for position, wrong in ((11, before), (12, after), (13, right)):
        split._reader._node = wrong
        chunk = tokens[position : position + 1]
        np.testing.assert_array_equal(split.step(chunk), whole.step(chunk))
        assert split.length == position + 1


def test_ctrl_c_inside_llama_cpp_is_heard(tiny: Pair, tokens: NDArray[np.int64]) -> None:
    """By hand: a signal arrives while llama.cpp calls back; ctypes would drop what its handler raises."""

    class Alarm(BaseException):
        pass

    def ring(*_: object) -> None:
        raise Alarm

    whole, split = open_both(tiny)
    whole.step(tokens[:9])
    split.step(tokens[:9])
    expected = whole.step(tokens[9:10])

    def step_until_it_rings(delay: float) -> None:
        signal.setitimer(signal.ITIMER_REAL, delay)
        while True:
            split.step(tokens[9:10])
            split.truncate(9)

    before = signal.signal(signal.SIGALRM, ring)
    try:
        for delay in np.linspace(2e-5, 3e-3, 100):
            with pytest.raises(Alarm):
                step_until_it_rings(delay)
            split.truncate(9)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    np.testing.assert_array_equal(split.step(tokens[9:10]), expected)


def test_what_makes_no_step_is_refused(tiny: Pair, tokens: NDArray[np.int64]) -> None:
    """By hand."""
    _, split = open_both(tiny)
    split.draft(tokens[:10])
    with pytest.raises(EdgeSkipError, match="token ids"):
        split.draft(np.array([-1]))
    with pytest.raises(EdgeSkipError, match="context is full: 10 "):
        split.step(tokens[: CONTEXT - 5])
    with pytest.raises(ValueError, match="last 4"):
        split.step(tokens[:3], logits=4)
    assert (split.length, split.drafted) == (10, 10)


def test_halves_that_do_not_fit_are_refused(tiny: Pair, tmp_path: Path) -> None:
    """By hand: halves of models of other widths, and a graph without the node."""
    other, _ = talking_gguf(tmp_path / "other.gguf", hidden_size=96, num_attention_heads=6)
    _, rest = split_gguf(other, tmp_path, 2)
    with pytest.raises(EdgeSkipError, match="not the two halves of one model"):
        LlamaCppSplitEngine(tiny[1], rest, threads=1)


def test_a_graph_without_the_node_is_refused(
    tiny: Pair, tokens: NDArray[np.int64], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand: a llama.cpp that names its nodes otherwise."""
    monkeypatch.setattr(
        llamacpp_split, "ExitStateReader", lambda exit_layer, hidden: ExitStateReader(exit_layer + 40, hidden)
    )
    _, split = open_both(tiny)
    with pytest.raises(EdgeSkipError, match="no node l_out-42"):
        split.step(tokens[:3])
    assert split.length == 0
