"""Whether an artifact folder holds what was exported: every small file has the hash that the manifest lists."""

from __future__ import annotations

from pathlib import Path

from edgeskip.artifacts.manifest import Manifest
from edgeskip.artifacts.path_errors import MANIFEST_NAME
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import sha256_of

# Larger ones are weights, which ONNX Runtime finds whole or refuses, and `edgeskip inspect` hashes. A tokenizer.json of
# 260,000 tokens has 33 MB; hashing takes about 1 ms a MB.
HASHED_BYTES = 40 << 20
TOKENIZER = "tokenizer.json"
# What a runtime, this one or another, reads if it is there: one that came later changes what the artifact says.
_READ_IF_THERE = (
    *("added_tokens.json", "chat_template.json", "chat_template.jinja", "config.json", "genai_config.json"),
    *("generation_config.json", "special_tokens_map.json", TOKENIZER, "tokenizer_config.json"),
)


def check_files(folder: Path, manifest: Manifest) -> None:
    """Compare `folder` with its manifest; takes a few milliseconds.

    Raises:
        EdgeSkipError: If a listed file is missing or, up to `HASHED_BYTES`, has another hash; if one that a runtime
            would read is there and not listed; if a name leads out of the folder.
    """
    for name, digest in manifest.files.items():
        if name in (".", "..") or Path(name).name != name:
            raise EdgeSkipError(
                f"{folder / MANIFEST_NAME} names {name!r}, outside its folder: do not use this artifact"
            )
        check_file(folder / name, digest)
    if TOKENIZER not in manifest.files:  # made by hand, or by a version that listed less
        return
    for name in _READ_IF_THERE:
        if name not in manifest.files and (folder / name).exists():
            raise EdgeSkipError(
                f"{folder / name} is not among the files of the artifact and would be read: remove it, or export again "
                "from a model with it"
            )


def check_file(path: Path, sha256: str | None) -> None:
    """Compare one file of an artifact with its hash; None = not known, so it must only be there.

    Raises:
        EdgeSkipError: If it is missing or, up to `HASHED_BYTES`, another file.
    """
    if not path.is_file():
        raise EdgeSkipError(f"{path} is missing: export again")
    if sha256 is not None and path.stat().st_size <= HASHED_BYTES and sha256_of(path) != sha256:
        raise EdgeSkipError(
            f"{path} is not the file its manifest names (sha256 differs): restore the exported one, or export again "
            "(to change it, edit the model's folder before the export)"
        )
