"""EdgeSkip: the same language model, faster. `load` opens an artifact; the rest is the command line's."""

from typing import TYPE_CHECKING, Any

from edgeskip.version import __version__

if TYPE_CHECKING:
    from edgeskip.runtime.session import Session, load

__all__ = ["Session", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """Loads the runtime only when it is used, so that importing `edgeskip` costs nothing."""
    if name in {"load", "Session"}:
        from edgeskip.runtime import session

        return getattr(session, name)
    raise AttributeError(f"module 'edgeskip' has no attribute {name!r}")
