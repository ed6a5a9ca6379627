"""Open an artifact folder with ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

from edgeskip.artifacts.files import check_files
from edgeskip.artifacts.manifest import Manifest, read_manifest
from edgeskip.runtime.chat import read_chat_template
from edgeskip.runtime.detokenizer import TextTokenizer, end_tokens_of, read_config
from edgeskip.runtime.engines.artifact import OpenedArtifact, OpenOptions
from edgeskip.runtime.engines.onnxruntime.engine import OnnxRuntimeEngine
from edgeskip.runtime.engines.onnxruntime.gated import OnnxRuntimeGatedEngine
from edgeskip.runtime.engines.onnxruntime.online import OnnxRuntimeOnlineEngine
from edgeskip.runtime.engines.onnxruntime.split import OnnxRuntimeSplitEngine


def open_artifact(folder: Path, options: OpenOptions) -> OpenedArtifact:
    """Open the artifact in `folder`.

    Raises:
        EdgeSkipError: If there is none, it is damaged, or it cannot run on the provider.
    """
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    open_engine = _engine_for(manifest, alone=options.alone)
    tokenizer = TextTokenizer(folder)
    tokenizer_config = read_config(folder / "tokenizer_config.json")
    return OpenedArtifact(
        chat_template=read_chat_template(folder, tokenizer_config),
        end_tokens=end_tokens_of(folder, tokenizer_config, tokenizer),
        engine=open_engine(folder, manifest, provider=options.provider, threads=options.threads, frugal=options.frugal),
        tokenizer=tokenizer,
        label=manifest.label,
        manifest=manifest,
    )


def _engine_for(
    manifest: Manifest, *, alone: bool
) -> type[OnnxRuntimeEngine | OnnxRuntimeSplitEngine | OnnxRuntimeGatedEngine]:
    """Return the engine class for the artifact; all of them can decode plainly."""
    draft = manifest.draft
    if alone or (draft is None and manifest.online is None):
        return OnnxRuntimeEngine
    if draft is None:
        return OnnxRuntimeOnlineEngine
    return OnnxRuntimeSplitEngine if draft.kind == "early-exit" else OnnxRuntimeGatedEngine
