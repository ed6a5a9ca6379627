"""One generation in progress: an iterator over pieces of text, made of decoding, sampler, detokenizer and clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext

import numpy as np
from numpy.typing import NDArray

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.plan import Label
from edgeskip.runtime.decoding.interface import DecodeRequest, Decoding, History
from edgeskip.runtime.detokenizer import StopStrings, TextDecoder, Tokenizer
from edgeskip.runtime.engines.interface import Engine
from edgeskip.runtime.generation import FinishReason, Generation, GenerationStats, peak_rss_bytes
from edgeskip.runtime.sampling import TokenSampler

# Size of the KV cache if no max_tokens limits the text; beyond it, the cache doubles.
RESERVED_TOKENS = 512


class Piece(str):
    """A piece of text, a `str`."""

    drafted: bool
    """Whether the token that completed it came from a draft."""

    def __new__(cls, text: str, *, drafted: bool) -> Piece:
        piece = super().__new__(cls, text)
        piece.drafted = drafted
        return piece


class TextStream(Iterator[Piece]):
    """An answer in progress: iterate over it for pieces of text; `generation` is complete after the last one.

    Example:
        >>> with edgeskip.load("artifact", threads=1) as session:
        ...     stream = session.stream("Once upon a time", max_tokens=4)
        ...     pieces = list(stream)
        >>> stream.generation.finish_reason
        'length'
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        prompt: NDArray[np.int64],
        *,
        decoding: Decoding,
        sampler: TokenSampler,
        max_tokens: int | None,
        stop: Sequence[str],
        end_tokens: frozenset[int],
        label: Label,
        load_s: float,
        prepared_s: float,
        exclusive: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._engine = engine
        self._history = History(prompt)
        self.prompt = prompt
        """Token ids int64 [n] of the prompt."""
        self._max_tokens = max_tokens
        self._end_tokens = end_tokens
        self._decoding, self._sampler = decoding, sampler
        self._decoder = TextDecoder(tokenizer, prompt[-1:].tolist())
        self._stops = StopStrings(stop)
        self._label = label
        self._load_s = load_s

        self._text: list[str] = []
        self._finish_reason: FinishReason = "interrupted"
        # `active_s` counts seconds inside this object only (and those spent preparing the prompt).
        self._active_s = prepared_s
        self._resumed = 0.0
        self._prefill_s = self._ttft_s = self._run_s_before_decode = 0.0
        self._arrivals: list[float] = []
        self._pieces = self._run()
        self._exclusive = exclusive
        self._over = False
        self._ended_because: str | None = None

    def __next__(self) -> Piece:
        if self._ended_because is not None:
            raise EdgeSkipError(f"this stream was ended before its text was complete: {self._ended_because}")
        if self._over:
            raise StopIteration
        with self._exclusive():
            self._refuse_within()
            self._resumed = time.perf_counter()
            try:
                return next(self._pieces)
            except StopIteration:
                self._over = True
                raise
            finally:
                self._active_s += time.perf_counter() - self._resumed

    def close(self) -> None:
        """End the generation; `generation.finish_reason` stays "interrupted" unless it had ended.

        Closing it again, or after it has ended, does nothing. EdgeSkipError while another thread iterates over it.
        """
        if not self._over and self._ended_because is None:
            with self._exclusive():
                self._refuse_within()
                self._over = True
                self._pieces.close()

    def end(self, why: str) -> None:
        """End an unfinished generation in favor of another: iterating further raises an EdgeSkipError with `why`.

        For the session, which holds the engine during the call.
        """
        if not self._over and self._ended_because is None:
            self._refuse_within()
            self._ended_because = why
            self._pieces.close()

    def _refuse_within(self) -> None:
        if getattr(self._pieces, "gi_running", False):  # a signal handler, in the middle of a step
            raise EdgeSkipError("this stream is computing its next token: wait until it is done")

    @property
    def arrivals_s(self) -> tuple[float, ...]:
        """Seconds from the request to each token; the tokens of one accepted draft arrive together."""
        return tuple(self._arrivals)

    @property
    def generation(self) -> Generation:
        """The generation so far; its `finish_reason` is "interrupted" until the iterator is exhausted."""
        tokens = tuple(self._history.generated.tolist())
        # Tokens decoded after the prefill gave the first one; an end token was decoded too.
        steps = max(0, len(tokens) - (self._finish_reason != "eos"))
        decode_s = self._active_s - self._ttft_s if self._ttft_s else 0.0
        run_s = self._engine.run_s - self._run_s_before_decode if self._ttft_s else 0.0
        tokens_per_s = steps / decode_s if steps and decode_s else 0.0
        return Generation(
            text="".join(self._text),
            tokens=tokens,
            finish_reason=self._finish_reason,
            label=self._label,
            strategy=self._decoding.strategy,
            engine=self._engine.name,
            provider=self._engine.provider,
            stats=GenerationStats(
                prompt_tokens=len(self.prompt),
                generated_tokens=len(tokens),
                load_s=self._load_s,
                ttft_s=self._ttft_s,
                prefill_s=self._prefill_s,
                prefill_tokens_per_s=len(self.prompt) / self._prefill_s if self._prefill_s else 0.0,
                decode_s=decode_s,
                decode_tokens_per_s=tokens_per_s,
                python_share=max(0.0, 1 - run_s / decode_s) if steps and decode_s else 0.0,
                threads=self._engine.threads,
                peak_rss_bytes=peak_rss_bytes(),
                speculation=self._decoding.speculation(decode_s, tokens_per_s),
                online=self._decoding.online(),
            ),
            drafted=tuple(self._history.drafted),
        )

    def _run(self) -> Generator[Piece, None, None]:
        with closing(self._tokens()) as tokens:  # at once: decoding may have changed settings of the engine
            for token in tokens:
                if not self._ttft_s:
                    self._first_token_known()
                self._arrivals.append(self._active_s + time.perf_counter() - self._resumed)
                shown = self._stops.push(self._decoder.push(token))
                if shown:
                    self._text.append(shown)
                    yield Piece(shown, drafted=self._history.drafted[-1])
                if self._stops.found:
                    self._finish_reason = "stop"
                    return
        if not self._ttft_s:  # the first token was an end token
            self._first_token_known()
        held = self._stops.finish()
        if held:
            self._text.append(held)
            yield Piece(held, drafted=bool(self._history.drafted) and self._history.drafted[-1])

    def _tokens(self) -> Generator[int, None, None]:
        engine, prompt = self._engine, self._history.tokens
        engine.truncate(0)
        engine.reserve(min(engine.context_length, len(prompt) + (self._max_tokens or RESERVED_TOKENS)))
        begin = time.perf_counter()
        logits = self._decoding.prefill(prompt)
        self._prefill_s = time.perf_counter() - begin
        self._finish_reason = yield from self._decoding.decode(
            DecodeRequest(logits, self._history, self._sampler, self._max_tokens, self._end_tokens)
        )

    def _first_token_known(self) -> None:
        self._ttft_s = self._active_s + time.perf_counter() - self._resumed
        self._run_s_before_decode = self._engine.run_s
