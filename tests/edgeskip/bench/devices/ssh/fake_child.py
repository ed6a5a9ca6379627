"""Stands in for edgeskip.bench.runner.child on the other side: what it does is named by the request's target."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def say(**record: Any) -> None:
    print(json.dumps(record), flush=True)


def main() -> int:
    if "--device" in sys.argv:
        rooflines = [
            {"provider": one.partition(":")[0], "threads": int(one.partition(":")[2]), "bytes_per_s": 1e9,
             "flops_per_s": 2e9, "how": "made up"}
            for one in (sys.argv[-1].split(",") if "--roofline" in sys.argv else [])
        ]  # fmt: skip
        say(kind="device", id="local", type="local", name="a made-up board", versions={"x": "1"}, rooflines=rooflines)
        return 0
    request = json.loads(sys.stdin.read())
    say(kind="progress", message="starting")
    match request["cell"]["target"]:
        case "hang":
            subprocess.Popen(["sleep", "1000"])  # what it started has to go as well
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            say(kind="progress", message="hanging")
            time.sleep(1000)
        case "error":
            say(kind="error", message="no such provider")
            return 2
        case "crash":
            print("something\nthe last words", file=sys.stderr)
            return 1
        case "memory":
            os.kill(os.getpid(), signal.SIGKILL)
        case "rubbish":
            say(kind="sample", cell="none")
            return 0
        case "other":
            request["round"] += 1
    found = sorted(path.name for path in Path(request["path"]).iterdir()) if Path(request["path"]).is_dir() else []
    say(
        kind="sample",
        cell=request["cell"],
        round=request["round"],
        created="2025-01-01T00:00:00Z",
        ran={"engine": "onnxruntime", "version": "1", "provider": "cpu", "threads": 1},
        load_s=0.5,
        tests=[{**test, "seconds": 0.25} for test in request["tests"]],
        notes=[",".join(found)],
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
