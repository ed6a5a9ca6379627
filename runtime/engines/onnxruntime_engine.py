"""Runs an artifact's `model.onnx` with ONNX Runtime: one sequence, its KV cache updated in place.

The graph's past and present of every layer are bound to one buffer `[1, num_kv_heads, capacity, head_dim]`
(GroupQueryAttention appends in place), so a decode step moves no cache and Python's work is a few bindings.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeskip.errors import EdgeSkipError
from edgeskip.files import sha256_of
from edgeskip.manifest import Manifest
from edgeskip.runtime.engines.interface import EngineName
from edgeskip.runtime.engines.limits import check_step, check_truncation, grown_capacity, threads_or_default
from edgeskip.runtime.engines.providers import Provider, check_provider, find_provider

_TENSORS = {"float32": "tensor(float)", "float16": "tensor(float16)"}


class OnnxRuntimeEngine:
    """An `Engine` over one artifact folder.

    EdgeSkipError where the graph is damaged, does not match its manifest, names weights outside the folder (ONNX
    Runtime refuses those) or cannot run on `provider`. `threads` = intra-op threads, default: physical cores.
    `frugal` runs straight from the mapped weight file, slower: no second copy in the kernels' own layout.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        provider: str = "cpu",
        threads: int | None = None,
        frugal: bool = False,
    ) -> None:
        graph = manifest.graph
        self._threads = threads_or_default(threads)
        self._provider = find_provider(provider)
        self._graph = graph
        path = folder / graph.file
        _check_graph_file(path, manifest.files.get(graph.file))
        self._session = _open_session(path, self._provider, self._threads, frugal=frugal)
        _check_inputs(self._session, manifest)
        self._binding = self._session.io_binding()

        self._length = 0
        self._capacity = 0
        self._run_s = 0.0
        self._cache: dict[str, Any] = {}  # name of the past input -> NDArray (host) or OrtValue (device)
        self._mask: NDArray[np.int64] = np.ones((1, 0), np.int64)
        self._ids: NDArray[np.int64] = np.zeros((1, 0), np.int64)
        self._kept = 0  # positions whose logits the binding is set up for
        self._logits: NDArray[Any] = np.empty((1, 1, graph.vocab_size), graph.logits_dtype)  # of one position
        # The same array where the graph gives float32.
        self._logits32: NDArray[np.float32] = np.asarray(self._logits, np.float32)
        self._keep: NDArray[np.int64] | None = None  # the graph's `logits_to_keep`; rewritten in place
        if any(value.name == "logits_to_keep" for value in self._session.get_overridable_initializers()):
            self._keep = np.ones(1, np.int64)
            self._bind_input("logits_to_keep", self._keep)

    @property
    def name(self) -> EngineName:
        return "onnxruntime"

    @property
    def provider(self) -> str:
        return self._provider.name

    @property
    def threads(self) -> int:
        return self._threads

    @property
    def vocab_size(self) -> int:
        return self._graph.vocab_size

    @property
    def context_length(self) -> int:
        return self._graph.context_length

    @property
    def length(self) -> int:
        return self._length

    @property
    def run_s(self) -> float:
        return self._run_s

    def reserve(self, tokens: int) -> None:
        if tokens <= self._capacity:
            return
        capacity = grown_capacity(tokens, self._capacity, self.context_length)
        for layer in range(self._graph.num_kv_layers):
            for part in ("key", "value"):
                past, present = f"past_key_values.{layer}.{part}", f"present.{layer}.{part}"
                if self._provider.device == "cpu":
                    self._grow_on_host(past, present, capacity)
                else:
                    self._grow_on_device(past, present, capacity)
        self._mask = np.ones((1, capacity), np.int64)
        self._capacity = capacity

    def step(self, tokens: NDArray[np.int64], *, logits: int = 1) -> NDArray[np.float32]:
        kept, total = check_step(
            tokens,
            logits,
            length=self._length,
            vocab_size=self._graph.vocab_size,
            context_length=self.context_length,
        )
        self.reserve(total)
        self._bind_step(tokens, kept, total)

        begin = time.perf_counter()
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:
            if re.search(r"memory|allocat", str(error), re.IGNORECASE):
                raise EdgeSkipError(
                    f"not enough memory for {total} tokens on {self.provider} ({_first_line(error)}): "
                    "use a shorter prompt or a smaller model"
                ) from error
            raise
        self._run_s += time.perf_counter() - begin

        self._length = total
        if kept > 1:
            return self._allocated_logits()
        if self._logits32 is not self._logits:
            self._logits32[...] = self._logits
        result: NDArray[np.float32] = self._logits32[0]
        return result

    def truncate(self, length: int) -> None:
        check_truncation(length, self._length)
        self._length = length

    def close(self) -> None:
        self._cache.clear()
        del self._binding, self._session

    def _bind_step(self, tokens: NDArray[np.int64], kept: int, total: int) -> None:
        """Binds what this step changes. On the CPU that is the mask's length alone, once a decode loop runs."""
        if len(tokens) != self._ids.shape[1]:
            self._ids = np.empty((1, len(tokens)), np.int64)
            self._bind_input("input_ids", self._ids)
        # What ONNX Runtime allocated for the step before would be taken for a buffer of ours: ask for a new one.
        if kept != self._kept or kept > 1:
            self._bind_logits(kept)
        self._ids[0] = tokens
        # bind_cpu_input: the cheapest of the binding calls, 25 µs of cold caches a step less than bind_input.
        self._binding.bind_cpu_input("attention_mask", self._mask[:, :total])
        if self._provider.name != "cpu":
            self._bind_copies()

    def _bind_copies(self) -> None:
        """Binding may copy host memory to the device there and then: bind again whatever was rewritten in place."""
        self._bind_input("input_ids", self._ids)
        if self._keep is not None:
            self._bind_input("logits_to_keep", self._keep)
        if self._provider.device == "cpu":
            for name, buffer in self._cache.items():
                self._bind_input(name, buffer)

    def _bind_input(self, name: str, array: NDArray[Any]) -> None:
        """Binds host memory that the caller keeps alive; ONNX Runtime copies it to the device if it must."""
        self._binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)

    def _bind_output(self, name: str, array: NDArray[Any]) -> None:
        self._binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)

    def _bind_logits(self, kept: int) -> None:
        if self._keep is not None:
            self._keep[0] = kept
        elif kept != 1:
            raise EdgeSkipError(
                f"{self._graph.file} has no logits_to_keep, it gives the last position's logits only: export again"
            )
        self._kept = kept
        if kept == 1:
            self._bind_output("logits", self._logits)
        else:
            # The graph declares one position, so a buffer of more is refused: ONNX Runtime allocates these itself.
            self._binding.bind_output("logits", "cpu")

    def _allocated_logits(self) -> NDArray[np.float32]:
        """The logits [k, vocab_size] that ONNX Runtime allocated; the caches are outputs too, of rank 4."""
        logits = next(value for value in self._binding.get_outputs() if len(value.shape()) == 3)
        result: NDArray[np.float32] = logits.numpy()[0].astype(np.float32, copy=False)
        return result

    def _grow_on_host(self, past: str, present: str, capacity: int) -> None:
        # Zeros come from the kernel page by page as they are written: an unused tail costs no memory.
        buffer = np.zeros((1, self._graph.num_kv_heads, capacity, self._graph.head_dim), self._graph.kv_dtype)
        if self._length:
            buffer[:, :, : self._length] = self._cache[past][:, :, : self._length]
        self._cache[past] = buffer
        self._bind_input(past, buffer)
        self._bind_output(present, buffer)

    def _grow_on_device(self, past: str, present: str, capacity: int) -> None:
        import onnxruntime

        host = np.zeros((1, self._graph.num_kv_heads, capacity, self._graph.head_dim), self._graph.kv_dtype)
        if self._length:
            host[:, :, : self._length] = self._cache[past].numpy()[:, :, : self._length]
        value = onnxruntime.OrtValue.ortvalue_from_numpy(host, self._provider.device, 0)
        self._cache[past] = value
        self._binding.bind_ortvalue_input(past, value)
        self._binding.bind_ortvalue_output(present, value)


