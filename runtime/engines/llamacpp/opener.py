"""Open a GGUF file with llama.cpp, together with the other files that it names."""

from __future__ import annotations

from pathlib import Path

from edgeskip.artifacts.gguf.manifest import GgufManifest, read_gguf_manifest
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.plan import Label
from edgeskip.runtime.engines.artifact import OpenedArtifact, OpenOptions
from edgeskip.runtime.engines.interface import Engine
from edgeskip.runtime.engines.llamacpp.engine import LlamaCppEngine
from edgeskip.runtime.engines.llamacpp.handover import LlamaCppHandoverEngine
from edgeskip.runtime.engines.llamacpp.model import LlamaModel
from edgeskip.runtime.engines.llamacpp.split import LlamaCppSplitEngine
from edgeskip.runtime.engines.llamacpp.text import GgufTokenizer, gguf_chat_template
from edgeskip.runtime.engines.llamacpp.trimmed_head import read_trimmed_head
from edgeskip.runtime.engines.pair import PairEngine


def open_artifact(path: Path, options: OpenOptions) -> OpenedArtifact:
    """Open a file, or the first half of a pair with the rest beside it: both together are one model.

    A whole file that names another one, to draft for it or to take over while decoding, is opened with that one if it
    is there. A file that EdgeSkip did not write counts as `dense`, because EdgeSkip skipped nothing of it.

    Raises:
        EdgeSkipError: If llama-cpp-python is missing, or the file is damaged, lacks its other half, or cannot run on
            the provider.
    """
    threads = options.threads
    model = LlamaModel(path, options.provider)
    manifest = read_gguf_manifest(model.metadata, str(path))
    tokenizer = GgufTokenizer(model, None if manifest is None else manifest.text)
    engine: Engine | None = None
    label: Label = "dense" if manifest is None else manifest.label
    if manifest is not None and manifest.part == "rest":
        raise EdgeSkipError(f"{path} is the second half of a pair: run the first half, {manifest.partner}, beside it")
    if manifest is not None and not options.alone:
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
    """Return the pair, whose draft is loaded at the first draft; None if the draft is not beside the file."""
    file = _beside(whole.path, "draft", manifest.draft)
    if not file.is_file():
        return None

    def open_draft() -> Engine:
        model = LlamaModel(file, whole.provider)
        found = read_gguf_manifest(model.metadata, str(file))
        if found is None or found.model != manifest.model:
            raise EdgeSkipError(f"{file} cannot draft for {whole.path}, it is another model: export both again")
        return LlamaCppEngine(model, threads=threads)

    return PairEngine(LlamaCppEngine(whole, threads=threads), open_draft)


def _open_with_decode(first: LlamaModel, manifest: GgufManifest, threads: int) -> Engine | None:
    """Return both models, of which the second is loaded at the first handover; None if its file is missing."""
    file = _beside(first.path, "decode", manifest.decode)
    if not file.is_file():
        return None

    def open_second() -> LlamaModel:
        second = LlamaModel(file, first.provider)
        found = read_gguf_manifest(second.metadata, str(file))
        ours = (manifest.model, manifest.decode_plan, manifest.precision, manifest.inputs)
        if found is None or (found.model, found.plan, found.precision, found.inputs) != ours:
            second.close()
            raise EdgeSkipError(f"{file} cannot take over from {first.path}, it is of another export: export again")
        return second

    return LlamaCppHandoverEngine(first, open_second, threads=threads)


def _beside(path: Path, key: str, name: str | None) -> Path:
    """Return the file `name` beside `path`, from the manifest's `key`.

    Raises EdgeSkipError if that is not a file name.
    """
    usable = name and len(name.encode("utf-8", "replace")) < 256 and name.isprintable()
    if not name or not usable or name != Path(name).name or name in (".", ".."):
        raise EdgeSkipError(f"{path}: its key edgeskip.{key} is damaged, {name!r} is not a file name: export again")
    return path.with_name(name)


def _check_pair(path: Path, first: GgufManifest, rest_path: Path, rest: GgufManifest | None) -> None:
    # `inputs` distinguishes calibrations: factors folded into one half depend on those in the other.
    same = ("exit_layer", "precision", "model", "plan", "inputs")
    fits = (
        rest is not None and rest.part == "rest" and all(getattr(rest, name) == getattr(first, name) for name in same)
    )
    if not fits:
        raise EdgeSkipError(f"{rest_path} is not the second half of {path}: export the pair again")
