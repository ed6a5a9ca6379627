"""What the engines over ONNX Runtime say of themselves; how they step is each one's own."""

from __future__ import annotations

from edgeskip.manifest import GraphRecord
from edgeskip.runtime.engines.interface import EngineName
from edgeskip.runtime.engines.onnxruntime_session import Settings


class OnnxRuntimeBase:
    """The part of `Engine` that does not change once a model is open."""

    def __init__(self, graph: GraphRecord, settings: Settings) -> None:
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
        raise NotImplementedError

    @property
    def threads(self) -> int:
        return self._settings.threads

    @property
    def vocab_size(self) -> int:
        return self._graph.vocab_size

    @property
    def context_length(self) -> int:
        return self._graph.context_length
