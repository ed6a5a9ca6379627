"""llama.cpp's self-test: once per build and processor, in a child, so that no build ends the process of a user.

`kernel_checks` is the child; this decides whether it has to run, and says in one line what its crash means.
"""

from __future__ import annotations

import importlib.util
import os
import platform
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.machine import processor_flags
from edgeskip.core.requirements import installed_version
from edgeskip.runtime.engines.llamacpp.build import (
    AMX_BUG,
    PACKAGE,
    Compiler,
    advise_here,
    compilers_of,
    rebuild_command,
)
from edgeskip.runtime.engines.self_test_cache import Failures, SelfTestSubject, files_in
from edgeskip.runtime.engines.self_test_runner import WRONG, run_cases

# Name → ggml_type (ggml.h) and the relative error (norm of the difference / norm) that the type may cause in a product
# with normal weights and inputs: twice what was measured for blocks, more for floats, which some processors round more.
TYPES = {
    "f32": (0, 1e-3), "f16": (1, 0.02), "bf16": (30, 0.02), "q8_0": (8, 0.03), "q5_1": (7, 0.08), "q5_0": (6, 0.09),
    "q4_1": (3, 0.16), "q4_0": (2, 0.18), "q2_K": (10, 0.65), "q3_K": (11, 0.32), "q4_K": (12, 0.15),
    "q5_K": (13, 0.08), "q6_K": (14, 0.04), "iq4_nl": (20, 0.16), "iq4_xs": (23, 0.16),
}  # fmt: skip
ONE_ROW, SEVERAL_ROWS = 1, 37  # a decode step; a prompt, larger than any kernel's tile and no multiple of one
MOST_MODEL_ERROR = 0.02  # of a whole model in float16; the caches round too
CASES = [f"{name}/{way}" for name in TYPES for way in ("lookup", ONE_ROW, SEVERAL_ROWS)] + [
    f"{name}/{rows}" for name in ("attention", "model") for rows in (ONE_ROW, SEVERAL_ROWS)
]

CHILD = "edgeskip.runtime.engines.llamacpp.kernel_checks"
_VERSION = 2  # of the self-test: raise it when it tests more
_LIBRARIES = [f"*{name}*{ending}" for name in ("ggml", "llama") for ending in (".so", ".dylib", ".dll")]
_SHOWN = {"model": "a whole model"}
_LOADING = "load"  # the child's name for what comes before its cases


@cache
def check_llamacpp() -> None:
    """Raise EdgeSkipError if llama.cpp fails its self-test here; do nothing if it is not installed.

    Runs the test, a second or two, only for a build and processor that were not tested before.
    """
    if (answer := self_test()) is not None and answer:
        raise EdgeSkipError(f"{describe(answer)}; build it again:  {rebuild(answer)}")


def self_test(*, again: bool = False) -> Failures | None:
    """Return what is wrong with llama.cpp here, by case; {} = nothing, None = no library, or no child can be started.

    `again` tests even if it was found wrong before. Raises EdgeSkipError if the test cannot be done.
    """
    files = library_files()
    if not files:
        return None
    subject = _subject(files)
    answer = subject.recall()
    if answer is None or (answer and again):
        answer = run_cases(CHILD, CASES, "llama.cpp")
        if answer is not None:
            subject.remember(answer)
    return answer


def describe(answer: Failures) -> str:
    """Return what fails, and why as far as that is known."""
    why, _ = _cause(answer)
    return f"llama.cpp does not work here: {_what(answer)}; {why}"


def rebuild(answer: Failures) -> str:
    """Return the command that builds a llama.cpp that works."""
    return rebuild_command(advise_here(without_amx=needs_no_amx(answer)), installed_version(PACKAGE))


def needs_no_amx(answer: Failures) -> bool:
    """Return whether a build without AMX may fix it."""
    return _cause(answer)[1]


def library_files() -> tuple[Path, ...]:
    """Return the shared libraries that llama-cpp-python would load, and its loader; () = not installed."""
    # As llama_cpp.llama_cpp does, which is not imported: a library for another processor can end the process then.
    try:
        spec = importlib.util.find_spec("llama_cpp")
    except (ImportError, ValueError):
        return ()
    if spec is None or not spec.submodule_search_locations:
        return ()
    package = Path(next(iter(spec.submodule_search_locations)))
    libraries = files_in(Path(os.environ.get("LLAMA_CPP_LIB_PATH") or package / "lib"), _LIBRARIES)
    return libraries + files_in(package, ["llama_cpp.py", "_ctypes_extensions.py"])


def _subject(files: tuple[Path, ...]) -> SelfTestSubject:
    about = [str(_VERSION), installed_version(PACKAGE) or "", platform.machine(), *sorted(processor_flags())]
    return SelfTestSubject("llamacpp", files, " ".join(about))


def _what(answer: Failures) -> str:
    """Describe the failures: "computing with f16, q4_0 (1 and 37 rows) ends in SIGSEGV"."""
    if _LOADING in answer:
        return f"loading it ends in {answer[_LOADING]}"
    parts = []
    for how in dict.fromkeys(answer.values()):
        ends = "gives wrong numbers" if how == WRONG else f"ends in {how}"
        by_way: dict[str, list[str]] = {}
        for case in (case for case, found in answer.items() if found == how):
            name, _, way = case.partition("/")
            by_way.setdefault(name, []).append(way)
        names: dict[tuple[str, ...], list[str]] = {}
        for name, all_ways in by_way.items():
            names.setdefault(tuple(all_ways), []).append(name)
        for ways, found in names.items():
            if set(TYPES) <= set(found):
                found = ["every weight type", *(name for name in found if name not in TYPES)]
            parts.append(f"computing with {', '.join(_SHOWN.get(name, name) for name in found)} ({_ways(ways)}) {ends}")
    return ", ".join(parts)


def _ways(ways: Sequence[str]) -> str:
    """Describe the ways: "lookup, 1 and 37 rows"."""
    rows = " and ".join(way for way in ways if way.isdigit())
    words = [way for way in ways if not way.isdigit()] + ([f"{rows} row{'s' * (rows != '1')}"] if rows else [])
    return ", ".join(words)


def _cause(answer: Failures) -> tuple[str, bool]:
    """Return the cause, as far as it is known, and whether to build without AMX."""
    return known_cause(set(answer.values()), compilers_of(library_files()), processor_flags())


def known_cause(ends: set[str], compilers: Sequence[Compiler], flags: Collection[str]) -> tuple[str, bool]:
    """Return `_cause` of cases that ended so, with a library by these compilers, on a processor with these flags."""
    by = f"compiled by {' and '.join(map(str, compilers))}" if compilers else "compiled by an unknown compiler"
    amx = "amx_tile" in flags and bool(ends & {"SIGSEGV", "SIGILL"})
    if amx and ends == {"SIGSEGV"} and any(compiler.breaks_amx for compiler in compilers):
        return (
            f"{by}, which passes 8 of the 64 bytes of the tile configuration to this processor's AMX ({AMX_BUG})",
            True,
        )
    if amx:
        return f"{by}; perhaps it is this processor's AMX, which the command leaves out", True
    if "SIGILL" in ends:
        return f"{by} for a processor with instructions that this one does not have", False
    return f"{by}; the cause is not known", False
