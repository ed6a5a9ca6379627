"""A task's samples through a session: the prompt in token ids, cut in its middle if it is too long; the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeskip.core.errors import EdgeSkipError
from edgeskip.evaluation.task import EvalRecord, EvalSample, EvalSettings, Task
from edgeskip.runtime.speculation.policy import Speculation

if TYPE_CHECKING:
    from edgeskip.runtime.session import Session


def cut_middle(ids: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """At most `most` ids: the first half and the last half, as LongBench and AdaSkip cut; an odd one is left out."""
    if len(ids) <= most:
        return ids
    half = most // 2
    return np.concatenate([ids[:half], ids[len(ids) - half :]])


def prompt_room(context_length: int, task: Task, settings: EvalSettings) -> int:
    """Most tokens of a prompt; raises EdgeSkipError if the answer leaves it no room."""
    new = settings.max_new_tokens or task.max_new_tokens
    room = context_length - new
    if room < 2:
        raise EdgeSkipError(
            f"{task.name}: {new} new tokens leave no room in a context of {context_length}: give fewer --max-new-tokens"
        )
    return min(room, settings.max_prompt_tokens or room)


def answer(session: Session, task: Task, sample: EvalSample, settings: EvalSettings) -> EvalRecord:
    """Return the greedy answer to one sample, scored.

    What is cut is the whole prompt, chat template included: its ends, and with them the template, stay.
    """
    chat = task.chat and session.chat_template is not None
    if settings.chat_kwargs and task.chat and not chat:
        raise EdgeSkipError("--chat-option needs a chat template, and this artifact has none; leave it out")
    options: dict[str, Any] = {"chat_kwargs": settings.chat_kwargs} if chat and settings.chat_kwargs else {}
    whole = session.encode(sample.prompt, chat=chat, **options)
    layer = settings.exit_layer
    drafts: dict[str, Any] = {} if layer is None else {"speculation": Speculation(exit_layer=layer)}
    ids = cut_middle(whole, prompt_room(session.context_length, task, settings))
    generation = session.generate(
        ids,
        max_tokens=settings.max_new_tokens or task.max_new_tokens,
        stop=task.stop,
        strategy=settings.strategy,  # type: ignore[arg-type]  # checked there
        **drafts,
    )
    stats = generation.stats
    return EvalRecord(
        id=sample.id,
        label=generation.label,
        scores=task.score(generation.text, sample),
        tokens=len(generation.tokens),
        prediction=generation.text,
        finish_reason=generation.finish_reason,
        prompt_tokens=len(ids),
        cut_from=len(whole) if len(whole) > len(ids) else None,
        ttft_s=stats.ttft_s,
        decode_s=stats.decode_s,
        decode_tokens=round(stats.decode_s * stats.decode_tokens_per_s),
        decode_tokens_per_s=stats.decode_tokens_per_s,
        gated=None if stats.online is None else len(stats.online.gated),
    )
