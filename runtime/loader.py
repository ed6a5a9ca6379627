"""Opens whatever EdgeSkip can run, an artifact folder or a GGUF file, into one frozen record a session is made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeskip.artifacts.files import check_files
from edgeskip.artifacts.gguf.manifest import GgufManifest, read_gguf_manifest
from edgeskip.artifacts.location import artifact_at
from edgeskip.artifacts.manifest import Manifest, PlanSummary, read_manifest
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.json_file import read_json as read_json_file
from edgeskip.core.plan import Label
from edgeskip.runtime.chat import ChatTemplate, read_chat_template, token_text
from edgeskip.runtime.detokenizer import TextTokenizer, Tokenizer
from edgeskip.runtime.engines.interface import Engine
from edgeskip.runtime.engines.threads import threads_or_default

if TYPE_CHECKING:
    from edgeskip.runtime.engines.llamacpp.model import LlamaModel
    from edgeskip.runtime.engines.onnxruntime.engine import OnnxRuntimeEngine
    from edgeskip.runtime.engines.onnxruntime.gated import OnnxRuntimeGatedEngine
    from edgeskip.runtime.engines.onnxruntime.split import OnnxRuntimeSplitEngine


@dataclass(frozen=True)
class OpenedArtifact:
    """An engine with the model loaded, and how text becomes its tokens and back."""

    engine: Engine
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    end_tokens: frozenset[int]
    label: Label
    manifest: Manifest | GgufManifest | None  # None: a GGUF file that EdgeSkip did not write

    @property
    def plan(self) -> PlanSummary | None:
        """What EdgeSkip skipped; None where it made no part of this file."""
        return None if self.manifest is None else self.manifest.plan


def open_artifact(
    path: Path, *, provider: str = "cpu", threads: int | None = None, frugal: bool = False, alone: bool = False
) -> OpenedArtifact:
    """Opens a folder with ONNX Runtime, a file with llama.cpp.

    `alone` opens one graph of several: the first half of a pair without the rest, as the draft it is; a folder's
    `model.onnx` as other runtimes see it.
    `frugal` saves memory at the cost of speed where the engine can (ONNX Runtime). EdgeSkipError where `path` is
    neither, is damaged, or cannot run on `provider`.
    """
    threads = threads_or_default(threads)
    path = artifact_at(path)
    if path.is_dir() or not (path.is_file() or path.suffix.lower() == ".gguf"):
        return _open_folder(path, provider, threads, frugal=frugal, alone=alone)
    return _open_gguf(path, provider, threads, alone=alone)


def _open_folder(folder: Path, provider: str, threads: int, *, frugal: bool, alone: bool) -> OpenedArtifact:
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    open_engine = _engine_for(manifest, alone=alone)
    tokenizer = TextTokenizer(folder)
    tokenizer_config = read_json(folder / "tokenizer_config.json")
    return OpenedArtifact(
        chat_template=read_chat_template(folder, tokenizer_config),
        end_tokens=end_tokens_of(folder, tokenizer_config, tokenizer),
        engine=open_engine(folder, manifest, provider=provider, threads=threads, frugal=frugal),
        tokenizer=tokenizer,
        label=manifest.label,
        manifest=manifest,
    )


def _engine_for(
    manifest: Manifest, *, alone: bool
) -> type[OnnxRuntimeEngine | OnnxRuntimeSplitEngine | OnnxRuntimeGatedEngine]:
    """The engine for what the artifact can do besides running the whole model: every one decodes plainly as well."""
    from edgeskip.runtime.engines.onnxruntime.engine import OnnxRuntimeEngine
    from edgeskip.runtime.engines.onnxruntime.gated import OnnxRuntimeGatedEngine
    from edgeskip.runtime.engines.onnxruntime.online import OnnxRuntimeOnlineEngine
    from edgeskip.runtime.engines.onnxruntime.split import OnnxRuntimeSplitEngine

    draft = manifest.draft
    if alone or (draft is None and manifest.online is None):
        return OnnxRuntimeEngine
    if draft is None:
        return OnnxRuntimeOnlineEngine
    return OnnxRuntimeSplitEngine if draft.kind == "early-exit" else OnnxRuntimeGatedEngine


def _open_gguf(path: Path, provider: str, threads: int, *, alone: bool) -> OpenedArtifact:
    """One file, or the first half of a pair with the rest beside it: both together are one model, unless `alone`.

    A whole file that names another, to draft for it or take over while decoding, is opened with it, where that is
    there; without, it is itself. A file that EdgeSkip did not write counts as `dense`: nothing of it was skipped by us.
    """
    from edgeskip.runtime.engines.llamacpp.engine import LlamaCppEngine
    from edgeskip.runtime.engines.llamacpp.model import LlamaModel
    from edgeskip.runtime.engines.llamacpp.text import GgufTokenizer, gguf_chat_template

    model = LlamaModel(path, provider)
    manifest = read_gguf_manifest(model.metadata, str(path))
    tokenizer = GgufTokenizer(model, None if manifest is None else manifest.text)
    engine: Engine | None = None
    label: Label = "dense" if manifest is None else manifest.label
    if manifest is not None and manifest.part == "rest":
        raise EdgeSkipError(f"{path} is the second half of a pair: run the first half, {manifest.partner}, beside it")
    if manifest is not None and not alone:
        if manifest.part == "first" and manifest.partner is not None:
            engine = _open_halves(model, manifest, threads)
            label = manifest.pair_label
        elif manifest.draft is not None:
            engine = _open_with_draft(model, manifest, threads)
        elif manifest.decode is not None:
            engine = _open_with_decode(model, manifest, threads)
    return OpenedArtifact(
        engine=engine or LlamaCppEngine(model, threads=threads),
        tokenizer=tokenizer,
        chat_template=gguf_chat_template(model, tokenizer),
        end_tokens=tokenizer.end_tokens,
        label=label,
        manifest=manifest,
    )


def _open_halves(first: LlamaModel, manifest: GgufManifest, threads: int) -> Engine:
    from edgeskip.runtime.engines.llamacpp.model import LlamaModel
    from edgeskip.runtime.engines.llamacpp.split import LlamaCppSplitEngine
    from edgeskip.runtime.engines.llamacpp.trimmed_head import read_trimmed_head

    path = first.path
    partner = _beside(path, "partner", manifest.partner)
    if not partner.is_file():
        raise EdgeSkipError(f"{path} is the first half of a pair: put the second, {partner.name}, beside it")
    head = None
    if manifest.draft_head is not None:
        file = _beside(path, "draft_head", manifest.draft_head)
        head = read_trimmed_head(file, manifest.draft_head_sha256 or "", threads=threads)
    rest = LlamaModel(partner, first.provider)
    _check_pair(path, manifest, partner, read_gguf_manifest(rest.metadata, str(partner)))
    return LlamaCppSplitEngine(first, rest, head=head, own_block=manifest.head == "block", threads=threads)


def _open_with_draft(whole: LlamaModel, manifest: GgufManifest, threads: int) -> Engine | None:
    """None where the draft is not beside the file. It is loaded when something is first drafted."""
    from edgeskip.runtime.engines.llamacpp.engine import LlamaCppEngine
    from edgeskip.runtime.engines.llamacpp.model import LlamaModel
    from edgeskip.runtime.engines.pair import PairEngine

    file = _beside(whole.path, "draft", manifest.draft)
    if not file.is_file():
        return None

    def open_draft() -> Engine:
        model = LlamaModel(file, whole.provider)
        found = read_gguf_manifest(model.metadata, str(file))
        if found is None or found.model != manifest.model:
            raise EdgeSkipError(f"{file} does not draft for {whole.path}, it is another model: export both again")
        return LlamaCppEngine(model, threads=threads)

    return PairEngine(LlamaCppEngine(whole, threads=threads), open_draft)


def _open_with_decode(first: LlamaModel, manifest: GgufManifest, threads: int) -> Engine | None:
    """None where the file that takes over is not beside the first. It is loaded when a generation wants it."""
    from edgeskip.runtime.engines.llamacpp.handover import LlamaCppHandoverEngine
    from edgeskip.runtime.engines.llamacpp.model import LlamaModel

    file = _beside(first.path, "decode", manifest.decode)
    if not file.is_file():
        return None

    def open_second() -> LlamaModel:
        second = LlamaModel(file, first.provider)
        found = read_gguf_manifest(second.metadata, str(file))
        ours = (manifest.model, manifest.decode_plan, manifest.precision, manifest.inputs)
        if found is None or (found.model, found.plan, found.precision, found.inputs) != ours:
            second.close()
            raise EdgeSkipError(f"{file} does not take over from {first.path}, it is another export's: export again")
        return second

    return LlamaCppHandoverEngine(first, open_second, threads=threads)


def _beside(path: Path, key: str, name: str | None) -> Path:
    """The file called `name` beside `path`, as its manifest has it under `key`; EdgeSkipError for what is no name."""
    usable = name and len(name.encode("utf-8", "replace")) < 256 and name.isprintable()
    if not name or not usable or name != Path(name).name or name in (".", ".."):
        raise EdgeSkipError(f"{path}: its key edgeskip.{key} is damaged, {name!r} is no file name: export again")
    return path.with_name(name)


def _check_pair(path: Path, first: GgufManifest, rest_path: Path, rest: GgufManifest | None) -> None:
    # `inputs` tells apart what two calibrations measured: factors folded into one half count on those in the other.
    same = ("exit_layer", "precision", "model", "plan", "inputs")
    fits = (
        rest is not None and rest.part == "rest" and all(getattr(rest, name) == getattr(first, name) for name in same)
    )
    if not fits:
        raise EdgeSkipError(f"{rest_path} is not the second half of {path}: export the pair again")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of the model's folder; {} where there is no such file."""
    try:
        content = read_json_file(path, "damaged", "export again", finite=False)
    except FileNotFoundError:
        return {}
    if not isinstance(content, dict):
        raise EdgeSkipError(f"{path} is damaged (not a JSON object): export again")
    return content


def end_tokens_of(folder: Path, tokenizer_config: dict[str, Any], tokenizer: TextTokenizer) -> frozenset[int]:
    """Every token that ends a text, by generation_config.json, config.json or the tokenizer: models disagree."""
    ends: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        entry = read_json(folder / name).get("eos_token_id")
        ends.update(token for token in (entry if isinstance(entry, list) else [entry]) if isinstance(token, int))
    eos = token_text(tokenizer_config.get("eos_token"))
    if eos is not None and (token := tokenizer.token_id(eos)) is not None:
        ends.add(token)
    return frozenset(ends)
