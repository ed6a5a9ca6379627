"""Read exit states out of llama.cpp's graph while it runs, through the public `cb_eval` callback.

llama.cpp asks the callback about every node of the graph: 22 µs a step, measured with one thread, for the 249 nodes of
SmolLM2's first 8 blocks, 1 % of that step; with two threads 7 %, for the graph is then started twice. It computes up
to a node that gets a yes, calls again for it, and computes on only if that gets a yes too.
"""

from __future__ import annotations

import ctypes
from collections.abc import Generator

import numpy as np
from numpy.typing import NDArray

from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.engines.llamacpp.library import ggml_function, llama

_FLOAT_BYTES = 4


class ExitStateReader:
    """Copies the hidden state after the first `num_blocks` blocks of the file, of every token that a context runs.

    A plan that removes blocks makes that fewer than the exit layer, which counts the model's own. It can read the
    state after one more block too, of the last token.
    `callback` goes to the context. Before a run call `begin`, after it `finish`.
    """

    def __init__(self, num_blocks: int, hidden_size: int) -> None:
        self._name, self._then_name = (f"l_out-{block}".encode() for block in (num_blocks - 1, num_blocks))
        self._row_bytes = hidden_size * _FLOAT_BYTES
        self._name_of = ggml_function("ggml_get_name", ctypes.c_char_p, (ctypes.c_void_p,))
        self._bytes_of = ggml_function("ggml_nbytes", ctypes.c_size_t, (ctypes.c_void_p,))
        self._copy = ggml_function("ggml_backend_tensor_get", None, (*(ctypes.c_void_p,) * 2, *(ctypes.c_size_t,) * 2))
        self._node = 0  # the tensor's address, 0 = look at the names
        self._address = self._left = 0
        self._by_name = True
        self._outputs = self._go_on = True
        self._then = self._then_left = 0  # address and bytes
        self._reads_then = False  # the exit states of the graph that runs are read, what follows is wanted
        self._error: BaseException | None = None
        answers = self._answers()
        next(answers)
        # A generator's own method, not a function: a function begins outside of any `try`, and what a signal handler
        # raises there (Ctrl-C) ctypes prints and forgets. It takes the node; C lets us ignore further arguments.
        self._thunk = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p)(answers.send)
        self.callback = ctypes.cast(self._thunk, llama().ggml_backend_sched_eval_callback)

    def begin(
        self, states: NDArray[np.float32], *, outputs: bool, go_on: bool, then: NDArray[np.float32] | None = None
    ) -> None:
        """Send the next run's exit states to `states` [n, hidden_size], contiguous; without `go_on` it ends there.
        `outputs`: logits are asked of it.

        `then` [hidden_size] gets the state after the next block, of the one row that has an output, and it ends there.
        """
        # The address holds from one decode step to the next; other runs build other graphs, and a name's 0.3 µs are
        # nothing to them.
        if len(states) > 1 or outputs != self._outputs:
            self._node = 0
        self._by_name = not self._node
        self._address, self._left = states.ctypes.data, states.nbytes
        self._outputs, self._go_on = outputs, go_on
        self._then, self._then_left = (0, 0) if then is None else (then.ctypes.data, then.nbytes)
        self._reads_then = False
        self._error = None

    def finish(self) -> bool:
        """Return whether all states were read; after False, repeat the run, which then looks at the nodes' names.

        Raises what the callback could not (Ctrl-C), and EdgeSkipError if the graph has no such node.
        """
        if self._error is not None:
            raise self._error
        if self._left and self._by_name:
            raise EdgeSkipError(
                f"llama.cpp's graph of this model has no node {self._name.decode()}: export the pair again"
            )
        if self._left:
            self._node = 0
        elif self._then_left:
            raise EdgeSkipError(
                f"llama.cpp's graph of this model has no node {self._then_name.decode()}: export the pair again"
            )
        return not self._left

    def _answers(self) -> Generator[bool, int, None]:
        """Get the address of each node that llama.cpp asks about; yield whether to compute up to it and call again."""
        answer = False
        while True:
            try:
                while True:  # inside the `try`, because Python looks for signals at a loop's end too
                    node = yield answer
                    answer = False
                    if self._reads_then:
                        if self._name_of(node) == self._then_name:
                            yield True
                            answer = self._read_then(node)
                    elif node == self._node or (not self._node and self._name_of(node) == self._name):
                        yield True
                        answer = self._read(node)
            except GeneratorExit:
                raise
            except BaseException as error:
                self._error, answer = error, False

    def _read(self, node: int) -> bool:
        size = self._bytes_of(node)
        if self._name_of(node) != self._name or size > self._left or size % self._row_bytes:
            self._node = 0  # the address means another tensor now: look for the name in what follows
            return True
        self._copy(node, self._address, 0, size)
        if size == self._row_bytes:
            self._node = node
        self._address += size
        self._left -= size
        self._reads_then = bool(self._then_left)
        return self._go_on

    def _read_then(self, node: int) -> bool:
        """Copy the one row, if this batch has it (only the last one does), and end the run."""
        self._reads_then = False
        size = self._bytes_of(node)
        if 0 < size <= self._then_left:
            self._copy(node, self._then, 0, size)
            self._then_left -= size
        return False
