"""One ONNX graph and the sequence it has run: its KV cache, updated in place, and what a run must bind.

The graph's past and present of every layer are bound to one buffer `[1, num_kv_heads, capacity, head_dim]`
(GroupQueryAttention appends in place), so a decode step moves no cache and Python's work is a few bindings.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.engines.kv_cache import check_truncation, grown_capacity
from edgeskip.runtime.engines.onnxruntime.cuda_graphs import CudaGraphSteps
from edgeskip.runtime.engines.onnxruntime.errors import run_error
from edgeskip.runtime.engines.onnxruntime.exit_state_buffer import ExitStateRows
from edgeskip.runtime.engines.onnxruntime.providers import Provider, nodes_by_provider
from edgeskip.runtime.engines.onnxruntime.session import GraphShape, switches_of

_LARGE_RUN = 64  # positions; smaller runs keep their scratch memory, which the next one needs again
NO_LOGITS = -(2**31)  # logits_to_keep: the slice starts past the end, so the head computes zero rows


class GraphRunner:
    """Appends tokens or exit states to the sequence of one session.

    It trusts its caller, which has checked that the tokens are the model's and fit the context.

    Ctrl-C may come between any two instructions, and the same sequence may be used afterwards. So what is bound is
    recorded only once it is: a field that stands for a binding is emptied first, and set last. ONNX Runtime does not
    keep the memory that is bound to it alive.
    """

    def __init__(self, session: Any, shape: GraphShape, provider: Provider) -> None:
        self._session = session
        self._shape = shape
        self._provider = provider
        self._binding = session.io_binding()
        # A draft runs more often for its exit states than for its logits: a second binding without logits saves
        # binding them again each time, because ONNX Runtime takes no buffer without rows.
        self._silent = session.io_binding() if shape.states_out else None
        # A chain's sessions run in turn, each with its own scratch memory: after a prefill, all but the last give
        # theirs back, so that it does not add up.
        self._frugally = _giving_back() if shape.states_out and provider.name == "cpu" else None
        self._captured = None
        if provider.captures and not shape.states_in and not shape.states_out:
            self._captured = CudaGraphSteps(session, shape, provider)
        self._length = 0
        self._capacity = 0
        self._run_s = 0.0
        self._cache: dict[str, Any] = {}  # name of the past input -> NDArray (host) or OrtValue (device)
        self._mask: NDArray[np.int64] = np.ones((1, 0), np.int64)
        self._ids: NDArray[np.int64] = np.zeros((1, 0), np.int64)
        self._bound_ids = 0  # width of `_ids` as bound
        self._states_in: ExitStateRows | None = None  # as bound
        self._states_out: ExitStateRows | None = None
        self._switches: dict[str, NDArray[Any]] = {}  # overridable initializers; rewritten in place
        self._kept = 0  # positions whose logits the binding is set up for
        self._logits: NDArray[Any] = np.empty((1, 1, shape.columns), shape.logits_dtype)  # of one position
        # The same array if the graph gives float32.
        self._logits32: NDArray[np.float32] = np.asarray(self._logits, np.float32)
        self._no_logits = np.empty((0, shape.columns), np.float32)
        self._keep: NDArray[np.int64] | None = None
        if "logits_to_keep" in switches_of(session):
            self._keep = np.ones(1, np.int64)
            self.override("logits_to_keep", self._keep)
        self._bind_logits(1)  # the first output to be bound: `_allocated_logits` counts on that

    @property
    def length(self) -> int:
        """Tokens now in the KV cache."""
        return self._length

    @property
    def run_s(self) -> float:
        """Seconds spent inside ONNX Runtime."""
        return self._run_s

    @property
    def nodes(self) -> dict[str, int]:
        """Nodes of the graph by the provider that runs them; {} if ONNX Runtime was not asked to record them."""
        return {} if self._provider.name == "cpu" else nodes_by_provider(self._session)

    def reserve(self, tokens: int) -> None:
        """Make room for `tokens` tokens in all; raises EdgeSkipError if the context does not hold them."""
        if tokens <= self._capacity:
            return
        capacity = grown_capacity(tokens, self._capacity, self._shape.context_length)
        self._capacity = 0  # until every buffer is there and bound
        for layer in range(self._shape.kv_layers):
            for part in ("key", "value"):
                past, present = f"past_key_values.{layer}.{part}", f"present.{layer}.{part}"
                if self._provider.device == "cpu":
                    self._grow_on_host(past, present, capacity)
                else:
                    self._grow_on_device(past, present, capacity)
        self._mask = np.ones((1, capacity), np.int64)
        if self._captured is not None:
            self._captured.renew(self._cache, capacity)
        self._capacity = capacity

    def override(self, name: str, value: NDArray[Any]) -> None:
        """Make every run read the overridable initializer `name` from `value`, which may be rewritten in place."""
        self._switches[name] = value
        self._bind_input(name, value)

    def fill(self, name: str, array: NDArray[Any]) -> None:
        """Make every run that gives logits write the output `name` into `array`, which has its shape."""
        self._binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)

    def append_tokens(
        self, tokens: NDArray[np.int64], kept: int, states: ExitStateRows | None = None
    ) -> NDArray[np.float32]:
        """Append tokens [n]; return the logits float32 [kept, columns] of the last `kept` positions, 0 = none.

        A graph that gives exit states writes them into `states`, n rows. The returned array may be overwritten by
        the next call.
        """
        if len(tokens) != self._bound_ids:
            self._bound_ids = 0
            self._ids = np.empty((1, len(tokens)), np.int64)
            self._bind_input("input_ids", self._ids)
            self._bound_ids = len(tokens)
        self._ids[0] = tokens
        return self._run(len(tokens), kept, states)

    def append_states(self, rows: ExitStateRows, kept: int, states: ExitStateRows | None = None) -> NDArray[np.float32]:
        """Append one position for each row of exit states; otherwise as `append_tokens`."""
        if rows is not self._states_in:
            self._states_in = None
            for binding in self._bindings():
                rows.bind_input(binding, "hidden_states")
            self._states_in = rows
        return self._run(rows.count, kept, states)

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        check_truncation(length, self._length)
        self._length = length

    def close(self) -> None:
        """Free the graph's memory; nothing else may be called afterwards."""
        self._cache.clear()
        del self._binding, self._silent, self._session, self._captured

    def _run(self, count: int, kept: int, states: ExitStateRows | None) -> NDArray[np.float32]:
        total = self._length + count
        self.reserve(total)
        captured = self._captured if self._length and self._captured and self._captured.takes(count, kept) else None
        binding = None if captured else self._bind_run(total, kept, states)
        options = self._frugally if count >= _LARGE_RUN else None
        if self._captured is not None:
            options = self._captured.uncaptured

        begin = time.perf_counter()
        try:
            if captured is not None:
                self._logits[...] = captured.run(self._ids[0], total)
            else:
                self._session.run_with_iobinding(binding, options)
        except Exception as error:
            if (explained := run_error(error, self._shape.file, self._provider.name, total)) is not None:
                raise explained from error
            raise
        self._run_s += time.perf_counter() - begin

        self._length = total
        if kept == 0:
            return self._no_logits
        if kept > 1:
            return self._allocated_logits()
        if self._logits32 is not self._logits:
            self._logits32[...] = self._logits
        result: NDArray[np.float32] = self._logits32[0]
        return result

    def _bind_run(self, total: int, kept: int, states: ExitStateRows | None) -> Any:
        """Bind what this run changes. On the CPU that is only the mask's length, once a decode loop runs."""
        if self._keep is not None:
            self._keep[0] = kept or NO_LOGITS
        elif kept != 1:
            raise EdgeSkipError(
                f"{self._shape.file} has no logits_to_keep, it gives the last position's logits only: export again"
            )
        binding = self._binding if kept or self._silent is None else self._silent
        # What ONNX Runtime allocated for the step before would be taken for a buffer of ours: ask for a new one.
        if binding is self._binding and (kept != self._kept or kept != 1):
            self._bind_logits(kept)
        if states is not None and states is not self._states_out:
            self._states_out = None
            for each in self._bindings():
                states.bind_output(each, "exit_states")
            self._states_out = states
        # bind_cpu_input: the cheapest of the binding calls, 25 µs of cold caches a step less than bind_input.
        binding.bind_cpu_input("attention_mask", self._mask[:, :total])
        if self._provider.name != "cpu":
            self._bind_copies()
        return binding

    def _bind_copies(self) -> None:
        """Bind again whatever was rewritten in place: binding may copy host memory to the device at once."""
        if not self._shape.states_in:
            self._bind_input("input_ids", self._ids)
        for name, switch in self._switches.items():
            self._bind_input(name, switch)
        if self._provider.device == "cpu":
            self._bind_states()
            for name, buffer in self._cache.items():
                self._bind_input(name, buffer)

    def _bind_states(self) -> None:
        for binding in self._bindings():
            if self._states_in is not None:
                self._states_in.bind_input(binding, "hidden_states")
            if self._states_out is not None:
                self._states_out.bind_output(binding, "exit_states")

    def _bind_input(self, name: str, array: NDArray[Any]) -> None:
        """Bind host memory that the caller keeps alive; ONNX Runtime copies it to the device if it must."""
        for binding in self._bindings():
            binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)

    def _bindings(self) -> list[Any]:
        return [self._binding] if self._silent is None else [self._binding, self._silent]

    def _bind_logits(self, kept: int) -> None:
        self._kept = -1
        if kept == 1:
            logits = self._logits
            self._binding.bind_output("logits", "cpu", 0, logits.dtype.type, logits.shape, logits.ctypes.data)
        else:
            # The graph declares one position, so a buffer of more is refused: ONNX Runtime allocates these itself.
            self._binding.bind_output("logits", "cpu")
        self._kept = kept

    def _allocated_logits(self) -> NDArray[np.float32]:
        """Return the logits [k, columns] that ONNX Runtime allocated."""
        logits: NDArray[Any] = self._binding.get_outputs_as_ortvaluevector()[0].numpy()
        result: NDArray[np.float32] = logits[0].astype(np.float32, copy=False)
        return result

    def _grow_on_host(self, past: str, present: str, capacity: int) -> None:
        # Zeros come from the kernel page by page as they are written: an unused tail costs no memory.
        buffer = np.zeros((1, self._shape.kv_heads, capacity, self._shape.head_dim), self._shape.dtype)
        if self._length:
            buffer[:, :, : self._length] = self._cache[past][:, :, : self._length]
        self._cache[past] = buffer
        self._bind_input(past, buffer)
        for binding in self._bindings():
            binding.bind_output(present, "cpu", 0, buffer.dtype.type, buffer.shape, buffer.ctypes.data)

    def _grow_on_device(self, past: str, present: str, capacity: int) -> None:
        import onnxruntime

        host = np.zeros((1, self._shape.kv_heads, capacity, self._shape.head_dim), self._shape.dtype)
        if self._length:
            host[:, :, : self._length] = self._cache[past].numpy()[:, :, : self._length]
        value = onnxruntime.OrtValue.ortvalue_from_numpy(host, self._provider.device, 0)
        self._cache[past] = value
        for binding in self._bindings():
            binding.bind_ortvalue_input(past, value)
            binding.bind_ortvalue_output(present, value)


def _giving_back() -> Any:
    """Return the options of a run that gives back the CPU arena's unused memory when it is done."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options
