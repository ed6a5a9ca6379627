"""What a task is: frozen descriptions that the runner carries out, and the record of one sample. No task is here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeskip.core.bounds import Amount, Count, Reading, Seconds
from edgeskip.core.plan import Label


@dataclass(frozen=True)
class Metric:
    """A number per sample, kept as it is in the log; `shown` of the samples' mean is what tables say."""

    name: str  # the key of a record's scores
    title: str
    scale: float = 1.0
    exponential: bool = False  # shown is exp of the mean: perplexity of nats per token
    higher_is_better: bool = True


@dataclass(frozen=True)
class EvalSample:
    """One prompt and what is right for it; `id` is its number in the file, from 0.

    `program`: for code, what is run after the prediction, else empty.
    """

    id: str
    prompt: str
    answers: tuple[str, ...]
    program: str = ""


Score = Callable[[str, EvalSample], dict[str, float]]


@dataclass(frozen=True)
class Task:
    """Prompts that the artifact answers greedily, and how an answer counts.

    `chat`: the prompt is the user's message where the model has a chat template; else it goes as it is. `stop` ends an
    answer before any of these texts. `protocol` is raised when prompt or score change, so that logs do not mix.
    """

    name: str
    files: tuple[str, ...]
    read: Callable[[Sequence[Path]], list[EvalSample]]
    chat: bool
    max_new_tokens: int
    metrics: tuple[Metric, ...]
    score: Score
    stop: tuple[str, ...] = ()
    protocol: int = 1


@dataclass(frozen=True)
class TextTask:
    """A text whose tokens the artifact predicts, window by window."""

    name: str
    files: tuple[str, ...]
    metrics: tuple[Metric, ...]
    protocol: int = 1


AnyTask = Task | TextTask


@dataclass(frozen=True)
class EvalRecord:
    """What one sample gave. Of a text's window: `tokens` are those predicted, and what generation tells is None.

    `prompt_tokens` were run; `cut_from` is how many the prompt had before its middle was taken out, None if it fits.
    `ttft_s` counts from the token ids; `decode_s` is the time after the first token, for `decode_tokens`. `gated` FFNs
    were left out online once the window was over, None if the strategy is another.
    """

    id: str
    label: Label
    scores: Mapping[str, Reading]
    tokens: Count
    prediction: str | None = None
    finish_reason: str | None = None
    prompt_tokens: Count | None = None
    cut_from: Count | None = None
    ttft_s: Seconds | None = None
    decode_s: Seconds | None = None
    decode_tokens: Count | None = None
    decode_tokens_per_s: Amount | None = None
    gated: Count | None = None


@dataclass(frozen=True)
class EvalSettings:
    """How tasks are run. `limit` samples of each, None = all; `windows` × `window_tokens` of a text.

    None for `max_new_tokens` = the task's own, for `max_prompt_tokens` = what the context leaves room for.
    """

    limit: int | None = 50
    strategy: str = "plain"
    exit_layer: int | None = None  # which exit drafts; None = as `edgeskip run` chooses
    max_new_tokens: int | None = None
    max_prompt_tokens: int | None = None
    windows: int = 6
    window_tokens: int = 1024
    provider: str = "cpu"
    threads: int | None = None
    chat_kwargs: Mapping[str, Any] = field(default_factory=dict)  # what the chat template is told
    reference: Path | None = None  # the dense artifact that divergence compares with
