"""Autoregressive decoding: one token per step, over any engine."""

from __future__ import annotations

from collections.abc import Generator

from edgeskip.runtime.decoding.interface import DecodeRequest, Decoding
from edgeskip.runtime.engines.interface import Engine
from edgeskip.runtime.generation import FinishReason


def decode(engine: Engine, request: DecodeRequest) -> Generator[int, None, FinishReason]:
    """Decode with every step by `engine`; see `Decoding.decode`."""
    logits, history, sampler = request.logits, request.history, request.sampler
    max_tokens, end_tokens = request.max_tokens, request.end_tokens
    count = 0
    while True:
        token = sampler.pick(logits, history.tokens)
        if token in end_tokens:
            return "eos"
        history.append(token)
        count += 1
        yield token
        if count == max_tokens or engine.length == engine.context_length:
            return "length"
        logits = engine.step(history.last)[0]


class PlainDecoding(Decoding):
    """Every token by the whole artifact, one per step."""

    strategy = "plain"

    def decode(self, request: DecodeRequest) -> Generator[int, None, FinishReason]:
        return decode(self._engine, request)
