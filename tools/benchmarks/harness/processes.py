"""Processes that measure: one for each figure, taking turns, with a look at what else kept the machine busy."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from edgeskip.core.child_exit import how_it_ended
from edgeskip.core.errors import EdgeSkipError

WORKER = "worker"  # the script's argument that makes it answer a request
TAIL = 12  # lines of a dead worker's stderr that are shown
# glibc's tunables for weights that are packed into buffers of a few MB: on the heap, in 2 MiB pages, rather than each
# in a mapping whose ends are in small pages (GNU C library manual, "Memory Allocation Tunables"). Measured on 2 cores
# of an AMD EPYC, SmolLM2-135M in fp32 by ONNX Runtime: 7.9 to 8.3 ms per token with them, 8.0 to 9.0 without.
TUNABLES = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1073741824:glibc.malloc.top_pad=67108864"

Arguments = ParamSpec("Arguments")
Taken = TypeVar("Taken")


def show_progress(line: str) -> None:
    """Progress, to stderr."""
    print(line, file=sys.stderr, flush=True)


def with_huge_pages() -> None:
    """Start this program again with TUNABLES, which its children inherit; processes of one artifact then run more
    nearly alike. Does nothing on other systems than Linux, or if the user has set tunables."""
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = TUNABLES
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def worker_environment(threads: int) -> dict[str, str]:
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "PYTHONUTF8": "1",
    }


def take_turns(
    cells: Mapping[str, Callable[[], Taken]],
    *,
    rounds: int,
    warm_up: bool = False,
    pause_s: float = 0.3,
    describe: Callable[[Taken], str] = str,
    report: Callable[[str], None] = show_progress,
) -> dict[str, list[Taken]]:
    """Return what each cell gives, by name, one per round. `warm_up` adds a round before them that is dropped.

    In every round each cell runs once; the order is rotated from round to round, so that none always follows the
    same one. `pause_s` lets the last one's spinning threads fall asleep.
    """
    found: dict[str, list[Taken]] = {name: [] for name in cells}
    names = list(cells)
    for number in range(0 if warm_up else 1, rounds + 1):
        shift = number % len(names)
        for name in [*names[shift:], *names[:shift]]:
            time.sleep(pause_s)
            taken = cells[name]()
            report(f"{f'round {number}' if number else 'warm-up'}  {name}: {describe(taken)}")
            if number:
                found[name].append(taken)
    return found


def in_new_process(
    function: Callable[Arguments, Taken], /, *arguments: Arguments.args, **named: Arguments.kwargs
) -> Taken:
    """Return what the function gives in a process of its own: one that stays keeps the speed that its memory happens to
    give it."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments, **named).result()


def ask_afresh(
    script: Path,
    request: dict[str, Any],
    *,
    threads: int,
    python: Path | None = None,
    watch: Callable[[subprocess.Popen[bytes]], None] = lambda _: None,
) -> dict[str, Any]:
    """Return what `SCRIPT worker` answers to `request`, a JSON object, run by `python` (default: this one).

    `watch` is called with the process once it has its request; whatever it does, the reply is waited for afterwards.
    EdgeSkipError with the end of the worker's stderr if it fails.
    """
    with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as answered, tempfile.TemporaryFile() as errors:
        asked.write(json.dumps(request).encode())
        asked.seek(0)
        command = [str(python or sys.executable), str(script), WORKER]
        with subprocess.Popen(
            command, stdin=asked, stdout=answered, stderr=errors, env=worker_environment(threads)
        ) as process:
            try:
                watch(process)
                process.wait()
            except BaseException:
                process.kill()
                raise
        answered.seek(0)
        errors.seek(0)
        text = answered.read().decode()
        if not text:
            said = "\n".join(errors.read().decode(errors="replace").splitlines()[-TAIL:])
            raise EdgeSkipError(f"{script.name} worker {how_it_ended(process.returncode)} and gave no reply:\n{said}")
    reply: dict[str, Any] = json.loads(text)
    if "error" in reply:
        raise EdgeSkipError(f"{script.name} worker: {reply['error']}")
    return reply


def answer(work: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """The worker's side: read the request, print what `work` makes of it; what libraries print goes to stderr."""
    request = json.load(sys.stdin)
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        reply = work(request)
    except EdgeSkipError as error:
        reply = {"error": str(error)}
    with out:
        json.dump(reply, out)


@dataclass(frozen=True)
class CpuTime:
    """CPU seconds used so far: by the whole machine and by one process."""

    machine_s: float
    process_s: float

    def others_since(self, earlier: CpuTime, seconds: float) -> float:
        """Cores that everything but the process kept busy over the last `seconds`; 0.02 is a quiet machine."""
        busy = (self.machine_s - earlier.machine_s) - (self.process_s - earlier.process_s)
        return max(0.0, busy / seconds)


def cpu_time(process: int) -> CpuTime | None:
    """CPU seconds of the machine and of process id `process`, from /proc; None if there is no /proc."""
    try:
        machine = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
        own = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    user, nice, system, _idle, _iowait, irq, softirq = (int(value) for value in machine[:7])
    return CpuTime((user + nice + system + irq + softirq) / ticks, (int(own[11]) + int(own[12])) / ticks)


@contextmanager
def others_cores(process: int | None = None) -> Iterator[list[float | None]]:
    """Return a list that gets, at the end, how many cores everything but `process` (default: this one) kept busy."""
    found: list[float | None] = []
    number = os.getpid() if process is None else process
    before, begin = cpu_time(number), time.perf_counter()
    yield found
    after, seconds = cpu_time(number), time.perf_counter() - begin
    found.append(after.others_since(before, seconds) if before and after else None)
