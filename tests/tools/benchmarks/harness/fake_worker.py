"""A benchmark worker whose model counts up from the prompt's sum; `folder` says how it misbehaves."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[4] / "tools" / "benchmarks" / "harness" / "workers"))
from protocol import Record, Start, Step, serve


def load(record: Record, *, folder: str, threads: int, capacity: int) -> Start:
    manner = Path(folder).name
    os.write(1, b"a library's banner on file descriptor 1\n")
    if manner == "unloadable":
        raise FileNotFoundError("no such model")
    record.settings.update(threads=threads, capacity=capacity)

    def start(prompt: list[int]) -> Step:
        token = sum(prompt)

        def step() -> int:
            nonlocal token
            token += 1
            if manner == "dying":
                os._exit(3)
            if manner == "failing":
                raise RuntimeError("no memory")
            record.notes["steps"] = record.notes.get("steps", 0) + 1
            return token

        return step

    return start


if __name__ == "__main__":
    serve(load, ("pytest", "no-such-package"))
