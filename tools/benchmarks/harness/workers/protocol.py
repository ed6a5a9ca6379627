"""What every benchmark worker speaks: one JSON object a line, requests on stdin, replies on stdout.

Only the standard library: each worker runs in the environment of the runtime it measures. Requests are
`{"op": "load", …}` (once), `{"op": "run", "prompt": [ids], "new_tokens": n}` and `{"op": "quit"}`; replies are
`{"ok": true, …}` or `{"ok": false, "error": "…"}`. Between requests a worker blocks on stdin.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO


@dataclass
class Record:
    """What a worker reports beyond its times: `settings` of the loaded model, `notes` of the run just made."""

    settings: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


Step = Callable[[], int]
"""Every call gives one greedily chosen token, as a Python int, so nothing is left running when it returns.

The first call runs the prompt and gives the first new token; each later call runs the token the call before gave.
"""
Start = Callable[[list[int]], Step]
"""Begin a new sequence with these prompt ids; run nothing yet."""


Loader = Callable[..., Start]
"""`load(record, *, folder, threads, capacity)`: loads a model and fills in `record.settings`."""


def peak_rss_bytes() -> int:
    """Most resident memory this process has held, bytes (VmHWM: unlike ru_maxrss it starts afresh at exec)."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of Python and of those packages that are installed here."""
    found = {"python": sys.version.split()[0]}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def timed_run(
    start: Start, prompt: list[int], new_tokens: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Any]:
    """One greedy generation of exactly `new_tokens` tokens, EOS or not.

    Result: `tokens` ids; `prefill_s` from the prompt's ids to the first new id; `token_s` the seconds of each of
    the `new_tokens − 1` tokens after it.
    """
    begin = clock()
    step = start(prompt)
    tokens = [step()]
    marks = [clock()]
    for _ in range(new_tokens - 1):
        tokens.append(step())
        marks.append(clock())
    return {
        "tokens": tokens,
        "prefill_s": marks[0] - begin,
        "token_s": [after - mark for mark, after in itertools.pairwise(marks)],
    }


def serve(
    load: Loader, packages: Iterable[str], *, requests: TextIO | None = None, replies: TextIO | None = None
) -> None:
    """Answer requests until `quit` or the end of input; whatever the runtime prints goes to stderr."""
    requests = requests or sys.stdin
    if replies is None:
        # Libraries print to file descriptor 1: keep it for replies alone and send theirs to stderr.
        replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
    record = Record()
    start: Start | None = None
    for line in requests:
        request = json.loads(line)
        op = request.pop("op")
        if op == "quit":
            break
        try:
            reply: dict[str, Any]
            if op == "load":
                begin = time.perf_counter()
                start = load(record, **request)
                load_s = time.perf_counter() - begin
                reply = {"load_s": load_s, "settings": record.settings, "versions": versions(packages)}
            elif op == "run" and start is not None:
                record.notes.clear()
                reply = {**timed_run(start, request["prompt"], request["new_tokens"]), "notes": record.notes}
            else:
                raise ValueError(f"cannot {op!r} now")
            reply = {"ok": True, **reply, "peak_rss_bytes": peak_rss_bytes()}
        except Exception as error:
            reply = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=replies, flush=True)
