"""Run a model that was cut at its exit layers into a chain of ONNX graphs: shared-state self-speculation.

The first graph turns tokens into exit states, each later one continues from those of the one before, the last one
verifies. Each has its own KV cache and runs over the positions it has not seen, so nothing is computed twice, and
all of them together are the whole model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeskip.artifacts.files import check_file
from edgeskip.artifacts.manifest import DraftRecord, Manifest
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.npy_file import read_token_ids
from edgeskip.runtime.engines.base import DraftingEngineBase
from edgeskip.runtime.engines.kv_cache import check_truncation
from edgeskip.runtime.engines.onnxruntime.base import OnnxRuntimeBase
from edgeskip.runtime.engines.onnxruntime.exit_state_buffer import ExitStateBuffer, ExitStateRows
from edgeskip.runtime.engines.onnxruntime.graph import GraphRunner
from edgeskip.runtime.engines.onnxruntime.session import GraphShape, open_session, session_config, shape_of


class OnnxRuntimeSplitEngine(OnnxRuntimeBase, DraftingEngineBase):
    """A `DraftingEngine` over an early-exit artifact; `which` of `draft` counts its exits, the shallowest first.

    `length` counts what the first graph has run. A call that raises, by Ctrl-C for instance, leaves it as it was.
    EdgeSkipError and the arguments are as for `OnnxRuntimeEngine`.
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
        record = manifest.draft
        if record is None or not record.exits or record.verify is None:
            raise EdgeSkipError(f"{folder} has no early-exit draft: export it with  edgeskip export --draft early-exit")
        # A trained block's cache is the draft's alone.
        caches = sum(e.num_kv_layers - (e.head == "block") for e in record.exits) + record.verify_kv_layers
        if caches != manifest.graph.num_kv_layers:
            raise EdgeSkipError(f"{folder}: the graphs that draft and verify are not the whole model: export again")
        config = session_config(provider, threads, frugal=frugal)
        super().__init__(manifest.graph, config)
        self.draft_tokens = _read_vocabulary(folder, manifest, record)
        # Each session has its own worker threads: those of the previous graph must not keep its cores busy.
        config = replace(config, stop_spinning=config.threads > 1)
        columns = manifest.graph.vocab_size if self.draft_tokens is None else len(self.draft_tokens)
        self._graphs = [
            GraphRunner(open_session(folder, manifest, shape, config), shape, config.provider)
            for shape in _shapes(manifest, record, columns)
        ]
        # Between graph i and i + 1; row r is the position at the later one's length + r.
        self._states = [
            ExitStateBuffer(manifest.model.hidden_size, manifest.graph.kv_dtype, config.provider) for _ in record.exits
        ]
        self.drafts = len(self._states)

    @property
    def length(self) -> int:
        return self._graphs[0].length

    @property
    def run_s(self) -> float:
        return sum(graph.run_s for graph in self._graphs)

    def _runners(self) -> Sequence[GraphRunner]:
        return self._graphs

    @property
    def drafted(self) -> int:
        return self._graphs[0].length - self._graphs[-1].length

    def reserve(self, tokens: int) -> None:
        for graph in self._graphs:
            graph.reserve(tokens)

    def step(self, tokens: NDArray[np.int64], *, logits: int = 1) -> NDArray[np.float32]:
        """Run the whole model, also over what was drafted and not verified; no draft head is computed."""
        kept = self._check_step(tokens, logits)
        return self._run(tokens, len(self._graphs) - 1, kept)

    def draft(self, tokens: NDArray[np.int64], *, which: int = 0) -> NDArray[np.float32]:
        if not 0 <= which < self.drafts:
            raise ValueError(f"there is no draft {which}: the artifact has {self.drafts}")
        if len(tokens):
            self._check_step(tokens, 1)
        elif self._graphs[which].length == self.length:
            raise ValueError(f"draft {which} has run every token already: give more")
        return self._run(tokens, which, 1)

    def verify(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        count = self._check_verification(tokens)
        return self._run(tokens, len(self._graphs) - 1, count)

    def truncate(self, length: int) -> None:
        check_truncation(length, self.length)
        for graph in self._graphs:
            graph.truncate(min(length, graph.length))

    def close(self) -> None:
        for graph in self._graphs:
            graph.close()

    def _run(self, tokens: NDArray[np.int64], last: int, kept: int) -> NDArray[np.float32]:
        """Append `tokens`, run graphs 0 … last to the end, and return the last one's logits [kept, …]."""
        before = self.length
        try:
            for index in range(last + 1):
                logits = self._advance(index, tokens, kept if index == last else 0)
        except BaseException:  # Ctrl-C included
            self.truncate(min(before, self.length))
            raise
        return logits

    def _advance(self, index: int, tokens: NDArray[np.int64], kept: int) -> NDArray[np.float32]:
        """Run graph `index` over all it has not seen, which for the first one is `tokens`."""
        graph = self._graphs[index]
        count = len(tokens) if index == 0 else self._graphs[index - 1].length - graph.length
        if count == 0:
            return np.empty((0, 0), np.float32)  # of a graph that is not the last: nobody reads it
        after = self._room_after(index, count)
        if index == 0:
            return graph.append_tokens(tokens, kept, after)
        return graph.append_states(self._states[index - 1].rows(0, count), kept, after)

    def _room_after(self, index: int, count: int) -> ExitStateRows | None:
        """Return where graph `index` writes the exit states of `count` positions; None for the one that verifies."""
        if index == len(self._states):
            return None
        waiting = self._graphs[index].length - self._graphs[index + 1].length
        self._states[index].reserve(waiting + count, waiting)
        return self._states[index].rows(waiting, waiting + count)


def _shapes(manifest: Manifest, record: DraftRecord, columns: int) -> list[GraphShape]:
    """Return the graphs of the chain in order; the draft heads have `columns` columns."""
    assert record.verify is not None
    whole = shape_of(manifest.graph, switches=frozenset({"logits_to_keep"}))
    whole = replace(whole, hidden_size=manifest.model.hidden_size)
    drafts = [
        replace(whole, file=e.file, kv_layers=e.num_kv_layers, columns=columns, states_in=i > 0, states_out=True)
        for i, e in enumerate(record.exits)
    ]
    return [*drafts, replace(whole, file=record.verify, kv_layers=record.verify_kv_layers, states_in=True)]


def _read_vocabulary(folder: Path, manifest: Manifest, record: DraftRecord) -> NDArray[np.int64] | None:
    """Return token ids int64 [V'] of the draft heads' rows; None if these are the whole vocabulary."""
    if record.vocabulary is None:
        return None
    path = folder / record.vocabulary
    check_file(path, manifest.files.get(record.vocabulary))
    return read_token_ids(path, manifest.graph.vocab_size)
