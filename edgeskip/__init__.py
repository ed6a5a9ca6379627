"""EdgeSkip: the same language model, faster. `calibrate`, `plan`, `export`, then `load` and generate.

Nothing is imported before it is used: `import edgeskip` costs milliseconds, and what runs an artifact needs neither
torch nor transformers.
"""

from typing import TYPE_CHECKING

from edgeskip.core.version import __version__

if TYPE_CHECKING:
    from edgeskip.api.calibrate import calibrate
    from edgeskip.api.plan import plan
    from edgeskip.core.errors import EdgeSkipError
    from edgeskip.core.progress import Progress, ProgressEvent
    from edgeskip.profiles.schema import Profile
    from edgeskip.runtime.generation import Generation
    from edgeskip.runtime.online import Online
    from edgeskip.runtime.sampling import Sampling
    from edgeskip.runtime.session import Session, load
    from edgeskip.runtime.speculation.policy import Speculation

_MODULES = {
    "EdgeSkipError": "core.errors",
    "Generation": "runtime.generation",
    "Online": "runtime.online",
    "Profile": "profiles.schema",
    "Progress": "core.progress",
    "ProgressEvent": "core.progress",
    "Sampling": "runtime.sampling",
    "Session": "runtime.session",
    "Speculation": "runtime.speculation.policy",
    "calibrate": "api.calibrate",
    "load": "runtime.session",
    "plan": "api.plan",
}

__all__ = [
    "EdgeSkipError",
    "Generation",
    "Online",
    "Profile",
    "Progress",
    "ProgressEvent",
    "Sampling",
    "Session",
    "Speculation",
    "__version__",
    "calibrate",
    "load",
    "plan",
]


def __getattr__(name: str) -> object:
    """Import what is used, when it is used."""
    if name not in _MODULES:
        raise AttributeError(f"module 'edgeskip' has no attribute {name!r}")
    from importlib import import_module

    found = getattr(import_module(f"edgeskip.{_MODULES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """List what users may use, imported or not."""
    return sorted(__all__)
