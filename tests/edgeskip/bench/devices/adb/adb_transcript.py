"""Transcripts of adb: commands and what they answered, as text. Both the stand-in for adb and its tests read them.

    # a comment
    $ shell getprop          a command, as adb's arguments; the shell's own `; echo` of the exit code left out
    > text                   a line of its stdout
    ! text                   a line of its stderr
    = 127                    its exit code, 0 where there is none
    ~ 0.5                    seconds that it takes

A command that is there more than once answers so in turn, and as the last time from then on.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    command: str
    out: str = ""
    said: str = ""
    code: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Transcript:
    entries: tuple[Entry, ...]

    def answering(self, start: str, *answers: Entry) -> Transcript:
        """With these answers, in turn, to the one command that begins so; their own `command` counts for nothing."""
        matching = [entry.command for entry in self.entries if entry.command.startswith(start)]
        assert len(set(matching)) == 1, (start, matching)
        command = matching[0]
        kept = tuple(entry for entry in self.entries if entry.command != command)
        return Transcript(kept + tuple(replace(answer, command=command) for answer in answers))

    def saying(self, start: str, out: str = "", said: str = "", code: int = 0, seconds: float = 0.0) -> Transcript:
        return self.answering(start, Entry("", out, said, code, seconds))

    def write(self, path: Path) -> None:
        path.write_text(json.dumps([asdict(entry) for entry in self.entries]), encoding="utf-8")


def read_transcript(text: str) -> Transcript:
    entries: list[Entry] = []
    for line in text.splitlines():
        mark, _, rest = line.partition(" ")
        match mark:
            case "$":
                entries.append(Entry(rest))
            case ">":
                entries[-1] = replace(entries[-1], out=f"{entries[-1].out}{rest}\n")
            case "!":
                entries[-1] = replace(entries[-1], said=f"{entries[-1].said}{rest}\n")
            case "=":
                entries[-1] = replace(entries[-1], code=int(rest))
            case "~":
                entries[-1] = replace(entries[-1], seconds=float(rest))
            case "#" | "":
                pass
            case _:
                raise ValueError(f"no transcript line: {line!r}")
    return Transcript(tuple(entries))


def read_written(path: Path) -> Transcript:
    return Transcript(tuple(Entry(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))))
