"""What callers hand in: taken as tokenizers and JSON have it, or refused in one line, before anything runs."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_graph import VOCAB, TinyArtifact

import edgeskip
from edgeskip import Online, Sampling, Speculation
from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.arguments import check_messages, check_text, token_ids


@pytest.fixture(scope="module")
def session(tiny_artifact: TinyArtifact) -> edgeskip.Session:
    return edgeskip.load(tiny_artifact.folder, threads=1)


@pytest.mark.parametrize(
    "ids",
    [
        [5, 6, 7],
        (5, 6, 7),
        range(5, 8),
        iter([5, 6, 7]),
        [np.int32(5), np.uint8(6), 7],
        np.array([5, 6, 7], np.uint64),
        np.array([5, 6, 7], np.int8),
        np.array([[5, 6, 7]]),
        np.array([5, 0, 6, 0, 7, 0])[::2],
        [[5, 6, 7]],
        [np.array([5, 6, 7])],
        np.array([5, 6, 7], object),
    ],
    ids=lambda ids: f"{type(ids).__name__}-{getattr(ids, 'dtype', '')}",
)
def test_token_ids_as_tokenizers_hand_them_out(ids: object) -> None:
    """By hand: the same three numbers, int64 [3]."""
    found = token_ids(ids, 10)
    assert (found.tolist(), found.dtype, found.shape) == ([5, 6, 7], np.int64, (3,))


def test_tensors_without_values_to_read_are_refused(session: edgeskip.Session) -> None:
    """By hand: torch's own errors are for who computes with them."""
    torch = pytest.importorskip("torch")
    for tensor in (torch.tensor([5, 0, 6]).to_sparse(), torch.zeros(3, dtype=torch.int64, device="meta")):
        with pytest.raises(EdgeSkipError, match="this Tensor cannot be read as one"):
            session.encode(tensor)
    for stop in (torch.tensor(1), torch.zeros(3, device="meta"), torch.tensor([5, 0, 6]).to_sparse()):
        with pytest.raises(EdgeSkipError, match="stop"):
            session.generate("a", stop=stop)


def test_token_ids_of_torch() -> None:
    """By hand; a batch of one row too."""
    torch = pytest.importorskip("torch")
    assert token_ids(torch.tensor([5, 6])).tolist() == token_ids(torch.tensor([[5, 6]])).tolist() == [5, 6]


