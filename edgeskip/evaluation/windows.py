"""A text's windows through sessions: perplexity of one artifact, divergence of one from another. One record a window.

Windows lie end to end from the text's start, each a sequence of its own; its first token is not predicted.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.text_files import read_text_file
from edgeskip.evaluation.perplexity import cut_windows, divergence, negative_log_likelihood
from edgeskip.evaluation.task import EvalRecord, EvalSettings

if TYPE_CHECKING:
    from edgeskip.runtime.session import Session

Tokens = NDArray[np.int64]


def read_text(path: Path) -> str:
    """Raise EdgeSkipError if the file is not UTF-8."""
    return read_text_file(path)


def text_windows(session: Session, text: str, settings: EvalSettings) -> dict[str, Tokens]:
    """Return the windows by an id that has their tokens in it: another tokenizer's are not the same windows."""
    if settings.window_tokens > session.context_length:
        raise EdgeSkipError(
            f"windows of {settings.window_tokens} tokens do not fit into a context of {session.context_length}: "
            "give fewer --window-tokens"
        )
    ids = session.tokenizer.encode(text, add_special_tokens=False)
    windows = cut_windows(ids, settings.windows, settings.window_tokens)
    return {f"{number}-{hashlib.sha256(one.tobytes()).hexdigest()[:8]}": one for number, one in enumerate(windows)}


def perplexity_record(session: Session, name: str, window: Tokens) -> EvalRecord:
    """Nats per predicted token."""
    predicted = len(window) - 1
    nats = negative_log_likelihood(session.logits(window), window) / predicted
    return EvalRecord(name, session.label, {"nats": _finite(nats, name)}, tokens=predicted)


def divergence_record(session: Session, reference: Session, name: str, window: Tokens) -> EvalRecord:
    """Over the rows that perplexity counts. Both sessions' logits are held for this window only."""
    ours, theirs = session.logits(window)[:-1], reference.logits(window)[:-1]
    nats, agreeing = divergence(theirs, ours)
    scores = {"kl": _finite(nats / len(ours), name), "agreement": agreeing / len(ours)}
    return EvalRecord(name, session.label, scores, tokens=len(ours))


def _finite(nats: float, window: str) -> float:
    if not math.isfinite(nats):
        raise EdgeSkipError(f"window {window} has logits that are no numbers, so it has no score: export again")
    return nats


def check_reference(session: Session, reference: Session, text: str) -> None:
    """Raise EdgeSkipError if the reference is not dense, or its tokens do not mean what the artifact's mean."""
    if reference.label != "dense":
        raise EdgeSkipError(f"--reference is {reference.label}: divergence is measured from a dense artifact")
    sizes = session.engine.vocab_size, reference.engine.vocab_size
    probe = text[:20_000]
    ours, theirs = (one.tokenizer.encode(probe, add_special_tokens=False) for one in (session, reference))
    if sizes[0] != sizes[1] or ours != theirs:
        raise EdgeSkipError(
            f"--reference has another vocabulary ({sizes[1]} tokens, the artifact {sizes[0]}) or tokenizer: "
            "choose the dense artifact of the same model"
        )
