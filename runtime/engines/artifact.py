"""An artifact, opened: what every engine's `opener` module takes and returns."""

from __future__ import annotations

from dataclasses import dataclass

from edgeskip.artifacts.gguf.manifest import GgufManifest
from edgeskip.artifacts.manifest import Manifest, PlanSummary
from edgeskip.core.plan import Label
from edgeskip.runtime.chat import ChatTemplate
from edgeskip.runtime.detokenizer import Tokenizer
from edgeskip.runtime.engines.interface import Engine


@dataclass(frozen=True)
class OpenOptions:
    """How to open an artifact.

    Attributes:
        provider: Processor to run on, as users name it.
        threads: Threads to compute with.
        frugal: Save memory at the cost of speed, if the engine can.
        alone: Open one graph of several: the first half of a pair without the rest, as the draft that it is; a
            folder's `model.onnx` as other runtimes see it.
    """

    provider: str
    threads: int
    frugal: bool = False
    alone: bool = False


@dataclass(frozen=True)
class OpenedArtifact:
    """An engine with the model loaded, and how text becomes its tokens and back.

    Attributes:
        engine: Runs the model.
        tokenizer: Text to tokens and back.
        chat_template: Renders conversations; None if the model has none.
        end_tokens: Ids that end a text.
        label: What the output must be called.
        manifest: What EdgeSkip wrote about the artifact; None for a GGUF file from elsewhere.
    """

    engine: Engine
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    end_tokens: frozenset[int]
    label: Label
    manifest: Manifest | GgufManifest | None

    @property
    def plan(self) -> PlanSummary | None:
        """What EdgeSkip skipped; None if it did not write this file."""
        return None if self.manifest is None else self.manifest.plan
