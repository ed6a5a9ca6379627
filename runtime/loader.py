"""Open whatever EdgeSkip can run: choose the engine for an artifact, from one list."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from edgeskip.artifacts.location import artifact_at
from edgeskip.runtime.engines.artifact import OpenedArtifact, OpenOptions
from edgeskip.runtime.engines.threads import threads_or_default


@dataclass(frozen=True)
class EngineEntry:
    """An engine in the list of those that can open artifacts.

    Attributes:
        opens: Whether the engine is the one for a path.
        opener: Module with `open_artifact(path, options) -> OpenedArtifact`; imported when it is needed, so that no
            artifact loads another engine's library.
    """

    opens: Callable[[Path], bool]
    opener: str


def _is_gguf(path: Path) -> bool:
    return not path.is_dir() and (path.is_file() or path.suffix.lower() == ".gguf")


# The first that opens a path is taken. A new engine is a folder, `engines/NAME/`, with an `opener` module, and a line
# here.
ENGINES = (
    EngineEntry(_is_gguf, "edgeskip.runtime.engines.llamacpp.opener"),
    # Also for what is not there: this opener's error says what an artifact is.
    EngineEntry(lambda path: True, "edgeskip.runtime.engines.onnxruntime.opener"),
)


def open_artifact(
    path: Path, *, provider: str = "cpu", threads: int | None = None, frugal: bool = False, alone: bool = False
) -> OpenedArtifact:
    """Open an artifact folder or a GGUF file.

    Args:
        path: The folder, the file, or a folder that holds one GGUF file to run.
        provider: Processor to run on, as users name it.
        threads: Threads to compute with; None = the physical cores that this process may use.
        frugal: As in `OpenOptions`.
        alone: As in `OpenOptions`.

    Returns:
        The engine with the model loaded, and the artifact's text treatment.

    Raises:
        EdgeSkipError: If there is no artifact at `path`, it is damaged, or it cannot run on `provider`.
    """
    options = OpenOptions(provider, threads_or_default(threads), frugal, alone)
    path = artifact_at(path)
    entry = next(entry for entry in ENGINES if entry.opens(path))
    opened: OpenedArtifact = import_module(entry.opener).open_artifact(path, options)
    return opened
