"""`edgeskip.load`: open an artifact, a folder or a GGUF file, to generate, stream, and compute logits."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Unpack

import numpy as np
from numpy.typing import NDArray

from edgeskip.artifacts.gguf.manifest import GgufManifest
from edgeskip.artifacts.manifest import Manifest, OnlineRecord, PlanSummary
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.plan import Label
from edgeskip.core.plan_cost import PlanCost
from edgeskip.runtime.arguments import check_path, check_text, token_ids
from edgeskip.runtime.decoding.autoregressive import PlainDecoding
from edgeskip.runtime.decoding.handover import HandoverEngine, handover_decoding
from edgeskip.runtime.decoding.interface import Decoding
from edgeskip.runtime.decoding.online import online_decoding, open_gates
from edgeskip.runtime.engines.interface import DraftingEngine, Engine, OnlineEngine
from edgeskip.runtime.engines.prefill import all_logits, check_prompt
from edgeskip.runtime.generation import STRATEGIES, Generation, Strategy
from edgeskip.runtime.loader import open_artifact
from edgeskip.runtime.options import (
    AS_EXPORTED,
    AUTO,
    ChatConfig,
    ChatOptions,
    GenerationConfig,
    GenerationOptions,
    Prompt,
)
from edgeskip.runtime.prompts import encode_messages, encode_text
from edgeskip.runtime.sampling import TokenSampler
from edgeskip.runtime.speculation.speculator import DraftInfo, Speculator, drafts_of
from edgeskip.runtime.stream import TextStream


def load(path: str | os.PathLike[str], *, provider: str = "cpu", threads: int | None = None) -> Session:
    """Open an exported artifact or any GGUF file.

    Args:
        path: Artifact folder (runs with ONNX Runtime), `.gguf` file (runs with llama.cpp), or a folder that holds one
            GGUF file to run.
        provider: Processor to run on: `cpu`, `cuda`, … There is no silent fallback to another one.
        threads: Threads to compute with, at most four per logical processor; None = the physical cores that this
            process may use.

    Returns:
        A session. Close it, or use it in a `with` block, to free the model's memory.

    Raises:
        EdgeSkipError: If there is no artifact at `path`, it is damaged or differs from what its manifest lists, or the
            provider cannot be used.

    Example:
        >>> with edgeskip.load("artifact", threads=1) as session:
        ...     session.generate("Once upon a time", max_tokens=8).finish_reason
        'length'
    """
    return Session(path, provider=provider, threads=threads)


class Session:
    """An open artifact that runs one sequence at a time.

    A new generation ends an unfinished stream of the same session; iterating over that stream then raises
    `EdgeSkipError`. So does a call from another thread while one runs: load the artifact once per thread.

    Args:
        path: As for `load`.
        provider: As for `load`.
        threads: As for `load`.

    Raises:
        EdgeSkipError: As for `load`.

    Example:
        >>> session = edgeskip.load("artifact", threads=1)
        >>> for piece in session.stream("Once upon a time", max_tokens=4):
        ...     assert isinstance(piece, str)
        >>> session.close()
    """

    manifest: Manifest | GgufManifest | None
    """What EdgeSkip wrote about the artifact; None for a GGUF file from elsewhere."""
    plan: PlanSummary | None
    """What was skipped; None if `manifest` is."""
    cost: PlanCost | None
    """What the artifact gains and loses against the dense model; None if that was not measured."""
    online: OnlineRecord | None
    """How the artifact skips FFNs online; None if it has no gates."""
    label: Label
    """What this artifact's output must be called. A GGUF file from elsewhere is `dense`: EdgeSkip skipped nothing."""
    load_s: float
    """Seconds that opening the artifact took."""

    def __init__(self, path: str | os.PathLike[str], *, provider: str = "cpu", threads: int | None = None) -> None:
        begin = time.perf_counter()
        path = check_path(path, "the artifact's name")
        opened = open_artifact(path, provider=check_text(provider, "the provider"), threads=threads)
        self.tokenizer = opened.tokenizer
        self.chat_template = opened.chat_template
        self.end_tokens = opened.end_tokens
        self.manifest = opened.manifest
        self.plan = opened.plan
        self.cost = opened.manifest.cost if opened.manifest is not None else None
        self.online = opened.manifest.online if isinstance(opened.manifest, Manifest) else None
        self.label = opened.label
        self._engine: Engine | None = opened.engine
        drafting = opened.engine if isinstance(opened.engine, DraftingEngine) else None
        self._speculator = Speculator(opened.engine, drafting, drafts_of(opened.manifest) if drafting else ())
        self._stream: weakref.ref[TextStream] | None = None
        self._caller: dict[str, int] = {}  # "thread": the one that is in a call
        self._context_length = opened.engine.context_length
        self.load_s = time.perf_counter() - begin

    @property
    def engine(self) -> Engine:
        """The engine underneath, for custom decoding loops.

        Raises:
            EdgeSkipError: If the session is closed.
        """
        if self._engine is None:
            raise EdgeSkipError("this session is closed: load the artifact again")
        return self._engine

    @property
    def drafts(self) -> tuple[DraftInfo, ...]:
        """The artifact's own drafts, the cheapest first; () if only n-grams can draft."""
        return self._speculator.drafts

    @property
    def provider(self) -> str:
        """The processor that really runs, e.g. `cpu`."""
        return self.engine.provider

    @property
    def context_length(self) -> int:
        """Most tokens of prompt and answer together."""
        return self._context_length

    @property
    def default_strategy(self) -> Strategy:
        """How an answer is decoded if no strategy is given."""
        if self._speculator.drafts:
            return "speculative"
        return "online" if self.online is not None or isinstance(self._engine, HandoverEngine) else "plain"

    def encode(self, prompt: Prompt, **options: Unpack[ChatOptions]) -> NDArray[np.int64]:
        """Return the tokens of a prompt.

        Args:
            prompt: Text, messages (`[{"role": "user", "content": "…"}]`) or token ids.
            **options: How text becomes tokens; see `edgeskip.runtime.options.ChatOptions`.

        Keyword Args:
            chat (bool | None): Whether text is one user message for the chat template; None = if the model has one.
            system (str | None): System message before the prompt.
            chat_kwargs (Mapping[str, object] | None): Further variables of the chat template.
            enable_thinking (bool | None): The same for that one variable, which Qwen 3 and SmolLM3 read.

        Returns:
            Token ids int64 [n].

        Raises:
            EdgeSkipError: If an argument has a wrong type, the prompt is empty, the model has no chat template for
                messages, or the template does not read one of `chat_kwargs`.

        Example:
            >>> with edgeskip.load("artifact", threads=1) as session:
            ...     session.encode([5, 80, 33]).tolist()
            [5, 80, 33]
        """
        return self._encode(prompt, ChatConfig(**options))

    def generate(self, prompt: Prompt, **options: Unpack[GenerationOptions]) -> Generation:
        """Generate a whole answer.

        Args:
            prompt: Text, messages (`[{"role": "user", "content": "…"}]`) or token ids.
            **options: The same as for `stream`; see `edgeskip.runtime.options.GenerationOptions`.

        Returns:
            The text, its tokens, why it ended, and what it cost.

        Raises:
            EdgeSkipError: As for `stream`.

        Example:
            >>> with edgeskip.load("artifact", threads=1) as session:
            ...     generation = session.generate("Once upon a time", max_tokens=8)
            >>> len(generation.tokens)
            8
        """
        stream = self.stream(prompt, **options)
        for _ in stream:
            pass
        return stream.generation

    def stream(self, prompt: Prompt, **options: Unpack[GenerationOptions]) -> TextStream:
        """Generate an answer piece by piece.

        The first speculative call of a session measures what drafting costs on this device, which takes at most a
        second. That time is not part of the generation's statistics.

        Args:
            prompt: Text, messages (`[{"role": "user", "content": "…"}]`) or token ids.
            **options: See `edgeskip.runtime.options.GenerationOptions`.

        Keyword Args:
            chat (bool | None): Whether text is one user message for the chat template; None = if the model has one.
            system (str | None): System message before the prompt.
            chat_kwargs (Mapping[str, object] | None): Further variables of the chat template, as transformers'
                `apply_chat_template` takes them.
            enable_thinking (bool | None): The same for that one variable, which Qwen 3 and SmolLM3 read.
            sampling (Sampling): How tokens are chosen; greedy by default.
            max_tokens (int | None): Most tokens to generate; None = until an end token or a full context.
            stop (str | Sequence[str] | None): Texts that end the answer and are not part of it.
            strategy (Strategy | None): `plain`, `speculative` (the same tokens or distribution, by drafting and
                verifying), `draft-only` (the draft's own tokens, lossy), `online` (leaves out FFNs after watching a few
                tokens, lossy). None = speculative if the artifact has a draft or `speculation` is given, online if it
                has gates, else plain.
            speculation (Speculation): How drafts are made and verified.
            online (Online): How FFNs are left out.

        Returns:
            An iterator over pieces of text; its `generation` has the rest.

        Raises:
            EdgeSkipError: Before anything runs, if an argument has a wrong type, the prompt is empty or longer than
                the context, or the artifact does not contain the requested draft.

        Example:
            >>> with edgeskip.load("artifact", threads=1) as session:
            ...     stream = session.stream("Once upon a time", max_tokens=8)
            ...     text = "".join(stream)
            >>> text == stream.generation.text
            True
        """
        config = GenerationConfig(**options)
        engine = self.engine
        with self._exclusive():
            begin = time.perf_counter()
            tokens = self._encode(prompt, config)
            check_prompt(engine, tokens)
            encoded_s = time.perf_counter() - begin
            self._end_stream()
            sampler = TokenSampler(config.sampling)
            decoding = self._decoding(config, sampler)
            begin = time.perf_counter()
            stream = TextStream(
                engine,
                self.tokenizer,
                tokens,
                decoding=decoding,
                sampler=sampler,
                max_tokens=config.max_tokens,
                stop=config.stop or (),
                end_tokens=self.end_tokens,
                label=self._output_label(decoding.strategy, config),
                load_s=self.load_s,
                prepared_s=encoded_s + time.perf_counter() - begin,
                exclusive=self._exclusive,
            )
            self._stream = weakref.ref(stream)
        return stream

    def logits(self, tokens: Sequence[int] | NDArray[np.int64] | NDArray[np.int32]) -> NDArray[np.float32]:
        """Return the logits of every position of a sequence.

        Args:
            tokens: Token ids [n].

        Returns:
            Logits float32 [n, vocab_size]; row i is for the token that follows token i.

        Raises:
            EdgeSkipError: If these are not token ids of the model, or more than its context holds.

        Example:
            >>> with edgeskip.load("artifact", threads=1) as session:
            ...     session.logits([5, 80, 33]).shape[0]
            3
        """
        engine = self.engine
        ids = token_ids(tokens, engine.vocab_size)
        check_prompt(engine, ids)
        with self._exclusive():
            self._end_stream()
            engine.truncate(0)
            return all_logits(engine, ids)

    def close(self) -> None:
        """Free the model's memory; the session cannot be used afterwards. Closing it again does nothing."""
        if self._engine is None:
            return
        with self._exclusive():
            self._end_stream("this session was closed")
            engine, self._engine = self._engine, None  # first: after Ctrl-C half-freed memory must not be used
            engine.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _encode(self, prompt: Prompt, config: ChatConfig) -> NDArray[np.int64]:
        template, variables = self.chat_template, config.chat_kwargs
        if isinstance(prompt, str):
            ids = encode_text(
                self.tokenizer, template, prompt, chat=config.chat, system=config.system, chat_kwargs=variables
            )
            return self._in_vocabulary(ids)
        if isinstance(prompt, Mapping) and "role" in prompt:
            raise EdgeSkipError("this is a single message: pass a list of messages, [message]")
        if isinstance(prompt, list | tuple) and prompt and isinstance(prompt[0], Mapping):
            if config.chat is False:
                raise EdgeSkipError("messages need the chat template: drop chat=False, or pass text")
            ids = encode_messages(self.tokenizer, template, prompt, config.system, chat_kwargs=variables)
            return self._in_vocabulary(ids)
        if config.system is not None or config.chat or variables:
            raise EdgeSkipError("token ids go to the model as they are: pass text or messages to use the chat template")
        return token_ids(prompt, self.engine.vocab_size)

    def _in_vocabulary(self, ids: Sequence[int]) -> NDArray[np.int64]:
        """Return a text's ids int64 [n]; raises EdgeSkipError if the embedding has no row for one of them."""
        rows = self.engine.vocab_size
        if ids and max(ids) >= rows:
            raise EdgeSkipError(
                f"the prompt contains a token with id {max(ids)}, but the model's embedding ends at {rows - 1}: the "
                "model was not trained with this token of its tokenizer; remove it from the prompt"
            )
        return np.asarray(ids, dtype=np.int64)

    def _decoding(self, config: GenerationConfig, sampler: TokenSampler) -> Decoding:
        strategy, speculation, online = config.strategy, config.speculation, config.online
        implied: Strategy | None = "speculative" if speculation != AUTO else "online" if online != AS_EXPORTED else None
        if strategy is not None and not isinstance(strategy, str):
            raise EdgeSkipError(f"strategy must be one of {', '.join(STRATEGIES)}, not {type(strategy).__name__}")
        chosen = strategy or implied or self.default_strategy
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

    def _output_label(self, strategy: Strategy, config: GenerationConfig) -> Label:
        """Return what the output must be called. Verification by a lossy model keeps it lossy."""
        if strategy == "draft-only":
            return "draft-only"
        if strategy == "online" and config.online.gate:
            return "lossy-skip"
        return "verified" if strategy == "speculative" and self.label == "dense" else self.label

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Hold the session for one call; raises EdgeSkipError if another thread is in one, because there is one KV
        cache."""
        # An owner rather than a lock: after Ctrl-C, a lock left behind must not shut out the thread that holds it.
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
        """End the previous generation and undo its settings, even if Ctrl-C kept it from doing so itself."""
        stream = self._stream() if self._stream is not None else None
        if stream is not None:
            stream.end(why)
        self._stream = None
        if self.online is not None and isinstance(self._engine, OnlineEngine):
            open_gates(self._engine)
