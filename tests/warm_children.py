"""Children of the checks after export, forked from one process that has imported what they need.

A fresh interpreter imports onnxruntime and llama.cpp for half a second, hundreds of times in one run of the tests.
Each child is still a process of its own: nothing that one loads or breaks is seen by the next.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

MODULES = ("edgeskip.runtime.probe", "edgeskip.exporters.gguf.quantize")
_IMPORTED = (
    "onnxruntime", "llama_cpp", "tokenizers", "jinja2.sandbox",
    *(f"edgeskip.runtime.engines.onnxruntime.{name}" for name in ("split", "gated", "online")),
    "edgeskip.runtime.engines.llamacpp.engine", "edgeskip.runtime.loader", "edgeskip.runtime.chat_template",
)  # fmt: skip


def run(command: Sequence[str], *, capture_output: bool, text: bool, errors: str) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run` with these arguments does, for `python -P -m MODULE …`."""
    assert capture_output
    assert text
    python, safe, _, module, *arguments = command
    assert (python, safe) == (sys.executable, "-P")
    assert module in MODULES
    with tempfile.TemporaryDirectory(prefix="child-") as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        job = {"module": module, "arguments": arguments, "out": str(out), "err": str(err)}
        job |= {"folder": str(Path.cwd()), "environment": dict(os.environ)}
        parent = _parent()
        assert parent.stdin is not None
        assert parent.stdout is not None
        parent.stdin.write(json.dumps(job) + "\n")
        parent.stdin.flush()
        code = int(parent.stdout.readline())
        return subprocess.CompletedProcess(
            command, code, out.read_text("utf-8", errors), err.read_text("utf-8", errors)
        )


@functools.cache
def _parent() -> subprocess.Popen[str]:
    """The process that forks; it ends when its stdin does. -P, as the tests' folders have names of packages of ours."""
    process = subprocess.Popen(
        [sys.executable, "-P", __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    atexit.register(process.communicate)
    return process


def _serve() -> None:
    for module in (*MODULES, *_IMPORTED):
        with suppress(ImportError):  # an extra that is not installed
            import_module(module)
    for module in MODULES:
        del sys.modules[module]  # each child runs it as its main module
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _child(**json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _child(module: str, arguments: list[str], out: str, err: str, folder: str, environment: dict[str, str]) -> Any:
    code = 1
    try:
        for number, file in ((1, out), (2, err)):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600), number)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
