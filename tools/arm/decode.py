"""What runs on both machines: an artifact decodes a prompt; tokens, logits and, if they are counted, instructions.

    python decode.py < TASKS > ANSWERS      JSON lists of Task and of Decoded

Knows nothing of the emulator: marks (see count_instructions.c) are system calls that fail anywhere. One thread.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, TypeAdapter

FIRST_MARK = 0x7E500000
MARKS_A_TASK = 256  # two for each step


class Task(BaseModel):
    """`forced`: the tokens that logits follow, None = those decoded here. `first_mark` None = nothing is counted.

    `logits`: where float32 [prompt + forced, vocab_size] are saved: the prompt's in one step, then one token a step.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path
    prompt: str
    new_tokens: int
    logits: Path
    forced: tuple[int, ...] | None = None
    first_mark: int | None = None
    num_speculations: int = 3


class Decoded(BaseModel):
    """Greedy tokens of each strategy; `speculative` is None if the artifact has no draft."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    machine: str
    onnxruntime: str
    prompt: tuple[int, ...]
    plain: tuple[int, ...]
    speculative: tuple[int, ...] | None
    accepted: int
    """Of the speculative tokens, those that a draft proposed."""


def decode(task: Task) -> Decoded:
    """Do one task; raises EdgeSkipError if the artifact cannot be run."""
    import onnxruntime

    from edgeskip.runtime.session import load
    from edgeskip.runtime.speculation.policy import Speculation

    with load(task.folder, threads=1) as session:
        prompt = session.encode(task.prompt, chat=False)
        plain = session.generate(prompt, strategy="plain", max_tokens=task.new_tokens)
        drafted = None
        if session.drafts:
            speculation = Speculation(drafter="model", num_speculations=task.num_speculations)
            drafted = session.generate(
                prompt, strategy="speculative", speculation=speculation, max_tokens=task.new_tokens
            )
        forced = np.asarray(plain.tokens if task.forced is None else task.forced, np.int64)
        mark = _no_mark if task.first_mark is None else _marks(task.first_mark)
        engine = session.engine
        engine.truncate(0)
        engine.reserve(len(prompt) + len(forced))
        steps = [partial(engine.step, prompt, logits=0), *(partial(engine.step, one) for one in forced.reshape(-1, 1))]
        rows = [_counted(step, mark).copy() for step in steps]
        np.save(task.logits, np.concatenate(rows))
    return Decoded(
        machine=platform.machine(),
        onnxruntime=onnxruntime.__version__,
        prompt=tuple(prompt.tolist()),
        plain=plain.tokens,
        speculative=None if drafted is None else drafted.tokens,
        accepted=0 if drafted is None else sum(drafted.drafted),
    )


def _counted(step: Callable[[], NDArray[np.float32]], mark: Callable[[], None]) -> NDArray[np.float32]:
    mark()
    rows = step()
    mark()
    return rows


def _no_mark() -> None:
    pass


def _marks(first: int) -> Callable[[], None]:
    numbers = iter(range(first, first + MARKS_A_TASK))

    def mark() -> None:
        with suppress(OSError):  # a file number that nobody has
            os.close(FIRST_MARK + next(numbers))

    return mark


def main() -> None:
    tasks = TypeAdapter(tuple[Task, ...]).validate_json(sys.stdin.read())
    answers = tuple(decode(task) for task in tasks)
    sys.stdout.write(TypeAdapter(tuple[Decoded, ...]).dump_json(answers).decode())


if __name__ == "__main__":
    main()
