"""From a model and a plan to a GGUF and an engine over it, without profile or verb: what these tests share."""

from __future__ import annotations

from pathlib import Path

from edgeskip.core.plan import Plan
from edgeskip.exporters.bake import bake
from edgeskip.exporters.gguf.formats import gguf_format
from edgeskip.exporters.gguf.layout import Layout, lay_out
from edgeskip.exporters.gguf.metadata import file_metadata
from edgeskip.exporters.gguf.tensors import named_tensors
from edgeskip.exporters.gguf.write import write_gguf
from edgeskip.models.decoder import Decoder
from edgeskip.models.source import ModelSource
from edgeskip.runtime.engines.llamacpp.engine import LlamaCppEngine
from edgeskip.runtime.engines.llamacpp.model import LlamaModel


def write_plan(
    source: ModelSource, plan: Plan, path: Path, *, precision: str = "f32", architecture: str | None = None
) -> Layout:
    """Writes the model with `plan` baked in; `architecture` "deci" forces that one."""
    return write_decoder(source, bake(source.decoder, plan), path, precision=precision, architecture=architecture)


def write_decoder(
    source: ModelSource, decoder: Decoder, path: Path, *, precision: str = "f32", architecture: str | None = None
) -> Layout:
    layout = lay_out(decoder, architecture=architecture)
    form = gguf_format(precision, source.checkpoint.gguf)
    metadata = file_metadata(source, decoder, layout, form.file_type, {})
    write_gguf(path, layout.architecture, metadata, named_tensors(decoder, layout), form)
    return layout


def engine_over(path: Path) -> LlamaCppEngine:
    return LlamaCppEngine(LlamaModel(path), threads=1)
