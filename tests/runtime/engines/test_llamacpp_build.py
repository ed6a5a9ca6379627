"""How llama.cpp is compiled. Oracles: what compilers print (copied from them), shlex as scikit-build-core reads
CMAKE_ARGS, and the compiler that is installed for what it does to AMX's tile configuration."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from edgeskip.runtime.engines.llamacpp import build as llamacpp_build
from edgeskip.runtime.engines.llamacpp.build import (
    AMX_OFF,
    Compiler,
    advise,
    compilers_here,
    compilers_of,
    install_command,
    parse_compiler,
    rebuild_command,
)

GCC_12_2, GCC_12_4 = Compiler("gcc", (12, 2, 0)), Compiler("gcc", (12, 4, 0))
FREE = "\nCopyright (C) 2022 Free Software Foundation, Inc.\nThis is free software"
AMX, PLAIN = {"avx2", "amx_tile", "amx_int8", "amx_bf16"}, {"avx2", "avx512f"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"gcc (Debian 12.2.0-14+deb12u1) 12.2.0{FREE}", "gcc 12.2.0"),
        (f"cc (Debian 12.2.0-14+deb12u1) 12.2.0{FREE}", "gcc 12.2.0"),
        (f"c++ (Ubuntu 11.4.0-1ubuntu1~22.04) 11.4.0{FREE}", "gcc 11.4.0"),
        (f"gcc (GCC) 13.2.1 20240316 (Red Hat 13.2.1-7){FREE}", "gcc 13.2.1"),
        (f"x86_64-conda-linux-gnu-cc (conda-forge gcc 12.3.0-5) 12.3.0{FREE}", "gcc 12.3.0"),
        ("Debian clang version 14.0.6\nTarget: x86_64-pc-linux-gnu", "clang 14.0.6"),
        ("Apple clang version 15.0.0 (clang-1500.3.9.4)", "clang 15.0.0"),
        ("GCC: (Debian 12.2.0-14+deb12u1) 12.2.0", "gcc 12.2.0"),
        ("GCC: (GNU) 10.2.1 20210130 (Red Hat 10.2.1-11)", "gcc 10.2.1"),
        ("Intel(R) oneAPI DPC++/C++ Compiler 2024.0.0 (2024.0.0.20231017)", "None"),
        ("", "None"),
    ],
)
def test_compilers_by_what_they_print(text: str, expected: str) -> None:
    assert str(parse_compiler(text)) == expected


@pytest.mark.parametrize(
    ("compiler", "breaks"),
    [
        ("gcc 10.2.1", False),  # has no AMX
        ("gcc 11.4.0", True),
        ("gcc 12.2.0", True),
        ("gcc 12.3.0", True),
        ("gcc 12.4.0", False),
        ("gcc 13.1.0", True),
        ("gcc 13.2.1", True),
        ("gcc 13.3.0", False),
        ("gcc 14.1.0", False),
        ("gcc 15.0.0", False),
        ("clang 14.0.6", False),
        ("clang 12.0.0", False),
    ],
)
@pytest.mark.parametrize("flags", [AMX, PLAIN], ids=["AMX", "no AMX"])
@pytest.mark.parametrize("given", ["", "-DGGML_CUDA=on -DCMAKE_C_FLAGS='-O3 -g'"], ids=["no CMAKE_ARGS", "CMAKE_ARGS"])
def test_flags_by_compiler_processor_and_environment(compiler: str, breaks: bool, flags: set[str], given: str) -> None:
    """gcc bug 114098: repaired in 12.4 and 13.3 (their headers), there from the first gcc with AMX, 11."""
    name, version = compiler.split()
    advice = advise(flags, [Compiler(name, tuple(map(int, version.split("."))))], {"CMAKE_ARGS": given})
    if not (breaks and "amx_tile" in flags):
        assert advice.cmake_args is None
        return
    assert advice.cmake_args is not None
    words = shlex.split(advice.cmake_args)
    assert words[: len(shlex.split(given))] == shlex.split(given)
    settings = dict(word[2:].split("=", 1) for word in words)  # the last of a name counts, for cmake as well
    assert settings["CMAKE_C_FLAGS"] == f"{'-O3 -g ' * bool(given)}{AMX_OFF}"
    assert settings["CMAKE_CXX_FLAGS"] == AMX_OFF
    assert compiler in advice.why


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"CFLAGS": "-O1", "CXXFLAGS": "-O2"}, f"-DCMAKE_C_FLAGS='-O1 {AMX_OFF}' -DCMAKE_CXX_FLAGS='-O2 {AMX_OFF}'"),
        ({"CMAKE_ARGS": f"-DCMAKE_C_FLAGS='{AMX_OFF}' -DCMAKE_CXX_FLAGS:STRING='-O3 {AMX_OFF}'"}, None),
        ({"CFLAGS": AMX_OFF, "CXXFLAGS": AMX_OFF}, None),
        ({"CMAKE_ARGS": "-DGGML_NATIVE=OFF"}, None),
        (
            {"CMAKE_ARGS": "-DGGML_NATIVE=OFF -DGGML_AMX_INT8=ON"},
            f"-DGGML_NATIVE=OFF -DGGML_AMX_INT8=ON -DCMAKE_C_FLAGS='{AMX_OFF}' -DCMAKE_CXX_FLAGS='{AMX_OFF}' "
            "-DGGML_AMX_INT8=OFF",
        ),
        ({"CMAKE_ARGS": "-DX='open"}, f"-DX='open -DCMAKE_C_FLAGS='{AMX_OFF}' -DCMAKE_CXX_FLAGS='{AMX_OFF}'"),
    ],
)
def test_the_users_own_flags_are_kept_and_respected(environment: dict[str, str], expected: str | None) -> None:
    assert advise(AMX, [GCC_12_2, GCC_12_2], environment).cmake_args == expected


def test_one_bad_compiler_of_two_is_enough() -> None:
    assert advise(AMX, [Compiler("clang", (16,)), GCC_12_2], {}).cmake_args is not None
    assert advise(AMX, [GCC_12_4, GCC_12_4], {}).cmake_args is None
    assert advise(AMX, [GCC_12_4], {}, without_amx=True).cmake_args is not None
    assert advise(PLAIN, [GCC_12_2], {}, without_amx=True).cmake_args is None
    assert advise(AMX, [], {}).cmake_args is None


def test_the_commands_run_in_a_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: sh itself, with a stand-in for Python that shows what it was given."""
    monkeypatch.setattr(llamacpp_build.sys, "executable", "show")
    for given in ("", "-DX='a b'", '-DX="a b"', "-DX=$HOME"):
        advice = advise(AMX, [GCC_12_2], {"CMAKE_ARGS": given})
        show = 'show() { printf "%s|" "$CMAKE_ARGS" "$@"; }; '
        command = rebuild_command(advice, "0.3.36+cpu")
        shown = subprocess.run(["sh", "-c", show + command], capture_output=True, text=True, check=True).stdout
        words = "-m|pip|install|--no-cache-dir|--force-reinstall|--no-deps|--no-binary|llama-cpp-python|"
        assert shown == f"{advice.cmake_args}|{words}llama-cpp-python==0.3.36|"
    none = advise(PLAIN, [GCC_12_2], {})
    assert install_command(none, "edgeskip[llamacpp]") == "pip install 'edgeskip[llamacpp]'"