def _check_graph_file(path: Path, sha256: str | None) -> None:
    """The graph alone is hashed (it is small); ONNX Runtime checks that the weight file holds every tensor."""
    if not path.is_file():
        raise EdgeSkipError(f"{path} is missing: export again")
    if sha256 is not None and sha256_of(path) != sha256:
        raise EdgeSkipError(f"{path} is not the file its manifest names (sha256 differs): export again")


def _open_session(path: Path, provider: Provider, threads: int, *, frugal: bool) -> Any:
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # builds that have telemetry send none from here
    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    # Constant folding would keep widened copies of fp16 weights; int4 kernels exist in their own layout only.
    options.graph_optimization_level = levels.ORT_DISABLE_ALL if frugal else levels.ORT_ENABLE_ALL
    if frugal:
        options.add_session_config_entry("session.disable_prepacking", "1")
        # The CPU widens fp16 weights with a Cast each; by priority a Cast runs right before its use, not all at first.
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL  # a decoder is a chain
    options.inter_op_num_threads = 1
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # fatal: errors are raised, so they need not be printed as well
    # Worker threads spin through the gaps between operators and between decode steps: waking them costs more.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if threads > 1 else "0")
    providers = [provider.execution_provider]
    if provider.name != "cpu":
        providers.append("CPUExecutionProvider")  # shape arithmetic
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
    except Exception as error:  # onnxruntime's own classes share no base but Exception
        raise EdgeSkipError(f"onnxruntime cannot load {path}: {_first_line(error)}: export again") from error
    check_provider(session, provider)
    return session


def _check_inputs(session: Any, manifest: Manifest) -> None:
    graph = manifest.graph
    inputs = {value.name: value for value in session.get_inputs()}
    caches = [value for name, value in inputs.items() if name.startswith("past_key_values.")]
    wanted = {"input_ids", "attention_mask"}
    for layer in range(min(graph.num_kv_layers, len(caches))):
        wanted |= {f"past_key_values.{layer}.key", f"past_key_values.{layer}.value"}
    logits = next((value for value in session.get_outputs() if value.name == "logits"), None)
    fits = (
        set(inputs) == wanted
        and len(caches) == 2 * graph.num_kv_layers
        and all((value.shape[1], value.shape[3]) == (graph.num_kv_heads, graph.head_dim) for value in caches)
        and all(value.type == _TENSORS[graph.kv_dtype] for value in caches)
        and logits is not None
        and (logits.shape[-1], logits.type) == (graph.vocab_size, _TENSORS[graph.logits_dtype])
    )
    if not fits:
        raise EdgeSkipError(f"{graph.file} has other inputs and outputs than its manifest describes: export again")


def _first_line(error: Exception) -> str:
    line = str(error).strip().split("\n")[0]
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", line)
