"""How llama.cpp has to be compiled here: flags for the compiler and processor, and the command that builds it again.

    python -m edgeskip.runtime.engines.llamacpp.build     prints what CMAKE_ARGS has to be

The one defect known: gcc before 12.4 and 13.3 declares that `_tile_loadconfig` reads 8 of its 64 bytes (gcc bug
114098), so it drops the stores that fill the others, and AMX's next instruction is a general protection fault. With
`-march=native`, as llama-cpp-python compiles itself, that is every product of most weight types on a processor with
AMX. The headers of Debian's gcc 12.2 have the wrong declaration, those of 12.4 and 13.3 the right one. gcc 11 was the
first to have AMX; which of its last releases has the repair was not seen, so all count: it costs speed alone.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "llama-cpp-python"
AMX_OFF = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
AMX_BUG = "gcc bug 114098"
_REPAIRED = {12: (12, 4), 13: (13, 3)}
_LANGUAGES = {"C": ("CC", "CFLAGS", ("cc", "gcc", "clang")), "CXX": ("CXX", "CXXFLAGS", ("c++", "g++", "clang++"))}
_ON = re.compile(r"-D(GGML_AMX_\w+?)(:\w+)?=(?i:ON|1|TRUE|YES|Y)$")


@dataclass(frozen=True)
class Compiler:
    """`name` is gcc or clang."""

    name: str
    version: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} {'.'.join(map(str, self.version))}"

    @property
    def breaks_amx(self) -> bool:
        """Whether it compiles the loading of AMX's tile configuration wrongly."""
        if self.name != "gcc" or self.version < (11,):
            return False
        return self.version[0] == 11 or self.version < _REPAIRED.get(self.version[0], (0,))


@dataclass(frozen=True)
class BuildAdvice:
    """`cmake_args`: what CMAKE_ARGS has to be, the user's own included; None = whatever it is now. `why` in words."""

    cmake_args: str | None
    why: str


def parse_compiler(text: str) -> Compiler | None:
    """Return the compiler whose version output, or mark in a library, is `text`; None for another one."""
    if found := re.search(r"clang version (\d+(?:\.\d+)*)", text):
        return Compiler("clang", _numbers(found[1]))
    # NAME (PACKAGE) VERSION …: "gcc (Debian 12.2.0-14+deb12u1) 12.2.0", "GCC: (GNU) 13.2.1 20231205 (Red Hat 13.2.1-6)"
    found = re.search(r"^[^\n(]*\(.*?\) (\d+\.\d+(?:\.\d+)*)", text)
    if found and re.search(r"Free Software Foundation|\bgcc\b|\bg\+\+", text, re.IGNORECASE):
        return Compiler("gcc", _numbers(found[1]))
    return None


def advise(
    cpu_flags: Iterable[str],
    compilers: Sequence[Compiler],
    environment: Mapping[str, str],
    *,
    without_amx: bool = False,
) -> BuildAdvice:
    """Return the flags to compile with, for a processor with `cpu_flags` (as in /proc/cpuinfo) and C and C++ compilers.

    `environment`: CMAKE_ARGS, CFLAGS and CXXFLAGS of it are kept and added to. `without_amx`: AMX is to be left out
    whichever compiler there is, because a library broke.
    """
    given = environment.get("CMAKE_ARGS", "")
    if "amx_tile" not in cpu_flags:
        return BuildAdvice(None, "this processor has no AMX, so no flags are needed")
    bad = next((compiler for compiler in compilers if compiler.breaks_amx), None)
    if bad is None and not without_amx:
        names = " and ".join(dict.fromkeys(map(str, compilers))) or "the compiler"
        return BuildAdvice(None, f"{names} is not known to break on this processor's AMX, so no flags are needed")
    why = f"{bad} breaks on this processor's AMX ({AMX_BUG})" if bad else "it broke here"
    why += ", so AMX is left out"
    words = _split(given)
    values = {name: _value(words, f"CMAKE_{name}_FLAGS") for name in _LANGUAGES}
    flags = {name: value or environment.get(_LANGUAGES[name][1], "") for name, value in values.items()}
    switched = [found[1] for word in words if (found := _ON.match(word))]
    if not switched:
        if all(set(AMX_OFF.split()) <= set(value.split()) for value in flags.values()):
            return BuildAdvice(None, f"{why}: your flags do that")
        if re.fullmatch(r"(?i:OFF|0|FALSE|NO|N)", _value(words, "GGML_NATIVE") or ""):
            return BuildAdvice(None, f"{why}: your CMAKE_ARGS turn GGML_NATIVE off")
    added = [f"-DCMAKE_{name}_FLAGS={shlex.quote(f'{value} {AMX_OFF}'.strip())}" for name, value in flags.items()]
    added += [f"-D{name}=OFF" for name in switched]
    return BuildAdvice(" ".join(filter(None, [given.strip(), *added])), why)


