"""Whether a provider of ONNX Runtime ends the process that opens it: found out in a child, once per build and driver.

Providers load drivers and compilers of their makers, which can crash; ONNX Runtime's own CPU provider loads nothing.
"""

from __future__ import annotations

import importlib.util
import platform
from functools import cache
from pathlib import Path

from edgeskip.core.child_exit import meaning_of
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.machine import processor_flags
from edgeskip.runtime.engines.onnxruntime.plugin_providers import plugin_module
from edgeskip.runtime.engines.self_test_cache import SelfTestSubject, files_in
from edgeskip.runtime.engines.self_test_runner import WRONG, run_cases

CHILD = "edgeskip.runtime.engines.onnxruntime.provider_child"
_LIBRARIES = [f"**/*{ending}" for ending in (".so", ".dylib", ".dll", ".pyd")]
_DRIVERS = ("/proc/driver/nvidia/version", "/sys/module/amdgpu/version", "/sys/module/i915/version")


def check_opens(name: str) -> None:
    """Raise EdgeSkipError if opening the provider called `name` ends the process, or gives wrong numbers, in a child.

    An exception while opening it is not reported here, because opening it afterwards raises it again.
    """
    _check(name.removesuffix(":graphs"))


@cache
def _check(name: str) -> None:
    subject = _subject(name)
    answer = subject.recall()
    if answer is None:
        answer = run_cases(CHILD, [name], f"the provider {name!r}")
        if answer is not None:
            subject.remember(answer)
    if not answer:
        return
    how = next(iter(answer.values()))
    what = "it gives wrong numbers" if how == WRONG else f"opening it ends in {how} ({meaning_of(how)})"
    raise EdgeSkipError(
        f"the provider {name!r} does not work here: {what}: update its drivers or reinstall "
        f"{_package(name)}, or pass --provider cpu"
    )


def _subject(name: str) -> SelfTestSubject:
    import onnxruntime

    files = _libraries("onnxruntime", "capi")
    if (module := plugin_module(name.partition(":")[0])) is not None:
        files += _libraries(module)
    drivers = [Path(path).read_text(errors="replace") for path in _DRIVERS if Path(path).is_file()]
    about = ["1", onnxruntime.__version__, platform.release(), *drivers, *sorted(processor_flags())]
    return SelfTestSubject(f"provider-{name.replace(':', '-')}", files, " ".join(about))


def _libraries(module: str, inside: str = "") -> tuple[Path, ...]:
    spec = importlib.util.find_spec(module)
    folders = getattr(spec, "submodule_search_locations", None) or ()
    return tuple(file for folder in folders for file in files_in(Path(folder) / inside, _LIBRARIES))


def _package(name: str) -> str:
    module = plugin_module(name.partition(":")[0])
    return "onnxruntime" if module is None else module.replace("_", "-")