@pytest.mark.parametrize(
    ("ids", "complaint"),
    [
        (b"Hi", "bytes"),
        (bytearray(b"Hi"), "bytearray"),
        ([5.7, 6.2], "5.7 is not one"),
        ([5.0], "5.0 is not one"),
        (np.array([5.0]), "float64"),
        ([True, False], "True is not one"),
        (np.array([True]), "bool"),
        (["Hi"], "'Hi' is text"),
        ([5, "Hi"], "'Hi' is text"),
        ([None], "None is not one"),
        ({"input_ids": [5]}, "input_ids"),
        ({5, 6}, "no order"),
        (5, "int"),
        (None, "NoneType"),
        ([[5], [6]], "2 rows"),
        ([[5], [6, 7]], "different lengths"),
        ([np.array(5)], "array(5) is not one"),
        ([Fraction(10**5000, 3)], "this Fraction is not one"),
        ([[[5]]], "is not one"),
        (np.zeros((1, 1, 2), int), "3 dimensions"),
        (np.array(5), "int"),
        ([-1], "-1 is not"),
        ([VOCAB], f"{VOCAB} is not"),
        ([2**63], "below 2"),
        ([2**80], "below 2"),
        (np.array([2**64 - 1], np.uint64), "below 2"),
        ([5, {"role": "user"}], "cannot be mixed"),
        (np.array(["a"]), "<U1"),
    ],
)
def test_what_is_no_token_id_is_refused(session: edgeskip.Session, ids: Any, complaint: str) -> None:
    """By hand; `generate`, `encode` and `logits` have one check."""
    for call in (session.generate, session.encode, session.logits):
        with pytest.raises(EdgeSkipError, match=re.escape(complaint)):
            call(ids)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"max_tokens": 2.5}, "max_tokens must be a whole number, not 2.5"),
        ({"max_tokens": True}, "whole number"),
        ({"max_tokens": "3"}, "whole number"),
        ({"max_tokens": float("nan")}, "whole number"),
        ({"max_tokens": -1}, "at least 1"),
        ({"stop": 5}, "stop"),
        ({"stop": b"a"}, "stop"),
        ({"stop": [b"a"]}, "decode the bytes"),
        ({"stop": [None]}, "stop string"),
        ({"stop": {"a": 1}}, "stop"),
        ({"stop": "\udce9"}, "0xe9"),
        ({"system": 5}, "system message"),
        ({"system": "a\udcff"}, "0xff"),
        ({"sampling": {"temperature": 1}}, "edgeskip.Sampling"),
        ({"speculation": 4}, "edgeskip.Speculation"),
        ({"online": True}, "edgeskip.Online"),
        ({"chat_kwargs": {"messages": []}}, "given by EdgeSkip"),
        ({"chat_kwargs": {"eos_token": "x"}}, "given by EdgeSkip"),
        ({"chat_kwargs": {"enable_thinking": True}}, "does not read 'enable_thinking'"),
        ({"enable_thinking": True, "chat": False}, "chat template"),
        ({"stop": np.array("a")}, "a text or a list of texts, not array"),
        ({"chat_kwargs": [1]}, "chat_kwargs must be a dictionary, name → value, not list"),
        ({"chat_kwargs": 5}, "chat_kwargs must be a dictionary"),
        ({"chat_kwargs": "abc"}, "chat_kwargs must be a dictionary"),
        ({"chat_kwargs": []}, "chat_kwargs must be a dictionary"),
        ({"enable_thinking": "no"}, "enable_thinking must be True, False or None, not 'no'"),
        ({"enable_thinking": np.array([1, 2])}, "enable_thinking must be"),
        ({"enable_thinking": True, "chat_kwargs": {"enable_thinking": np.array([1, 2])}}, "contradict"),
        ({"chat": "no"}, "chat must be True, False or None, not 'no'"),
        ({"chat": 0}, "chat must be True, False or None, not 0"),
        ({"strategy": 5}, "strategy must be one of"),
        ({"strategy": np.array(["a", "b"])}, "strategy must be one of"),
        ({"max_tokens": Fraction(10**5000, 3)}, "whole number, not this Fraction"),
    ],
)
def test_options_of_other_types_are_refused(session: edgeskip.Session, options: dict[str, Any], complaint: str) -> None:
    """By hand."""
    with pytest.raises(EdgeSkipError, match=complaint):
        session.generate("a", **options)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"path": None}, "the artifact's name must be a text or a path, not NoneType"),
        ({"path": 5}, "must be a text or a path, not int"),
        ({"path": b"out"}, "must be a text or a path, not bytes"),
        ({"path": ""}, "an empty name"),
        ({"path": "a" * 5000}, "name too long: choose a shorter name"),
        ({"path": Path("a" * 5000)}, "name too long"),
        ({"path": "a\0b"}, "a character that no name can have"),
        ({"path": "a\ud800"}, "a character that no name can have"),
        ({"provider": None}, "the provider must be text, not NoneType"),
        ({"provider": 5}, "the provider must be text, not int"),
        ({"provider": ["cpu"]}, "the provider must be text, not list"),
        ({"threads": 10**5000}, "threads must be"),
    ],
)
def test_what_cannot_be_loaded_is_refused(tiny_artifact: TinyArtifact, options: dict[str, Any], complaint: str) -> None:
    """By hand: an EdgeSkipError of one line, short enough to be read."""
    with pytest.raises(EdgeSkipError, match=f"(?i){complaint}") as refused:
        edgeskip.load(**{"path": tiny_artifact.folder, "threads": 1} | options)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


