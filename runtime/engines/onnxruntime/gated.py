"""Run the graph whose planned sublayers can be switched off: the skip plan drafts, the whole model verifies.

One session, one KV cache. A drafted position has the keys and values that the skipped model gave it, in the kept
attentions only; the whole model runs over the same positions afterwards and overwrites them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeskip.artifacts.manifest import Manifest
from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.engines.base import DraftingEngineBase
from edgeskip.runtime.engines.kv_cache import check_truncation
from edgeskip.runtime.engines.onnxruntime.base import OnnxRuntimeBase
from edgeskip.runtime.engines.onnxruntime.graph import GraphRunner
from edgeskip.runtime.engines.onnxruntime.session import open_session, session_config, shape_of

SWITCH = "skip"


class OnnxRuntimeGatedEngine(OnnxRuntimeBase, DraftingEngineBase):
    """A `DraftingEngine` over a skip-plan artifact.

    Where a `verify` or `step` raises, by Ctrl-C for instance, what was drafted is forgotten.
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
        if manifest.draft is None or manifest.draft.kind != "skip-plan":
            raise EdgeSkipError(f"{folder} has no skip-plan draft: export it with  edgeskip export --draft skip-plan")
        config = session_config(provider, threads, frugal=frugal)
        super().__init__(manifest.graph, config)
        shape = shape_of(manifest.graph, switches=frozenset({SWITCH, "logits_to_keep"}))
        self._runner = GraphRunner(open_session(folder, manifest, shape, config), shape, config.provider)
        self._skip = np.zeros(1, np.bool_)  # what the graph reads
        self._runner.override(SWITCH, self._skip)
        self._verified = 0  # tokens at the start of the sequence that the whole model has run
        # By position: what was drafted is run again. Memory comes from the kernel as it is written.
        self._tokens = np.empty(self.context_length, np.int64)

    @property
    def length(self) -> int:
        return self._runner.length

    @property
    def run_s(self) -> float:
        return self._runner.run_s

    def _runners(self) -> Sequence[GraphRunner]:
        return [self._runner]

    @property
    def drafted(self) -> int:
        return self._runner.length - self._verified

    def reserve(self, tokens: int) -> None:
        self._runner.reserve(tokens)

    def step(self, tokens: NDArray[np.int64], *, logits: int = 1) -> NDArray[np.float32]:
        """Run the whole model, also over what was drafted and not verified."""
        return self._run_whole(tokens, self._check_step(tokens, logits))

    def draft(self, tokens: NDArray[np.int64], *, which: int = 0) -> NDArray[np.float32]:
        if which != 0:
            raise ValueError(f"there is no draft {which}: the artifact has 1")
        self._check_step(tokens, 1)
        self._tokens[self.length : self.length + len(tokens)] = tokens
        self._skip[0] = True
        return self._runner.append_tokens(tokens, 1)

    def verify(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        count = self._check_verification(tokens)
        return self._run_whole(tokens, count)

    def truncate(self, length: int) -> None:
        check_truncation(length, self.length)
        self._verified = min(length, self._verified)
        self._runner.truncate(length)

    def close(self) -> None:
        self._runner.close()

    def _run_whole(self, tokens: NDArray[np.int64], kept: int) -> NDArray[np.float32]:
        """Run the whole model over the drafted tokens and `tokens` and return its logits of the last `kept` of them."""
        start, end = self._verified, self.length + len(tokens)
        self._tokens[self.length : end] = tokens
        self._skip[0] = False
        self._runner.truncate(start)  # at once: a run that is cut short leaves two models' states behind
        try:
            logits = self._runner.append_tokens(self._tokens[start:end], kept)
        except BaseException:  # Ctrl-C included, which may come after the run
            self._runner.truncate(start)
            raise
        self._verified = end
        return logits
