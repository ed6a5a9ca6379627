"""Stands in for adb: replays the transcript named by FAKE_ADB, and fails on any command that is not in it.

What it was asked is kept in FAKE_ADB.log, a line each.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from adb_transcript import read_written

EXIT_MARK = "; echo edgeskip-exit $?"


def main() -> int:
    path = Path(os.environ["FAKE_ADB"])
    log = path.with_suffix(".log")
    arguments = sys.argv[1:]
    if arguments[:1] == ["-s"]:
        arguments = arguments[2:]
    asked = " ".join(arguments)
    command = asked.removesuffix(EXIT_MARK)
    before = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    with log.open("a", encoding="utf-8") as file:
        file.write(command + "\n")
    entries = [entry for entry in read_written(path).entries if entry.command == command]
    if not entries:
        print(f"fake_adb: not in the transcript: {command}", file=sys.stderr)
        return 1
    entry = entries[min(before.count(command), len(entries) - 1)]
    time.sleep(entry.seconds)
    sys.stdout.write(entry.out)
    sys.stderr.write(entry.said)
    if command != asked and entry.code >= 0:  # below 0: the line to the phone broke, nothing more comes
        sys.stdout.write(f"edgeskip-exit {entry.code}\n")
    return abs(entry.code)


if __name__ == "__main__":
    sys.exit(main())
