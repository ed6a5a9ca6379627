"""Getting llama.cpp's programs built. Oracle: cmake itself, on a source whose targets write empty programs."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import build_llamacpp
import pytest
from build_llamacpp import OPTIONS, PROGRAMS, build, unpacked, wanted_version, why_failed

from edgeskip.core.errors import EdgeSkipError, MissingExtraError
from edgeskip.runtime.engines.llamacpp.build import AMX_OFF, BuildAdvice

SCRIPT = Path(build_llamacpp.__file__)
needs_cmake = pytest.mark.skipif(
    shutil.which("cmake") is None or not (shutil.which("make") or shutil.which("ninja")), reason="no cmake or make here"
)
# A custom target for each program, that makes bin/NAME as llama.cpp's build does; no compiler needed.
TARGETS = "\n".join(
    f"add_custom_target({name} COMMAND ${{CMAKE_COMMAND}} -E touch bin/{name} VERBATIM)" for name in PROGRAMS
)
PROJECT = (
    f"cmake_minimum_required(VERSION 3.14)\nproject(x NONE)\nfile(MAKE_DIRECTORY ${{CMAKE_BINARY_DIR}}/bin)\n{TARGETS}"
)


def write_sdist(folder: Path, project: str, *, inside: str = "vendor/llama.cpp/CMakeLists.txt") -> Path:
    path = folder / "llama_cpp_python-9.9.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        entry = tarfile.TarInfo(f"llama_cpp_python-9.9/{inside}")
        entry.size = len(project.encode())
        archive.addfile(entry, io.BytesIO(project.encode()))
    return path


@needs_cmake
def test_builds_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sdist = write_sdist(tmp_path, PROJECT)
    programs = build(tmp_path / "into", sdist=sdist)
    assert [program.name for program in programs] == list(PROGRAMS)
    assert all(program.is_file() for program in programs)
    cache = (tmp_path / "into" / "llama_cpp_python-9.9-build" / "CMakeCache.txt").read_text()
    assert all(f"{option[2:].partition('=')[0]}:" in cache for option in OPTIONS)

    monkeypatch.setattr(build_llamacpp, "_logged", lambda command, log: pytest.fail("builds again"))
    assert build(tmp_path / "into", sdist=sdist) == programs


@needs_cmake
def test_the_compilers_flags_reach_cmake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that were built without them are not taken for those with them."""
    sdist = write_sdist(tmp_path, PROJECT)
    (without, *_) = build(tmp_path / "into", sdist=sdist)
    advice = BuildAdvice(f"-DCMAKE_C_FLAGS='{AMX_OFF}' -DCMAKE_CXX_FLAGS='-O2 {AMX_OFF}'", "gcc 12.2.0 breaks")
    monkeypatch.setattr(build_llamacpp, "advise_here", lambda: advice)
    (with_flags, *_) = build(tmp_path / "into", sdist=sdist)
    cache = (with_flags.parents[1] / "CMakeCache.txt").read_text()
    assert f"CMAKE_C_FLAGS:UNINITIALIZED={AMX_OFF}\n" in cache
    assert f"CMAKE_CXX_FLAGS:UNINITIALIZED=-O2 {AMX_OFF}\n" in cache
    assert with_flags != without


@needs_cmake
def test_an_interrupted_build_goes_on(tmp_path: Path) -> None:
    sdist = write_sdist(tmp_path, PROJECT)
    programs = build(tmp_path / "into", sdist=sdist)
    programs[2].unlink()
    assert build(tmp_path / "into", sdist=sdist)[2].is_file()


@needs_cmake
def test_a_missing_compiler_is_one_line(tmp_path: Path) -> None:
    """cmake's own words where there is none."""
    sdist = write_sdist(tmp_path, "cmake_minimum_required(VERSION 3.14)\nproject(x C CXX)\n")
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("cmake", "make", "ninja", "uname"):
        if found := shutil.which(tool):
            (tools / tool).symlink_to(found)
    result = script(tmp_path, "--sdist", str(sdist), path=str(tools))
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == (
        "error: building llama.cpp needs a C and a C++ compiler; on Debian: apt-get install build-essential"
    )
    assert "Traceback" not in result.stderr


def test_a_missing_cmake_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(build_llamacpp.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EdgeSkipError, match="needs cmake: run  pip install cmake"):
        build(tmp_path, sdist=write_sdist(tmp_path, PROJECT))


@needs_cmake
def test_a_failed_build_names_its_first_error_and_the_log(tmp_path: Path) -> None:
    sdist = write_sdist(tmp_path, PROJECT + '\nmessage(FATAL_ERROR "no luck")')
    with pytest.raises(EdgeSkipError, match=r"cannot build llama.cpp: CMake Error at .* \(see .*build\.log\)"):
        build(tmp_path / "into", sdist=sdist)


def test_no_make_is_told() -> None:
    words = "CMake Error: CMake was unable to find a build program … CMAKE_MAKE_PROGRAM is not set."
    assert why_failed(words, Path("build.log")) == "building llama.cpp needs make or ninja: run  pip install ninja"


def test_an_archive_of_something_else_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    sdist = write_sdist(tmp_path, "", inside="README.md")
    with pytest.raises(EdgeSkipError, match=r"holds no vendor/llama\.cpp"):
        unpacked(sdist, tmp_path / "source")
    sdist.write_bytes(sdist.read_bytes()[:40])
    with pytest.raises(EdgeSkipError, match=r"cannot be unpacked .*: fetch it again"):
        unpacked(sdist, tmp_path / "source")
    assert [path.name for path in tmp_path.iterdir()] == [sdist.name]


@pytest.mark.parametrize(("installed", "wanted"), [("0.3.36", "0.3.36"), ("0.3.36+cpu", "0.3.36")])
def test_the_installed_version_is_wanted(installed: str, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_llamacpp, "installed_version", lambda package: installed)
    assert wanted_version() == wanted


def test_without_the_package_there_is_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_llamacpp, "installed_version", lambda package: None)
    with pytest.raises(MissingExtraError, match=r"edgeskip\[llamacpp\]"):
        wanted_version()


def script(folder: Path, *arguments: str, path: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("CC", "CXX")} | {"PATH": path}
    return subprocess.run(
        [sys.executable, str(SCRIPT), "--into", str(folder / "into"), *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=False,
    )