def advise_here(*, without_amx: bool = False) -> BuildAdvice:
    """Return `advise` for this machine, its compilers and the environment."""
    from edgeskip.core.machine import processor_flags

    flags = processor_flags()
    compilers = compilers_here(os.environ) if "amx_tile" in flags else []
    return advise(flags, compilers, os.environ, without_amx=without_amx)


def compilers_here(environment: Mapping[str, str]) -> list[Compiler]:
    """Return the C and C++ compilers that cmake would take; missing and unknown ones are left out."""
    words, found = _split(environment.get("CMAKE_ARGS", "")), []
    for language, (variable, _, names) in _LANGUAGES.items():
        chosen = _value(words, f"CMAKE_{language}_COMPILER")
        command = [chosen] if chosen else _split(environment.get(variable, ""))
        command = command or [next(filter(shutil.which, names), "")]
        try:
            answer = subprocess.run(
                [*command, "--version"], capture_output=True, text=True, errors="replace", timeout=20
            )
        except (OSError, ValueError, subprocess.SubprocessError):
            continue
        if compiler := parse_compiler(answer.stdout):
            found.append(compiler)
    return found


def install_command(advice: BuildAdvice, requirement: str) -> str:
    """Return the shell command that installs `requirement` with the advised flags."""
    return f"{_prefix(advice)}pip install '{requirement}'"


def rebuild_command(advice: BuildAdvice, version: str | None) -> str:
    """Return the shell command that compiles llama-cpp-python `version` again here, without any cached wheel."""
    return f"{_prefix(advice)}{shlex.join(rebuild_arguments(version))}"


def rebuild_arguments(version: str | None) -> list[str]:
    """Return that command's arguments. A cached wheel may be compiled for another processor, or without the flags."""
    # A local label (+cpu) names a build, not a source.
    wanted = f"{PACKAGE}=={version.partition('+')[0]}" if version else PACKAGE
    pip = [sys.executable, "-m", "pip", "install"]
    return [*pip, "--no-cache-dir", "--force-reinstall", "--no-deps", "--no-binary", PACKAGE, wanted]


def compilers_of(files: Iterable[Path]) -> list[Compiler]:
    """Return the compilers that left their names in the libraries (ELF's .comment); [] if none did."""
    found: dict[Compiler, None] = {}
    for path in files:
        try:
            content = path.read_bytes()
        except OSError:
            continue
        for text in re.findall(rb"GCC: \([^)\0]{0,80}\) [\d.]+|clang version [\d.]+", content):
            if compiler := parse_compiler(text.decode("ascii", "replace")):
                found[compiler] = None
    # What clang links begins and ends with objects of gcc's.
    return [one for one in found if one.name == "clang"] or list(found)


def _prefix(advice: BuildAdvice) -> str:
    if advice.cmake_args is None:
        return ""
    plain = not re.search(r'["$`\\]', advice.cmake_args)
    return f'CMAKE_ARGS="{advice.cmake_args}" ' if plain else f"CMAKE_ARGS={shlex.quote(advice.cmake_args)} "


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:  # an open quote
        return text.split()


def _value(words: Sequence[str], name: str) -> str | None:
    """Return what the last `-DNAME=…` sets, as cmake takes it."""
    found = [match[1] for word in words if (match := re.match(rf"-D{name}(?::\w+)?=(.*)", word, re.DOTALL))]
    return found[-1] if found else None


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split("."))


def main() -> None:
    """Print the CMAKE_ARGS to compile llama-cpp-python with on this machine."""
    print(advise_here().cmake_args or os.environ.get("CMAKE_ARGS", ""))


if __name__ == "__main__":
    main()
