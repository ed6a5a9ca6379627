"""Build llama.cpp's own programs from the source inside llama-cpp-python's sdist: what our GGUF files are tried with.

    python tools/build_llamacpp.py                    in the user's cache; prints the programs' paths, one a line
    python tools/build_llamacpp.py --into FOLDER      in a folder of yours

The sdist is that of the installed llama-cpp-python, so that the programs and the Python package are one version of
llama.cpp, compiled for this machine's processor, as the package compiles itself by default, with the flags that this
compiler needs (runtime/engines/llamacpp/build.py). Needs pip, cmake (on the PATH, or `pip install cmake`), a
C++ compiler, 600 MB and, on two cores, three to ten minutes; a second call returns at once. Stays in its folder:
nothing is installed.
"""

from __future__ import annotations

import importlib.util
import shlex
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from edgeskip.core.errors import EdgeSkipError, MissingExtraError
from edgeskip.core.files import staged_folder
from edgeskip.core.requirements import installed_version
from edgeskip.runtime.engines.llamacpp.build import advise_here

PACKAGE = "llama-cpp-python"
PROGRAMS = ("llama-bench", "llama-perplexity", "llama-speculative-simple", "llama-completion", "llama-quantize")
OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",  # llama-cli is a client of the server: llama-completion does its job
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",  # models are local files
)


def build_llamacpp(
    into: Annotated[
        Path | None, typer.Option(help="Folder for source, build and programs.  [default: the user's cache]")
    ] = None,
    sdist: Annotated[
        Path | None, typer.Option(help="An sdist of llama-cpp-python.  [default: download the installed version's]")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Compiler processes at a time.")] = 2,
) -> None:
    """Build llama.cpp's programs; their paths to stdout, progress to stderr.

    llama-bench, llama-perplexity, llama-speculative-simple, llama-completion and llama-quantize, from the source of
    the installed llama-cpp-python. Needs cmake and a C++ compiler; takes minutes, and nothing the second time.
    """
    if into is None:
        from edgeskip.models.fetch import cache_folder

        into = cache_folder() / "llamacpp"
    try:
        programs = build(into.resolve(), sdist=sdist, jobs=jobs)
    except OSError as error:
        raise EdgeSkipError(f"cannot build in {into}: {error}") from None
    for program in programs:
        print(program)


def build(into: Path, *, sdist: Path | None = None, jobs: int = 2) -> list[Path]:
    """Paths of PROGRAMS in that order, built under `into` if they are not there yet."""
    name = sdist.name.removesuffix(".tar.gz") if sdist else f"llama_cpp_python-{wanted_version()}"
    advice = advise_here()
    # Programs that were built without these flags are not taken for those with them.
    folder = into / (f"{name}-build" + "-without-amx" * (advice.cmake_args is not None))
    suffix = ".exe" if sys.platform == "win32" else ""
    programs = [folder / "bin" / f"{program}{suffix}" for program in PROGRAMS]
    if all(program.exists() for program in programs):
        return programs
    cmake = find_cmake()
    source = unpacked(sdist or downloaded(into, name), into / name) / "vendor" / "llama.cpp"
    folder.mkdir(exist_ok=True)
    log = folder / "build.log"
    log.unlink(missing_ok=True)
    fresh = not (folder / "CMakeCache.txt").exists()  # a build keeps the generator it began with
    generator = ["-G", "Ninja"] if fresh and shutil.which("ninja") else []
    begin = time.perf_counter()
    print(advice.why, file=sys.stderr)
    flags = shlex.split(advice.cmake_args or "")
    _logged([cmake, "-S", str(source), "-B", str(folder), *generator, *OPTIONS, *flags], log)
    print(f"building {', '.join(PROGRAMS)}: minutes; see {log}", file=sys.stderr)
    _logged([cmake, "--build", str(folder), "--config", "Release", "-j", str(jobs), "--target", *PROGRAMS], log)
    if missing := [program.name for program in programs if not program.exists()]:
        raise EdgeSkipError(f"the build made no {', '.join(missing)}: see {log}")
    print(f"built in {time.perf_counter() - begin:.0f} s", file=sys.stderr)
    return programs


def wanted_version() -> str:
    """Return the installed llama-cpp-python's version."""
    version = installed_version(PACKAGE)
    if version is None:
        raise MissingExtraError(PACKAGE, "llamacpp")
    return version.partition("+")[0]  # a local label (+cpu) names a build, not a source


def find_cmake() -> str:
    """Return the program on the PATH, else that of the PyPI package `cmake`."""
    found = shutil.which("cmake")
    if found is None and importlib.util.find_spec("cmake") is not None:
        import cmake

        found = shutil.which("cmake", path=cmake.CMAKE_BIN_DIR)
    if found is None:
        raise EdgeSkipError("building llama.cpp needs cmake: run  pip install cmake")
    return found


def downloaded(into: Path, name: str) -> Path:
    """Return the sdist `name` in `into`, fetched with pip if it is not there; pip's own index settings apply."""
    file = into / f"{name}.tar.gz"
    if file.exists():
        return file
    into.mkdir(parents=True, exist_ok=True)
    wanted = f"{PACKAGE}=={name.rpartition('-')[2]}"
    print(f"downloading the source of {wanted}", file=sys.stderr)
    pip = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check"]
    command = [*pip, "--no-deps", "--no-binary", PACKAGE, "-d", str(into), wanted]
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode or not file.exists():
        raise EdgeSkipError(
            f"cannot get {file.name}: see pip's output above; or fetch it by hand and pass --sdist FILE"
        )
    return file


def unpacked(sdist: Path, folder: Path) -> Path:
    """Return the sdist's content as `folder`."""
    if folder.exists():
        return folder
    try:
        with staged_folder(folder, overwrite=False) as staging, tarfile.open(sdist) as archive:
            archive.extractall(staging, filter="data")
            (top,) = staging.iterdir()
            for entry in list(top.iterdir()):
                entry.rename(staging / entry.name)
            top.rmdir()
            if not (staging / "vendor" / "llama.cpp" / "CMakeLists.txt").exists():
                raise EdgeSkipError(f"{sdist} holds no vendor/llama.cpp: it is not an sdist of {PACKAGE}")
    except (OSError, EOFError, ValueError, tarfile.TarError) as error:
        raise EdgeSkipError(f"{sdist} cannot be unpacked ({error}): fetch it again") from None
    return folder


def _logged(command: Sequence[str], log: Path) -> None:
    """Run a command with its output appended to `log`; EdgeSkipError with what matters of it if it fails."""
    with log.open("a", encoding="utf-8") as output:
        code = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        raise EdgeSkipError(why_failed(log.read_text(encoding="utf-8", errors="replace"), log))


def why_failed(output: str, log: Path) -> str:
    """One line for a cmake that failed: the missing tool if it is one, else its first error."""
    if "_COMPILER could be found" in output or "_COMPILER not set" in output:
        return "building llama.cpp needs a C and a C++ compiler; on Debian: apt-get install build-essential"
    if "CMAKE_MAKE_PROGRAM is not set" in output:
        return "building llama.cpp needs make or ninja: run  pip install ninja"
    lines = [line.strip() for line in output.splitlines() if "error" in line.lower()]
    return f"cannot build llama.cpp: {lines[0] if lines else 'cmake failed'} (see {log})"


if __name__ == "__main__":
    try:
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command()(build_llamacpp)
        app()
    except EdgeSkipError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
