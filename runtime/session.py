"""`edgeskip.load`: an artifact opened for use, a folder or a GGUF file. Generates, streams, gives logits for tokens."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeskip.artifacts.gguf.manifest import GgufManifest
from edgeskip.artifacts.manifest import Manifest, OnlineRecord, PlanSummary
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.plan import Label
from edgeskip.core.plan_cost import PlanCost
from edgeskip.runtime.arguments import (
    check_chat_kwargs,
    check_choice,
    check_count,
    check_path,
    check_stop,
    check_text,
    token_ids,
)
from edgeskip.runtime.chat import Message
from edgeskip.runtime.decoding.autoregressive import PlainDecoding
from edgeskip.runtime.decoding.handover import HandoverEngine, handover_decoding
from edgeskip.runtime.decoding.interface import Decoding
from edgeskip.runtime.decoding.online import online_decoding, open_gates
from edgeskip.runtime.engines.interface import DraftingEngine, Engine, OnlineEngine
from edgeskip.runtime.engines.prefill import PREFILL_CHUNK, check_prompt
from edgeskip.runtime.generation import STRATEGIES, Generation, Strategy
from edgeskip.runtime.loader import open_artifact
from edgeskip.runtime.online import Online
from edgeskip.runtime.prompts import encode_messages, encode_text
from edgeskip.runtime.sampling import Sampling, TokenSampler
from edgeskip.runtime.speculation.policy import Speculation
from edgeskip.runtime.speculation.speculator import DraftInfo, Speculator, drafts_of
from edgeskip.runtime.stream import TextStream

Prompt = str | Sequence[Message] | Sequence[int] | NDArray[np.int64]
GREEDY = Sampling()
AUTO = Speculation()
AS_EXPORTED = Online()


def load(path: str | Path, *, provider: str = "cpu", threads: int | None = None) -> Session:
    """Open an exported artifact, a folder (ONNX Runtime) or a .gguf file (llama.cpp), or any other GGUF file.

    Args:
        path: The folder or file; a folder that holds one GGUF file to run stands for that file.
        provider: The processor: `cpu`, `cuda`, … There is no fall-back.
        threads: At most four for each logical processor; None = the physical cores that this process may use.

    Returns:
        A session; `close` it, or use it in a `with` block, to free the model's memory.

    Raises:
        EdgeSkipError: If there is no such artifact, it is damaged or not what its manifest lists, or the provider
            cannot be used.
    """
    return Session(path, provider=provider, threads=threads)


class Session:
    """One artifact and one sequence at a time.

    A new generation ends an unfinished stream of the same session; going on with that one is an EdgeSkipError. A call
    from another thread while one runs is refused, also with an EdgeSkipError: load the artifact once for each thread.
    """

    def __init__(self, path: str | Path, *, provider: str = "cpu", threads: int | None = None) -> None:
        begin = time.perf_counter()
        path = check_path(path, "the artifact's name")
        opened = open_artifact(path, provider=check_text(provider, "the provider"), threads=threads)
        self.tokenizer = opened.tokenizer
        self.chat_template = opened.chat_template
        self.end_tokens = opened.end_tokens
        self.manifest: Manifest | GgufManifest | None = opened.manifest
        """What EdgeSkip wrote about the artifact; None for a GGUF file it did not write."""
        self.plan: PlanSummary | None = opened.plan
        """What was skipped; None where `manifest` is."""
        self.cost: PlanCost | None = opened.manifest.cost if opened.manifest is not None else None
        """What the artifact loses against the dense model and gains; None if that was not measured."""
        self.online: OnlineRecord | None = opened.manifest.online if isinstance(opened.manifest, Manifest) else None
        """How the artifact skips FFNs online; None where it has no gates."""
        self.label: Label = opened.label
        """What this artifact's output must be called. A GGUF file of others is `dense`: we skipped nothing of it."""
        self._engine: Engine | None = opened.engine
        drafting = opened.engine if isinstance(opened.engine, DraftingEngine) else None
        self._speculator = Speculator(opened.engine, drafting, drafts_of(opened.manifest) if drafting else ())
        self._stream: weakref.ref[TextStream] | None = None
        self._caller: dict[str, int] = {}  # "thread": the one that is in a call
        self._context_length = opened.engine.context_length
        self.load_s = time.perf_counter() - begin

    @property
    def engine(self) -> Engine:
        """The engine underneath, for loops of one's own; EdgeSkipError once the session is closed."""
        if self._engine is None:
            raise EdgeSkipError("this session is closed: load the artifact again")
        return self._engine

    @property
    def drafts(self) -> tuple[DraftInfo, ...]:
        """What the artifact can draft with itself, the cheapest first; () where only n-grams can draft."""
        return self._speculator.drafts

    @property
    def provider(self) -> str:
        """The provider that really runs."""
        return self.engine.provider

    @property
    def context_length(self) -> int:
        """Most tokens of prompt and answer together."""
        return self._context_length

    def encode(
        self,
        prompt: Prompt,
        *,
        chat: bool | None = None,
        system: str | None = None,
        chat_kwargs: Mapping[str, object] | None = None,
        enable_thinking: bool | None = None,
    ) -> NDArray[np.int64]:
        """Return the token ids int64 [n] of a prompt; arguments and errors are those of `stream`."""
        chat = check_choice(chat, "chat")
        options = check_chat_kwargs(chat_kwargs)
        thinking = check_choice(enable_thinking, "enable_thinking")
        if thinking is not None and options.setdefault("enable_thinking", thinking) is not thinking:
            raise EdgeSkipError("enable_thinking and chat_kwargs contradict each other: give one of the two")
        if isinstance(prompt, str):
            ids = encode_text(self.tokenizer, self.chat_template, prompt, chat=chat, system=system, chat_kwargs=options)
            return self._with_rows(ids)
        if isinstance(prompt, Mapping) and "role" in prompt:
            raise EdgeSkipError("this is one message: give messages as a list, [message]")
        if isinstance(prompt, list | tuple) and prompt and isinstance(prompt[0], Mapping):
            if chat is False:
                raise EdgeSkipError("messages need the chat template: leave chat=False out, or give text")
            ids = encode_messages(self.tokenizer, self.chat_template, prompt, system, chat_kwargs=options)
            return self._with_rows(ids)
        if system is not None or chat or options:
            raise EdgeSkipError("token ids go to the model as they are: give text or messages for a chat")
        return token_ids(prompt, self.engine.vocab_size)

    def _with_rows(self, ids: Sequence[int]) -> NDArray[np.int64]:
        """Return a text's ids; EdgeSkipError if the embedding has no row for one."""
        rows = self.engine.vocab_size
        if ids and max(ids) >= rows:
            raise EdgeSkipError(
                f"the prompt has a token with id {max(ids)}, and the model's embedding ends at {rows - 1}: the "
                "tokenizer has tokens that the model was not trained with; leave them out of the prompt"
            )
        return np.asarray(ids, dtype=np.int64)

    def generate(
        self,
        prompt: Prompt,
        *,
        chat: bool | None = None,
        system: str | None = None,
        chat_kwargs: Mapping[str, object] | None = None,
        enable_thinking: bool | None = None,
        sampling: Sampling = GREEDY,
        max_tokens: int | None = None,
        stop: str | Sequence[str] | None = (),
        strategy: Strategy | None = None,
        speculation: Speculation = AUTO,
        online: Online = AS_EXPORTED,
    ) -> Generation:
        """Return the whole generation; arguments and errors are those of `stream`."""
        stream = self.stream(
            prompt,
            chat=chat,
            system=system,
            chat_kwargs=chat_kwargs,
            enable_thinking=enable_thinking,
            sampling=sampling,
            max_tokens=max_tokens,
            stop=stop,
            strategy=strategy,
            speculation=speculation,
            online=online,
        )
        for _ in stream:
            pass
        return stream.generation

    def stream(
        self,
        prompt: Prompt,
        *,
        chat: bool | None = None,
        system: str | None = None,
        chat_kwargs: Mapping[str, object] | None = None,
        enable_thinking: bool | None = None,
        sampling: Sampling = GREEDY,
        max_tokens: int | None = None,
        stop: str | Sequence[str] | None = (),
        strategy: Strategy | None = None,
        speculation: Speculation = AUTO,
        online: Online = AS_EXPORTED,
    ) -> TextStream:
        """Generate text piece by piece.

        The first speculative call of a session measures what drafting costs here, a second at most, before the clock
        starts.

        Args:
            prompt: Text, messages (`[{"role": "user", "content": "…"}]`) or token ids.
            chat: Whether text is one user message for the chat template; None = if the model has one.
            system: A system message before the prompt.
            chat_kwargs: What the chat template knows besides the messages, `{"enable_thinking": False}`, as
                transformers' `apply_chat_template` takes it; a name that the template does not read is refused.
            enable_thinking: The same for that one name, which Qwen 3 and SmolLM3 read.
            sampling: How a token is chosen; greedy by default.
            max_tokens: None = until an end token or a full context.
            stop: Texts that end the answer; they are not part of it.
            strategy: `plain`; `speculative`, which gives the same tokens (or, sampling, the same distribution) by
                drafting and verifying; `draft-only`, the draft's own tokens, lossy; `online`, which leaves out FFNs
                once it has watched a few tokens, lossy. None = speculative if the artifact has a draft or
                `speculation` asks for something, online if it has gates, else plain.
            speculation: How drafts are made and verified.
            online: How FFNs are left out.

        Returns:
            An iterator over pieces of text; its `generation` has the rest.

        Raises:
            EdgeSkipError: Before anything runs, if an argument is of a wrong kind, the prompt is empty or longer than
                the context, or the artifact does not contain the requested draft.
        """
        if max_tokens is not None:
            max_tokens = check_count(max_tokens, "max_tokens", least=1)
        for name, value, kind in (
            ("sampling", sampling, Sampling),
            ("speculation", speculation, Speculation),
            ("online", online, Online),
        ):
            if not isinstance(value, kind):
                raise EdgeSkipError(f"{name} must be an edgeskip.{kind.__name__}, not {type(value).__name__}")
        stops = check_stop(stop)
        engine = self.engine
        with self._alone():
            begin = time.perf_counter()
            tokens = self.encode(
                prompt, chat=chat, system=system, chat_kwargs=chat_kwargs, enable_thinking=enable_thinking
            )
            check_prompt(engine, tokens)
            encoded_s = time.perf_counter() - begin
            self._end_stream()
            sampler = TokenSampler(sampling)
            decoding = self._decoding(strategy, speculation, online, sampler)
            begin = time.perf_counter()
            stream = TextStream(
                engine,
                self.tokenizer,
                tokens,
                decoding=decoding,
                sampler=sampler,
                max_tokens=max_tokens,
                stop=stops,
                end_tokens=self.end_tokens,
                label=self._label_of(decoding.strategy, online),
                load_s=self.load_s,
                prepared_s=encoded_s + time.perf_counter() - begin,
                alone=self._alone,
            )
            self._stream = weakref.ref(stream)
        return stream

    def logits(self, tokens: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the logits float32 [n, vocab_size] of every position of `tokens` [n], run as one sequence.

        Raises:
            EdgeSkipError: If these are not token ids of the model, or more than its context.
        """
        engine = self.engine
        ids = token_ids(tokens, engine.vocab_size)
        check_prompt(engine, ids)
        with self._alone():
            self._end_stream()
            engine.truncate(0)
            engine.reserve(len(ids))
            result = np.empty((len(ids), engine.vocab_size), np.float32)
            for start in range(0, len(ids), PREFILL_CHUNK):
                end = min(start + PREFILL_CHUNK, len(ids))
                result[start:end] = engine.step(ids[start:end], logits=0)
        return result

    def close(self) -> None:
        """Frees the model's memory; the session cannot be used afterwards."""
        if self._engine is None:
            return
        with self._alone():
            self._end_stream("this session was closed")
            engine, self._engine = self._engine, None  # first: after Ctrl-C half-freed memory must not be used
            engine.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def _goes_online(self) -> bool:
        return self.online is not None or isinstance(self._engine, HandoverEngine)

    @property
    def default_strategy(self) -> Strategy:
        """What an answer is decoded by where nothing is asked for."""
        return "speculative" if self._speculator.drafts else "online" if self._goes_online else "plain"

    def _decoding(
        self, strategy: Strategy | None, speculation: Speculation, online: Online, sampler: TokenSampler
    ) -> Decoding:
        asked: Strategy | None = "speculative" if speculation != AUTO else "online" if online != AS_EXPORTED else None
        if strategy is not None and not isinstance(strategy, str):
            raise EdgeSkipError(f"strategy must be one of {', '.join(STRATEGIES)}, not {type(strategy).__name__}")
        chosen = strategy or asked or self.default_strategy
        match chosen:
            case "plain":
                return PlainDecoding(self.engine)
            case "speculative":
                return self._speculator.decoding(speculation, sampler)
            case "draft-only":
                return self._speculator.draft_only(speculation)
            case "online":
                if isinstance(self.manifest, GgufManifest):
                    return handover_decoding(self.engine, online, self.manifest)
                return online_decoding(self.engine, online, self.online)
        raise EdgeSkipError(f"strategy {chosen} is unknown: choose one of {', '.join(STRATEGIES)}")

    def _label_of(self, strategy: Strategy, online: Online) -> Label:
        """A lossy artifact's output stays lossy when it is verified: by the lossy model."""
        if strategy == "draft-only":
            return "draft-only"
        if strategy == "online" and online.gate:
            return "lossy-skip"
        return "verified" if strategy == "speculative" and self.label == "dense" else self.label

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the session for one call; EdgeSkipError if another thread is in one, since there is one KV cache."""
        # An owner and not a lock: one that Ctrl-C left behind must not shut out the thread that it belongs to.
        me = threading.get_ident()
        if self._caller.setdefault("thread", me) != me:
            raise EdgeSkipError(
                "this session is in use by another thread: wait until it is done, or load the artifact once per thread"
            )
        try:
            yield
        finally:
            self._caller.pop("thread", None)

    def _end_stream(self, why: str = "a newer call of the same session has begun") -> None:
        """End the generation before; what it set up for itself is undone even if Ctrl-C kept it from doing so."""
        stream = self._stream() if self._stream is not None else None
        if stream is not None:
            stream.end(why)
        self._stream = None
        if self.online is not None and isinstance(self._engine, OnlineEngine):
            open_gates(self._engine)
