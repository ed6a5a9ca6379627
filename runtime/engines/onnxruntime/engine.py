"""Run an artifact's `model.onnx` with ONNX Runtime: one sequence, one graph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edgeskip.artifacts.manifest import Manifest
from edgeskip.runtime.engines.onnxruntime.base import OnnxRuntimeBase
from edgeskip.runtime.engines.onnxruntime.graph import GraphRunner
from edgeskip.runtime.engines.onnxruntime.session import open_session, session_config, shape_of


class OnnxRuntimeEngine(OnnxRuntimeBase):
    """An `Engine` over one artifact folder.

    Raises EdgeSkipError if the graph is damaged, does not match its manifest, names weights outside the folder (ONNX
    Runtime refuses those) or cannot run on `provider`. `threads` = intra-op threads, default: physical cores.
    `frugal` runs straight from the mapped weight file, slower: no second copy in the kernels' own layout.
    """

    _switches: ClassVar[frozenset[str]] = frozenset()  # optional inputs that the graph must have

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        provider: str = "cpu",
        threads: int | None = None,
        frugal: bool = False,
    ) -> None:
        config = session_config(provider, threads, frugal=frugal)
        super().__init__(manifest.graph, config)
        shape = shape_of(manifest.graph, switches=self._switches)
        self._runner = GraphRunner(open_session(folder, manifest, shape, config), shape, config.provider)

    @property
    def length(self) -> int:
        return self._runner.length

    @property
    def run_s(self) -> float:
        return self._runner.run_s

    def _runners(self) -> Sequence[GraphRunner]:
        return [self._runner]

    def reserve(self, tokens: int) -> None:
        self._runner.reserve(tokens)

    def step(self, tokens: NDArray[np.int64], *, logits: int = 1) -> NDArray[np.float32]:
        return self._runner.append_tokens(tokens, self._check_step(tokens, logits))

    def truncate(self, length: int) -> None:
        self._runner.truncate(length)

    def close(self) -> None:
        self._runner.close()
