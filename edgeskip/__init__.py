"""EdgeSkip: the same language model, faster. `load` opens an artifact; the rest is the command line's."""

from typing import TYPE_CHECKING, Any

from edgeskip.core.version import __version__

if TYPE_CHECKING:
    from edgeskip.runtime.generation import Generation
    from edgeskip.runtime.online import Online
    from edgeskip.runtime.sampling import Sampling
    from edgeskip.runtime.session import Session, load
    from edgeskip.runtime.speculation.policy import Speculation

__all__ = ["Generation", "Online", "Sampling", "Session", "Speculation", "__version__", "load"]

_MODULES = {
    "Generation": "generation",
    "Online": "online",
    "Sampling": "sampling",
    "Session": "session",
    "Speculation": "speculation.policy",
    "load": "session",
}


def __getattr__(name: str) -> Any:
    """Loads the runtime only when it is used, so that importing `edgeskip` costs nothing."""
    if name in _MODULES:
        from importlib import import_module

        return getattr(import_module(f"edgeskip.runtime.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'edgeskip' has no attribute {name!r}")
