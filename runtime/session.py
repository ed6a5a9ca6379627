"""`edgeskip.load`: an artifact folder opened for use. Generates, streams, and gives logits for tokens."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeskip.errors import EdgeSkipError
from edgeskip.manifest import Manifest, read_manifest
from edgeskip.plan import Label
from edgeskip.runtime.chat import Message, read_chat_template, token_text
from edgeskip.runtime.engines.onnxruntime_engine import OnnxRuntimeEngine
from edgeskip.runtime.generation import Generation
from edgeskip.runtime.loops import PREFILL_CHUNK, check_prompt
from edgeskip.runtime.sampling import Sampling
from edgeskip.runtime.stream import TextStream
from edgeskip.runtime.text import TextTokenizer

Prompt = str | Sequence[Message] | Sequence[int] | NDArray[np.int64]
GREEDY = Sampling()


def load(folder: str | Path, *, provider: str = "cpu", threads: int | None = None) -> Session:
    """Opens the artifact in `folder`.

    `provider` is the processor (`cpu`, `cuda`, …); one that cannot be used is an EdgeSkipError, never a fall-back.
    `threads` defaults to the physical cores this process may use.
    """
    return Session(Path(folder), provider=provider, threads=threads)


class Session:
    """One artifact and one sequence at a time; a new generation ends the one before. Not for use by several threads."""

    def __init__(self, folder: Path, *, provider: str = "cpu", threads: int | None = None) -> None:
        begin = time.perf_counter()
        self.manifest: Manifest = read_manifest(folder)
        self.tokenizer = TextTokenizer(folder)
        tokenizer_config = _read_json(folder / "tokenizer_config.json")
        self.chat_template = read_chat_template(folder, tokenizer_config)
        self.end_tokens = _end_tokens(folder, tokenizer_config, self.tokenizer)
        self._engine: OnnxRuntimeEngine | None = OnnxRuntimeEngine(
            folder, self.manifest, provider=provider, threads=threads
        )
        self._stream: TextStream | None = None
        self.load_s = time.perf_counter() - begin

    @property
    def label(self) -> Label:
        """What this artifact's output must be called: `dense` or `lossy-skip`."""
        return self.manifest.label

    @property
    def engine(self) -> OnnxRuntimeEngine:
        """The engine underneath, for loops of one's own; EdgeSkipError once the session is closed."""
        if self._engine is None:
            raise EdgeSkipError("this session is closed: load the artifact again")
        return self._engine

    @property
    def provider(self) -> str:
        """The provider that really runs."""
        return self.engine.provider

    @property
    def context_length(self) -> int:
        """Most tokens of prompt and answer together."""
        return self.manifest.graph.context_length

    def encode(self, prompt: Prompt, *, chat: bool | None = None, system: str | None = None) -> NDArray[np.int64]:
        """Token ids int64 [n] of a prompt, as `generate` understands it."""
        if not isinstance(prompt, str):
            items = list(prompt)
            if not items or not isinstance(items[0], dict):
                if system is not None or chat:
                    raise EdgeSkipError("token ids go to the model as they are: give text or messages for a chat")
                return np.asarray(items, dtype=np.int64)
            return self._encode_messages(items, system)
        if not prompt:
            raise EdgeSkipError("the prompt is empty: give some text")
        if chat is None:
            chat = self.chat_template is not None
        if chat:
            return self._encode_messages([{"role": "user", "content": prompt}], system)
        if system is not None:
            raise EdgeSkipError("a system message needs the chat template: leave --raw (chat=False) out")
        return np.asarray(self.tokenizer.encode(prompt, add_special_tokens=True), dtype=np.int64)

    def generate(
        self,
        prompt: Prompt,
        *,
        chat: bool | None = None,
        system: str | None = None,
        sampling: Sampling = GREEDY,
        max_tokens: int | None = None,
        stop: str | Sequence[str] = (),
    ) -> Generation:
        """Runs to the end and returns the whole generation; the parameters are those of `stream`."""
        stream = self.stream(prompt, chat=chat, system=system, sampling=sampling, max_tokens=max_tokens, stop=stop)
        for _ in stream:
            pass
        return stream.generation

    def stream(
        self,
        prompt: Prompt,
        *,
        chat: bool | None = None,
        system: str | None = None,
        sampling: Sampling = GREEDY,
        max_tokens: int | None = None,
        stop: str | Sequence[str] = (),
    ) -> TextStream:
        """Yields text as it is generated; the stream's `generation` has the rest.

        `prompt`: text, messages (`[{"role": "user", "content": "…"}]`) or token ids. Text is one user message when
        the model has a chat template, unless `chat=False`. `max_tokens` None = until an end token or a full context.
        EdgeSkipError, before anything runs, for an empty prompt or one longer than the context.
        """
        if max_tokens is not None and max_tokens < 1:
            raise EdgeSkipError(f"max_tokens must be at least 1, not {max_tokens}")
        engine = self.engine
        self._end_stream()
        begin = time.perf_counter()
        tokens = self.encode(prompt, chat=chat, system=system)
        check_prompt(engine, tokens)
        self._stream = TextStream(
            engine,
            self.tokenizer,
            tokens,
            sampling=sampling,
            max_tokens=max_tokens,
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            end_tokens=self.end_tokens,
            label=self.label,
            load_s=self.load_s,
            prepared_s=time.perf_counter() - begin,
        )
        return self._stream

    def logits(self, tokens: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits float32 [n, vocab_size] of every position of `tokens` [n], run as one sequence from its start."""
        engine = self.engine
        ids = np.asarray(tokens, dtype=np.int64)
        check_prompt(engine, ids)
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
        self._end_stream()
        self._engine = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _encode_messages(self, messages: Sequence[Message], system: str | None) -> NDArray[np.int64]:
        if self.chat_template is None:
            raise EdgeSkipError("this model has no chat template: pass the text with --raw (chat=False)")
        if not any(message.get("content") for message in messages):
            raise EdgeSkipError("the prompt is empty: give some text")
        if system is not None:
            messages = [{"role": "system", "content": system}, *messages]
        text = self.chat_template.render(messages)
        return np.asarray(self.tokenizer.encode(text, add_special_tokens=False), dtype=np.int64)

    def _end_stream(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object of the model's folder; {} where there is no such file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise EdgeSkipError(f"{path} is damaged (not JSON: {error}): export again") from None
    if not isinstance(content, dict):
        raise EdgeSkipError(f"{path} is damaged (not a JSON object): export again")
    return content


def _end_tokens(folder: Path, tokenizer_config: dict[str, Any], tokenizer: TextTokenizer) -> frozenset[int]:
    """Every token that ends a text, by generation_config.json, config.json or the tokenizer: models disagree."""
    ends: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        entry = _read_json(folder / name).get("eos_token_id")
        ends.update(token for token in (entry if isinstance(entry, list) else [entry]) if isinstance(token, int))
    eos = token_text(tokenizer_config.get("eos_token"))
    if eos is not None and (token := tokenizer.token_id(eos)) is not None:
        ends.add(token)
    return frozenset(ends)
