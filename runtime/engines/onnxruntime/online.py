"""Run the graph whose FFNs can be left out one by one: an `OnlineEngine`, whoever decides what is left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeskip.artifacts.manifest import Manifest
from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.engines.onnxruntime.engine import OnnxRuntimeEngine


class OnnxRuntimeOnlineEngine(OnnxRuntimeEngine):
    """An `OnlineEngine` over an artifact with gates. EdgeSkipError and the arguments are as for its base."""

    _switches = frozenset({"ffn_skip", "ffn_scale", "ffn_watch"})

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        provider: str = "cpu",
        threads: int | None = None,
        frugal: bool = False,
    ) -> None:
        if manifest.online is None:
            raise EdgeSkipError(f"{folder} has no gates: export it with  edgeskip export --online")
        super().__init__(folder, manifest, provider=provider, threads=threads, frugal=frugal)
        self._ffns = tuple(manifest.online.ffns)
        count = len(self._ffns)
        # All of these are the graph's own memory: it reads and writes them in every run.
        self._skip, self._scale = np.zeros(count, np.bool_), np.ones(count, np.float32)
        self._watch = np.zeros(1, np.bool_)
        self._runner.override("ffn_skip", self._skip)
        self._runner.override("ffn_scale", self._scale)
        self._runner.override("ffn_watch", self._watch)
        self._similarity, self._ratio = np.zeros((1, count), np.float32), np.zeros((1, count), np.float32)
        self._runner.fill("ffn_similarity", self._similarity)
        self._runner.fill("ffn_norm_ratio", self._ratio)

    @property
    def ffns(self) -> tuple[str, ...]:
        return self._ffns

    def watch(self, wanted: bool) -> None:
        self._watch[0] = wanted

    def importance(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self._similarity[0], self._ratio[0]

    def gate(self, skip: NDArray[np.bool_], scale: NDArray[np.float32]) -> None:
        self._skip[:], self._scale[:] = skip, scale