def test_numpys_numbers_are_numbers(session: edgeskip.Session) -> None:
    """By hand: what a calculation hands out is taken."""
    drawn = Sampling(temperature=np.float32(1), top_k=np.int64(5), seed=np.uint32(3))
    made = session.generate([5], max_tokens=np.int16(4), stop=None, sampling=drawn)
    assert len(made.tokens) <= 4
    assert drawn == Sampling(temperature=1.0, top_k=5, seed=3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Sampling(temperature=float("nan")),
        lambda: Sampling(temperature="1"),  # type: ignore[arg-type]
        lambda: Sampling(temperature=True),
        lambda: Sampling(top_p=float("nan")),
        lambda: Sampling(top_p=float("inf")),
        lambda: Sampling(min_p=float("nan")),
        lambda: Sampling(top_k=2.5),  # type: ignore[arg-type]
        lambda: Sampling(seed=2.5),  # type: ignore[arg-type]
        lambda: Sampling(seed=True),
        lambda: Sampling(temperature=10**400),
        lambda: Speculation(num_speculations=10**5000),
        lambda: Speculation(num_speculations=2.5),  # type: ignore[arg-type]
        lambda: Speculation(confidence=float("nan")),
        lambda: Speculation(exit_layer="8"),  # type: ignore[arg-type]
        lambda: Online(window=2.5),  # type: ignore[arg-type]
        lambda: Online(threshold=float("nan")),
    ],
)
def test_policies_of_other_types_are_refused(make: Any) -> None:
    """By hand: an EdgeSkipError, neither a TypeError nor a policy that never fits."""
    with pytest.raises(EdgeSkipError):
        make()


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ({"role": "user", "content": "Hi"}, "list"),
        ([{"content": "Hi"}], "no role"),
        ([{"role": 5, "content": "Hi"}], "no role"),
        ([{"role": "user"}], "no content"),
        ([{"role": "user", "content": None}], "no content"),
        ([{"role": "user", "content": 5}], "int"),
        ([{"role": "user", "content": b"Hi"}], "bytes"),
        ([{"role": "user", "content": "Hi"}, "Hi"], "message 2 is str"),
        ([{"role": "user", "content": "Hi\udc80"}], "0x80"),
        ([{"role": "user", "content": "Hi", "extra": object()}], "as in JSON"),
        ([{"role": "user", "content": "Hi", 5: 1}], "keys must be text"),
        ([{"role": "user", "content": "Hi", "extra": Fraction(10**400)}], "message 1 holds a number above 1.8e"),
        ([{"role": "user", "content": "Hi", "extra": 10**5000}], "message 1 holds a number of thousands of digits"),
    ],
)
def test_what_is_no_message_is_refused(session: edgeskip.Session, messages: Any, complaint: str) -> None:
    """By hand."""
    with pytest.raises(EdgeSkipError, match=complaint):
        session.encode(messages)


def test_messages_may_have_what_templates_read() -> None:
    """By hand: parts, tool calls beside no content, and no reference to the caller's own lists."""
    given = [
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1.5}}}]},
    ]
    found = check_messages(given)
    assert found == given
    assert found[0]["content"] is not given[0]["content"]


@pytest.mark.parametrize("text", ["", "naïve 你好 🙂", "a\0b", "\U0010ffff"])
def test_text_is_text(text: str) -> None:
    """By hand: everything that UTF-8 can write."""
    assert check_text(text, "it") == text


@pytest.mark.parametrize("text", ["caf\udce9", "\ud83d", "\udc00x"])
def test_half_a_character_is_none(text: str) -> None:
    """By hand: a lone surrogate, which is also what Python makes of a byte that is not UTF-8."""
    with pytest.raises(EdgeSkipError, match="at character"):
        check_text(text, "it")
