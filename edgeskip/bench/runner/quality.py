"""The quality of an artifact: perplexity on a text, and how far its predictions are from another artifact's.

Measured with the runtime itself on the CPU, which gives every position's logits; speed does not matter here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeskip.bench.schema import QualityResult, Record
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.metrics import kl_divergence, log_softmax
from edgeskip.core.text_files import read_text_file


class QualityRequest(Record):
    """`reference` None: perplexity alone. Windows follow each other; the last one's rest is left out."""

    path: str
    text: str
    reference: str | None = None
    reference_name: str | None = None
    threads: int = 1
    window: int = 512
    windows: int = 2


def measure_quality(request: QualityRequest, progress: Callable[[str], None]) -> QualityResult:
    """Measure up to `windows` × `window` tokens of the text. Raises EdgeSkipError if it is too short."""
    from edgeskip.runtime.session import load

    text = read_text_file(Path(request.text))
    losses: list[NDArray[np.float64]] = []
    kl: list[NDArray[np.float64]] = []
    agree: list[NDArray[np.bool_]] = []
    with load(request.path, provider="cpu", threads=request.threads) as session:
        tokens = session.encode(text, chat=False)[: request.window * request.windows]
        if len(tokens) < 2:
            raise EdgeSkipError(f"{request.text} is too short to measure quality on; give a longer text")
        other = None
        try:
            if request.reference is not None:
                other = load(request.reference, provider="cpu", threads=request.threads)
                if other.engine.vocab_size != session.engine.vocab_size:
                    raise EdgeSkipError(f"{request.reference} has another vocabulary; choose another --baseline")
            for number, window in enumerate(_windows(tokens, request.window)):
                progress(f"quality, window {number + 1}")
                here = log_softmax(session.logits(window)[:-1])
                losses.append(-here[np.arange(len(here)), window[1:]].astype(np.float64))
                if other is not None:
                    there = log_softmax(other.logits(window)[:-1])
                    kl.append(kl_divergence(there, here))
                    agree.append(there.argmax(axis=1) == here.argmax(axis=1))
        finally:
            if other is not None:
                other.close()
    return QualityResult(
        text=Path(request.text).name,
        tokens=sum(map(len, losses)),
        window=min(request.window, len(tokens)),
        perplexity=float(np.exp(np.concatenate(losses).mean())),
        reference=request.reference_name if kl else None,
        kl_divergence=max(0.0, float(np.concatenate(kl).mean())) if kl else None,
        top1_agreement=float(np.concatenate(agree).mean()) if agree else None,
    )


def _windows(tokens: NDArray[np.int64], window: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(tokens), window):
        part = tokens[start : start + window]
        if len(part) > 1 and (len(part) == window or start == 0):
            yield part
