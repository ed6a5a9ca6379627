"""What the engines over ONNX Runtime say of themselves; how they step is each one's own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence

from edgeskip.artifacts.manifest import GraphRecord
from edgeskip.runtime.engines.interface import EngineName
from edgeskip.runtime.engines.onnxruntime.graph import GraphRunner
from edgeskip.runtime.engines.onnxruntime.session import SessionConfig


class OnnxRuntimeBase(ABC):
    """The part of `Engine` that does not change once a model is open."""

    def __init__(self, graph: GraphRecord, settings: SessionConfig) -> None:
        self._graph = graph
        self._settings = settings

    @property
    def name(self) -> EngineName:
        return "onnxruntime"

    @property
    def provider(self) -> str:
        return self._settings.provider.name

    @property
    def nodes(self) -> dict[str, int]:
        """Nodes of all graphs by the provider that runs them; {} on the CPU, where all are its own."""
        return dict(sum((Counter(graph.nodes) for graph in self._runners()), Counter()))

    @abstractmethod
    def _runners(self) -> Sequence[GraphRunner]:
        """The graphs it runs."""

    @property
    def threads(self) -> int:
        return self._settings.threads

    @property
    def vocab_size(self) -> int:
        return self._graph.vocab_size

    @property
    def context_length(self) -> int:
        return self._graph.context_length
