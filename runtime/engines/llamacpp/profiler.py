"""Time the sublayers of a GGUF file in llama.cpp, through the public `cb_eval` callback.

Attention ends at the node `ffn_inp-N`, the FFN at `l_out-N`. llama.cpp computes up to a node that it is told to stop
at, so a sublayer's time is that between the two calls for its last node.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Generator, Sequence

import numpy as np
from numpy.typing import NDArray

from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.engines.llamacpp.context import LlamaContext
from edgeskip.runtime.engines.llamacpp.library import ggml_function, llama
from edgeskip.runtime.engines.llamacpp.model import LlamaModel
from edgeskip.runtime.engines.threads import threads_or_default
from edgeskip.runtime.sublayer_times import ProfiledStep, StepTimes, random_tokens


class LlamaCppProfiler:
    """A `Clock` over an open model whose every block has attention and FFN; closing it closes the model too."""

    def __init__(self, model: LlamaModel, *, threads: int | None = None) -> None:
        self.model = model
        self.threads = threads_or_default(threads)
        self._marks = _Marks(model)
        self._plain = LlamaContext(model, self.threads)
        self._marked = LlamaContext(model, self.threads, callback=self._marks.callback)
        self._logits = np.empty((1, model.vocab_size), np.float32)

    def sample(self, steps: Sequence[tuple[ProfiledStep, int]], advance: Callable[[], None]) -> list[StepTimes]:
        tokens = random_tokens(max(step.held + step.tokens for step, _ in steps), self.model.vocab_size)
        return [self._sample(step, repeats, tokens, advance) for step, repeats in steps]

    def close(self) -> None:
        for part in (self._plain, self._marked, self.model):
            part.close()

    def _sample(
        self, step: ProfiledStep, repeats: int, tokens: NDArray[np.int64], advance: Callable[[], None]
    ) -> StepTimes:
        sample = StepTimes(np.ones(2 * self.model.num_blocks + 1, np.int64))
        piece = tokens[step.held : step.held + step.tokens]
        for context in (self._plain, self._marked):
            context.reserve(len(tokens))
            context.truncate(min(step.held, context.length))
            if context.length < step.held:
                self._marks.begin()
                context.append_tokens(tokens[context.length : step.held], None)
        for repeat in range(repeats + 1):
            plain_s = self._run(self._plain, piece)
            self._marks.begin()
            begin = time.perf_counter()
            marked_s = self._run(self._marked, piece)
            parts_s = self._marks.parts_s(begin + marked_s)
            if repeat:
                sample.plain_s.append(plain_s)
                sample.parts_s.append(parts_s)
            advance()
            advance()
        return sample

    def _run(self, context: LlamaContext, piece: NDArray[np.int64]) -> float:
        held = context.length
        begin = time.perf_counter()
        context.append_tokens(piece, self._logits)
        seconds = time.perf_counter() - begin
        context.truncate(held)
        return seconds


class _Marks:
    """Time stamps at the ends of sublayers. Before a run call `begin`, after it `parts_s`."""

    def __init__(self, model: LlamaModel) -> None:
        self._path = model.path
        ends = (f"{node}-{block}".encode() for block in range(model.num_blocks) for node in ("ffn_inp", "l_out"))
        self._ends = tuple(ends)
        self._name_of = ggml_function("ggml_get_name", ctypes.c_char_p, (ctypes.c_void_p,))
        self._asked: list[float] = []
        self._told: list[float] = []
        self._error: BaseException | None = None
        answers = self._answers()
        next(answers)
        # A generator's own method, so that Ctrl-C is not lost (llamacpp_exit_states).
        self._thunk = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p)(answers.send)
        self.callback = ctypes.cast(self._thunk, llama().ggml_backend_sched_eval_callback)

    def begin(self) -> None:
        self._asked, self._told = [], []
        self._error = None

    def parts_s(self, end: float) -> NDArray[np.float64]:
        """Return the seconds [2M + 1] of every sublayer and, last, of the rest of a run that ended at `end`."""
        if self._error is not None:
            raise self._error
        if len(self._told) != len(self._ends) + 1:
            wanted = self._ends[max(0, len(self._told) - 1)].decode()
            raise EdgeSkipError(f"{self._path}: llama.cpp's graph of this model has no node {wanted}: update it")
        parts = np.subtract(self._told, self._asked)
        # The first mark is the embedding's; after the last come the final norm and the head.
        return np.append(parts[1:], parts[0] + end - self._told[-1])

    def _answers(self) -> Generator[bool, int, None]:
        """Get the address of each node that llama.cpp asks about; yield whether to compute up to it and call again."""
        now, answer = time.perf_counter, False
        while True:
            try:
                while True:  # inside the `try`, because Python looks for signals at a loop's end too
                    node = yield answer
                    answer = False
                    number = len(self._told)  # the first node of all is the embedding
                    if number > len(self._ends) or (number and self._name_of(node) != self._ends[number - 1]):
                        continue
                    self._asked.append(now())
                    yield True
                    self._told.append(now())
                    answer = True
            except GeneratorExit:
                raise
            except BaseException as error:
                self._error, answer = error, False
