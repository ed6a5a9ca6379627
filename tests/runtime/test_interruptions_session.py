"""Ctrl-C at every line of a session's code, its streams, its drafting, its gates; then the same session again. Oracles:
the numpy layer of the tiny artifact; for gates, the artifact decoded plainly by a session nobody interrupted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from interruptions import Played, check_every_interruption
from test_online import PROMPT, folder  # noqa: F401 - a fixture
from tiny_graph import TinyArtifact

import edgeskip
from edgeskip import Session, Speculation

TOKENS = [40, 50, 60, 70, 50, 60, 70, 40, 50]


def tokens_of(session: Session, **options: object) -> np.ndarray:
    generation = session.generate(TOKENS, max_tokens=6, **options)  # type: ignore[arg-type]
    return np.array(generation.tokens, np.float32)


def play(session: Session) -> Played:
    return [tokens_of(session), tokens_of(session, strategy="speculative", speculation=Speculation("ngram", 2))]


def test_plain_and_by_n_grams(tiny_artifact: TinyArtifact) -> None:
    """Oracle: numpy. Costs are measured within, once a session."""
    wanted = np.array(tiny_artifact.greedy(TOKENS, 6), np.float32)
    check_every_interruption(
        lambda: edgeskip.load(tiny_artifact.folder, threads=1), play, oracle=[wanted, wanted], often=1, step=2
    )


def test_gates_do_not_stay_shut(folder: Path) -> None:  # noqa: F811
    """Interrupted online, asked plainly: no FFN may be left out."""
    with edgeskip.load(folder, threads=1) as session:
        wanted = np.array(session.generate(PROMPT, max_tokens=8, strategy="plain").tokens, np.float32)
    interrupted: list[Session] = []

    def online_first(session: Session) -> Played:
        if session not in interrupted:
            interrupted.append(session)
            session.generate(PROMPT, max_tokens=8, strategy="online")
        return [np.array(session.generate(PROMPT, max_tokens=8, strategy="plain").tokens, np.float32)]

    check_every_interruption(lambda: edgeskip.load(folder, threads=1), online_first, oracle=[wanted], often=1, step=4)


@pytest.mark.slow
def test_plain_and_by_n_grams_at_every_line(tiny_artifact: TinyArtifact) -> None:
    wanted = np.array(tiny_artifact.greedy(TOKENS, 6), np.float32)
    check_every_interruption(
        lambda: edgeskip.load(tiny_artifact.folder, threads=1), play, oracle=[wanted, wanted], often=3
    )