def test_compilers_that_cmake_would_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: programs that say they are compilers."""

    def program(name: str, says: str) -> str:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\necho '{says}'\n")
        path.chmod(0o755)
        return str(path)

    program("cc", "cc (Debian 12.2.0-14) 12.2.0 Free Software Foundation")
    program("g++", "g++ (Debian 13.3.0-1) 13.3.0")
    clang = program("clang-17", "Debian clang version 17.0.6")
    monkeypatch.setenv("PATH", f"{tmp_path}")
    assert list(map(str, compilers_here({}))) == ["gcc 12.2.0", "gcc 13.3.0"]
    assert list(map(str, compilers_here({"CC": clang}))) == ["clang 17.0.6", "gcc 13.3.0"]
    assert list(map(str, compilers_here({"CC": f"{clang} -m64", "CXX": "clang-17"}))) == ["clang 17.0.6"] * 2
    chosen = {"CMAKE_ARGS": f"-DCMAKE_CXX_COMPILER={clang}", "CXX": "g++"}
    assert list(map(str, compilers_here(chosen))) == ["gcc 12.2.0", "clang 17.0.6"]
    assert compilers_here({"CC": "/nowhere/cc", "CXX": str(tmp_path)}) == []


def test_the_compiler_of_a_library(tmp_path: Path) -> None:
    """By hand: what linkers put into .comment; objects of gcc's stand beside those of clang."""
    library = tmp_path / "libggml.so"
    library.write_bytes(b"\x7fELF\0\0GCC: (Debian 12.2.0-14+deb12u1) 12.2.0\0.shstrtab")
    assert compilers_of([library, tmp_path / "absent"]) == [GCC_12_2]
    library.write_bytes(b"\x7fELF\0GCC: (Debian 12.2.0-14) 12.2.0\0Debian clang version 14.0.6\0")
    assert list(map(str, compilers_of([library]))) == ["clang 14.0.6"]


TILES = """
#include <immintrin.h>
#include <string.h>
void f(int rows) { unsigned char c[64]; memset(c, 0, 64); c[0] = 1; c[48] = rows; _tile_loadconfig(c); }
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler here")
def test_the_table_agrees_with_the_compiler_that_is_here() -> None:
    """The compiler's assembly: does it still write the number of rows, byte 48, before it loads the configuration?"""
    compilers = compilers_here({"CXX": "cc"})
    command = ["cc", "-O2", "-mamx-tile", "-S", "-o", "-", "-x", "c", "-"]
    done = subprocess.run(command, input=TILES, capture_output=True, text=True, check=False)
    if done.returncode or not compilers:
        pytest.skip("it does not know AMX")
    stores_rows = re.search(r"movb\s+%dil", done.stdout) is not None
    assert stores_rows == (not compilers[0].breaks_amx), done.stdout
