"""Install llama-cpp-python into the Python that runs this, compiled for this compiler and processor, and test it.

    python tools/install_llamacpp.py [PIP ARGUMENT …]      [default: llama-cpp-python]

pip keeps the wheels that it compiles and takes them again, also one made with other flags or for another processor.
So what counts is the self-test (runtime/engines/llamacpp/self_test.py): if it fails, pip's kept wheel is
removed, llama-cpp-python is compiled again with the flags that this machine needs, and tested again.
Run by the Makefile.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.requirements import installed_version
from edgeskip.runtime.engines.llamacpp.build import PACKAGE, BuildAdvice, advise_here, rebuild_arguments
from edgeskip.runtime.engines.llamacpp.self_test import describe, needs_no_amx, rebuild, self_test


def install(requirements: list[str]) -> None:
    """Raise EdgeSkipError if llama-cpp-python cannot be compiled, or fails its self-test even when compiled afresh."""
    advice = advise_here()
    print(f"   {advice.why}" + (f": CMAKE_ARGS={advice.cmake_args}" if advice.cmake_args else ""))
    _pip("install", "-qq", *requirements, advice=advice)
    answer = self_test(again=True)
    if answer:
        version = installed_version(PACKAGE)
        print(f"   {describe(answer)}")
        print(f"   removing the wheel that pip keeps, and compiling again (minutes): {rebuild(answer)}", flush=True)
        removed = _pip("cache", "remove", f"{PACKAGE.replace('-', '_')}-{version}*", must=False)
        # With the bad wheel gone the new one may take its place: the next environment here need not compile.
        command = [word for word in rebuild_arguments(version) if not (removed and word == "--no-cache-dir")]
        begin = time.monotonic()
        _run(command, advise_here(without_amx=needs_no_amx(answer)))
        print(f"   compiled in {time.monotonic() - begin:.0f} s")
        answer = self_test(again=True)
    if answer is None:
        raise EdgeSkipError(f"{PACKAGE} was installed without a compiled library: see pip's output above")
    if answer:
        raise EdgeSkipError(f"{describe(answer)}; compiling it again did not help: report this")
    print("   self-test passed")


def _pip(*words: str, advice: BuildAdvice | None = None, must: bool = True) -> bool:
    return _run([sys.executable, "-m", "pip", "--disable-pip-version-check", *words], advice, must=must)


def _run(command: list[str], advice: BuildAdvice | None, *, must: bool = True) -> bool:
    """Return whether it succeeded; raises EdgeSkipError if it did not and must."""
    environment = dict(os.environ)
    if advice is not None and advice.cmake_args is not None:
        environment["CMAKE_ARGS"] = advice.cmake_args
    quiet = None if must else subprocess.DEVNULL
    code = subprocess.run(command, env=environment, stdout=quiet, stderr=quiet, check=False).returncode
    if code and must:
        raise EdgeSkipError(f"pip cannot install {PACKAGE} (see its output above): it needs a C++ compiler and cmake")
    return not code


if __name__ == "__main__":
    try:
        install(sys.argv[1:] or [PACKAGE])
    except EdgeSkipError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
