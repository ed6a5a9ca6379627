"""The process that measures one round of one cell, the machine, or an artifact's quality.

    python -m edgeskip.bench.runner.child < request.json     one round: JSON lines of progress, then the Sample
    python -m edgeskip.bench.runner.child --device           this machine as a Device; with --roofline cpu:2,… limits
                                                      (cpu:0: with the default number of threads)
    python -m edgeskip.bench.runner.child --quality          an artifact's quality: a QualityRequest on stdin

The last line of stdout is the answer; exit code 2 with an error, 0 else. Nothing here imports torch or an exporter.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError

from edgeskip.core.bounds import first_problem

if TYPE_CHECKING:
    from edgeskip.bench.schema import Device


_ONE_BLAS_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m edgeskip.bench.runner.child")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--device", action="store_true")
    what.add_argument("--quality", action="store_true")
    parser.add_argument("--roofline", default="", metavar="PROVIDER:THREADS,…")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the parent process reports it to the user
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print to stdout must not come between the lines

    def write(line: BaseModel | dict[str, str]) -> None:
        text = line.model_dump_json() if isinstance(line, BaseModel) else json.dumps(line, ensure_ascii=False)
        answers.write(text + "\n")
        answers.flush()

    def progress(message: str) -> None:
        write({"kind": "progress", "message": message})

    try:
        write(_answer(arguments, progress))
    except ValidationError as error:
        write({"kind": "error", "message": f"the request is invalid: {first_problem(error)}"})
        return 2
    except Exception as error:
        from edgeskip.core.user_errors import explain

        line = explain(error)
        if line is None or os.environ.get("EDGESKIP_TRACEBACK"):
            import traceback

            traceback.print_exc()
        write({"kind": "error", "message": line or f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"})
        return 2
    return 0


def _answer(arguments: argparse.Namespace, progress: Callable[[str], None]) -> BaseModel:
    if arguments.device:
        return _device(arguments.roofline)
    if arguments.quality:
        from edgeskip.bench.runner.quality import QualityRequest, measure_quality

        return measure_quality(QualityRequest.model_validate_json(sys.stdin.read()), progress)
    from edgeskip.bench.runner.measure import measure_round
    from edgeskip.bench.runner.request import RoundRequest

    return measure_round(RoundRequest.model_validate_json(sys.stdin.read()), progress)


def _device(rooflines: str) -> Device:
    os.environ.update(_ONE_BLAS_THREAD)  # before numpy is imported
    from edgeskip.bench.runner.device import this_device
    from edgeskip.bench.runner.roofline import measure_roofline
    from edgeskip.runtime.engines.threads import threads_or_default

    wanted = [entry.rpartition(":") for entry in rooflines.split(",") if entry]
    return this_device(
        rooflines=[measure_roofline(name, threads_or_default(int(threads) or None)) for name, _, threads in wanted]
    )


if __name__ == "__main__":
    sys.exit(main())
