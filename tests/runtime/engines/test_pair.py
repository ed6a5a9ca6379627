"""Two engines as one. Oracle: the same two engines by themselves, in llama.cpp."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from drafting_artifacts import NOTHING, random_walk
from numpy.typing import NDArray
from talking_gguf import byte_level_metadata, talking_gguf
from tiny_gguf import Kind

from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.engines.llamacpp.engine import LlamaCppEngine
from edgeskip.runtime.engines.pair import PairEngine

CONTEXT = 300
# llama.cpp's cache is float16 and tokens that come together are rounded otherwise than one by one; a token that is
# missing from it, or out of place, is 1 and more.
ROUNDING = 0.15


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(whole, draft): two models of one vocabulary."""
    folder = tmp_path_factory.mktemp("pair")
    whole, _ = talking_gguf(folder / "whole.gguf", max_position_embeddings=CONTEXT)
    draft, _ = talking_gguf(folder / "draft.gguf", max_position_embeddings=CONTEXT, num_hidden_layers=2)
    return whole, draft


@pytest.fixture(scope="module")
def tokens() -> NDArray[np.int64]:
    return np.random.default_rng(1).integers(0, len(byte_level_metadata()["tokenizer.ggml.tokens"]), CONTEXT)


def engine(path: Path) -> LlamaCppEngine:
    return LlamaCppEngine(path, threads=1)


def pair_of(files: tuple[Path, Path]) -> PairEngine:
    return PairEngine(engine(files[0]), lambda: engine(files[1]))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", [Kind.F32, Kind.Q4_1])
def test_any_order_of_calls(
    files: tuple[Path, Path], tokens: NDArray[np.int64], seed: int, kind: Kind, tmp_path: Path
) -> None:
    """Oracle: the whole model over the same tokens, to the bit where the weights are quantized.

    Quantised, of less than 64 tokens: from there llama.cpp's attention over a prefill rounds otherwise.
    """
    whole = files[0]
    if kind == Kind.Q4_1:
        whole, _ = talking_gguf(tmp_path / "whole.gguf", kind=kind, max_position_embeddings=60)
    pair, atol = pair_of((whole, files[1])), 0 if kind == Kind.Q4_1 else ROUNDING
    random_walk(pair, engine(whole), tokens[:80], seed, atol=atol, moves=30)


def test_the_draft_catches_up(files: tuple[Path, Path], tokens: NDArray[np.int64]) -> None:
    """Oracle: the draft model over the whole sequence, after steps, rejected drafts and a turn that it never saw."""
    pair, alone = pair_of(files), engine(files[1])

    def check(sequence: NDArray[np.int64], new: NDArray[np.int64]) -> None:
        found = pair.draft(new).copy()
        alone.truncate(0)
        expected = alone.step(np.concatenate([sequence, new]))
        assert found.shape == (1, pair.vocab_size)
        np.testing.assert_allclose(found, expected, atol=ROUNDING)

    pair.reserve(100)
    pair.step(tokens[:30])
    check(tokens[:30], tokens[30:31])
    check(tokens[:31], tokens[31:33])
    assert (pair.length, pair.drafted) == (33, 3)
    pair.verify(tokens[33:34])
    pair.truncate(32)
    pair.step(tokens[40:42])
    check(np.concatenate([tokens[:32], tokens[40:42]]), tokens[50:51])
    pair.truncate(0)
    pair.step(tokens[60:80])
    check(tokens[60:80], tokens[80:81])
    assert (pair.name, pair.provider, pair.threads, pair.drafts, pair.draft_tokens) == ("llama.cpp", "cpu", 1, 1, None)
    assert pair.context_length == CONTEXT
    assert pair.run_s > pair.whole.run_s > 0
    pair.close()


def test_plain_use_does_not_open_the_draft(files: tuple[Path, Path], tokens: NDArray[np.int64]) -> None:
    """Oracle: the whole model, to the bit; a draft that cannot be opened."""

    def fail() -> LlamaCppEngine:
        raise AssertionError

    pair, whole = PairEngine(engine(files[0]), fail), engine(files[0])
    for start, end, logits in ((0, 20, 0), (20, 21, 1), (21, 30, 3)):
        expected = whole.step(tokens[start:end], logits=logits)
        np.testing.assert_array_equal(pair.step(tokens[start:end], logits=logits), expected)
    np.testing.assert_array_equal(pair.verify(tokens[30:34]), whole.step(tokens[30:34], logits=0))
    assert pair.length == 34
    pair.close()


def test_what_ctrl_c_left_in_an_engine_is_dropped(files: tuple[Path, Path], tokens: NDArray[np.int64]) -> None:
    """Oracle: the whole model; both engines ran tokens that were never counted."""
    pair, whole = pair_of(files), engine(files[0])
    pair.step(tokens[:10])
    pair.draft(tokens[10:11])
    pair.truncate(10)
    assert pair._draft is not None
    pair.whole.step(tokens[100:105])
    pair._draft.step(tokens[100:105])
    assert (pair.length, pair.drafted) == (10, 0)
    first = pair.draft(tokens[10:12]).copy()
    alone = engine(files[1])
    np.testing.assert_allclose(first, alone.step(tokens[:12]), atol=ROUNDING)
    whole.step(tokens[:10])
    np.testing.assert_allclose(pair.verify(NOTHING), whole.step(tokens[10:12], logits=0), atol=ROUNDING)


def test_what_makes_no_step_is_refused(files: tuple[Path, Path], tokens: NDArray[np.int64]) -> None:
    """By hand."""
    pair = pair_of(files)
    pair.step(tokens[:10])
    with pytest.raises(ValueError, match="nothing to verify"):
        pair.verify(NOTHING)
    for call in (pair.draft, pair.verify, pair.step):
        with pytest.raises(EdgeSkipError, match="token ids"):
            call(np.array([-1]))
        with pytest.raises(EdgeSkipError, match="context is full: 10 "):
            call(tokens[: CONTEXT - 5])
    with pytest.raises(ValueError, match="truncate"):
        pair.truncate(11)
    assert (pair.length, pair.drafted) == (10, 0)


@pytest.mark.parametrize("other", [{"max_position_embeddings": CONTEXT - 1}, {}])
def test_a_draft_that_does_not_fit(
    files: tuple[Path, Path], tokens: NDArray[np.int64], tmp_path: Path, other: dict[str, int]
) -> None:
    """A shorter context; another vocabulary."""
    keys = None
    if not other:
        keys = {name: byte_level_metadata()[name] for name in ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type")}
        keys = {name: [*entries, entries[-1]] for name, entries in keys.items()}
        keys["tokenizer.ggml.tokens"][-1] = "another"
    path, _ = talking_gguf(tmp_path / "other.gguf", keys, **({"max_position_embeddings": CONTEXT} | other))
    pair = pair_of((files[0], path))
    pair.step(tokens[:5])
    with pytest.raises(EdgeSkipError, match=r"the draft model \(.*\) does not fit the model it drafts for"):
        pair.draft(tokens[5:6])
    np.testing.assert_array_equal(pair.step(tokens[5:6]).shape, (1, pair.vocab_size))
