"""The keyword arguments of a session's methods: declared once for type checkers, checked once before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.arguments import check_chat_kwargs, check_choice, check_count, check_stop
from edgeskip.runtime.chat import Message
from edgeskip.runtime.generation import Strategy
from edgeskip.runtime.online import Online
from edgeskip.runtime.sampling import Sampling
from edgeskip.runtime.speculation.policy import Speculation

Prompt = str | Sequence[Message] | Sequence[int] | NDArray[np.int64] | NDArray[np.int32]
"""Text, messages (`[{"role": "user", "content": "…"}]`) or token ids."""

GREEDY = Sampling()
AUTO = Speculation()
AS_EXPORTED = Online()


class ChatOptions(TypedDict, total=False):
    """Keyword arguments of `Session.encode`: how a prompt becomes tokens."""

    chat: bool | None
    """Whether text is one user message for the chat template; None (the default) = if the model has a template."""
    system: str | None
    """System message before the prompt; None (the default) = none."""
    chat_kwargs: Mapping[str, object] | None
    """Further variables of the chat template, e.g. `{"enable_thinking": False}`, as transformers'
    `apply_chat_template` takes them. A name that the template does not read is an error."""
    enable_thinking: bool | None
    """The same for that one variable, which Qwen 3 and SmolLM3 read; None (the default) = the template's own."""


class GenerationOptions(ChatOptions, total=False):
    """Keyword arguments of `Session.generate` and `Session.stream`."""

    sampling: Sampling
    """How tokens are chosen; greedy by default."""
    max_tokens: int | None
    """Most tokens to generate; None (the default) = until an end token or a full context."""
    stop: str | Sequence[str] | None
    """One or several texts that end the answer and are not part of it; none by default."""
    strategy: Strategy | None
    """`plain`: one token per step. `speculative`: draft and verify; gives the same tokens (if sampling, the same
    distribution). `draft-only`: the draft's own tokens, lossy. `online`: leave out FFNs after watching a few tokens,
    lossy. None (the default) = speculative if the artifact has a draft or `speculation` is given, online if it has
    gates, else plain."""
    speculation: Speculation
    """How drafts are made and verified; chosen from measurements by default."""
    online: Online
    """How FFNs are left out; as the artifact was exported by default."""


@dataclass(frozen=True, kw_only=True)
class ChatConfig:
    """Checked `ChatOptions`, with their defaults.

    Raises:
        EdgeSkipError: If an option has a wrong type, or `enable_thinking` contradicts `chat_kwargs`.
    """

    chat: bool | None = None
    system: str | None = None
    chat_kwargs: Mapping[str, object] | None = None
    enable_thinking: bool | None = None

    def __post_init__(self) -> None:
        variables = check_chat_kwargs(self.chat_kwargs)
        thinking = check_choice(self.enable_thinking, "enable_thinking")
        if thinking is not None and variables.setdefault("enable_thinking", thinking) is not thinking:
            raise EdgeSkipError("enable_thinking and chat_kwargs contradict each other: give one of the two")
        object.__setattr__(self, "chat", check_choice(self.chat, "chat"))
        object.__setattr__(self, "chat_kwargs", variables)


@dataclass(frozen=True, kw_only=True)
class GenerationConfig(ChatConfig):
    """Checked `GenerationOptions`, with their defaults; `stop` is a tuple.

    Raises:
        EdgeSkipError: If an option has a wrong type or value.
    """

    sampling: Sampling = GREEDY
    max_tokens: int | None = None
    stop: str | Sequence[str] | None = ()
    strategy: Strategy | None = None
    speculation: Speculation = AUTO
    online: Online = AS_EXPORTED

    def __post_init__(self) -> None:
        if self.max_tokens is not None:
            object.__setattr__(self, "max_tokens", check_count(self.max_tokens, "max_tokens", least=1))
        policies: tuple[tuple[str, object, type], ...] = (
            ("sampling", self.sampling, Sampling),
            ("speculation", self.speculation, Speculation),
            ("online", self.online, Online),
        )
        for name, value, kind in policies:
            if not isinstance(value, kind):
                raise EdgeSkipError(f"{name} must be an edgeskip.{kind.__name__}, not {type(value).__name__}")
        object.__setattr__(self, "stop", check_stop(self.stop))
        super().__post_init__()
