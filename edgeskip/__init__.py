"""EdgeSkip: the same language model, faster. `calibrate`, `plan`, `export`, then `load` and generate.

Nothing is imported before it is used: `import edgeskip` costs milliseconds, and what runs an artifact needs neither
torch nor transformers.
"""

from typing import TYPE_CHECKING

from edgeskip.core.version import __version__

if TYPE_CHECKING:
    from edgeskip.api.bench import bench
    from edgeskip.api.calibrate import calibrate
    from edgeskip.api.evaluate import Evaluation, evaluate
    from edgeskip.api.export import Artifact, export
    from edgeskip.api.plan import plan
    from edgeskip.api.train import TrainingResult, train
    from edgeskip.bench.benchmark import BenchResult
    from edgeskip.cli.progress import progress_bar
    from edgeskip.core.errors import EdgeSkipError
    from edgeskip.core.progress import Progress, ProgressEvent
    from edgeskip.profiles.schema import Profile
    from edgeskip.runtime.generation import Generation
    from edgeskip.runtime.online import Online
    from edgeskip.runtime.sampling import Sampling
    from edgeskip.runtime.session import Session, load
    from edgeskip.runtime.speculation.policy import Speculation

_MODULES = {
    "Artifact": "api.export",
    "BenchResult": "bench.benchmark",
    "EdgeSkipError": "core.errors",
    "Evaluation": "api.evaluate",
    "Generation": "runtime.generation",
    "Online": "runtime.online",
    "Profile": "profiles.schema",
    "Progress": "core.progress",
    "ProgressEvent": "core.progress",
    "Sampling": "runtime.sampling",
    "Session": "runtime.session",
    "Speculation": "runtime.speculation.policy",
    "TrainingResult": "api.train",
    "bench": "api.bench",
    "calibrate": "api.calibrate",
    "evaluate": "api.evaluate",
    "export": "api.export",
    "load": "runtime.session",
    "plan": "api.plan",
    "progress_bar": "cli.progress",
    "train": "api.train",
}

__all__ = [
    "Artifact",
    "BenchResult",
    "EdgeSkipError",
    "Evaluation",
    "Generation",
    "Online",
    "Profile",
    "Progress",
    "ProgressEvent",
    "Sampling",
    "Session",
    "Speculation",
    "TrainingResult",
    "__version__",
    "bench",
    "calibrate",
    "evaluate",
    "export",
    "load",
    "plan",
    "progress_bar",
    "train",
]


def __getattr__(name: str) -> object:
    """Import what is used, when it is used."""
    if name not in _MODULES:
        raise AttributeError(f"module 'edgeskip' has no attribute {name!r}")
    from importlib import import_module

    found = getattr(import_module(f"edgeskip.{_MODULES[name]}"), name)
    if name != "bench":  # that is a package too, which can be called: see there
        globals()[name] = found
    return found


def __dir__() -> list[str]:
    """List what users may use, imported or not."""
    return sorted(__all__)
