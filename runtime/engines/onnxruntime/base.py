"""The part that the engines over ONNX Runtime share."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence

from edgeskip.artifacts.manifest import GraphRecord
from edgeskip.runtime.engines.base import EngineBase
from edgeskip.runtime.engines.onnxruntime.graph import GraphRunner
from edgeskip.runtime.engines.onnxruntime.session import SessionConfig


class OnnxRuntimeBase(EngineBase):
    """An engine that runs one or more graphs.

    Args:
        graph: The whole model's, from the manifest.
        config: How every graph is opened.
    """

    def __init__(self, graph: GraphRecord, config: SessionConfig) -> None:
        super().__init__(
            name="onnxruntime",
            provider=config.provider.name,
            threads=config.threads,
            vocab_size=graph.vocab_size,
            context_length=graph.context_length,
        )

    @property
    def nodes(self) -> dict[str, int]:
        """Nodes of all graphs by the provider that runs them; {} on the CPU, which runs all of them."""
        return dict(sum((Counter(graph.nodes) for graph in self._runners()), Counter()))

    @abstractmethod
    def _runners(self) -> Sequence[GraphRunner]:
        """Return the graphs that it runs."""
