"""What drafting costs in memory, and what an artifact's files share: peak memory against the dense artifact's.

    python tools/benchmarks/speculation_memory.py DENSE ARTIFACT … --json memory.json

Every figure is of a process of its own: it loads, runs a prompt, decodes plainly, and where the artifact drafts it then
speculates (which measures costs first). DENSE only decodes plainly. VmHWM counts a page of the weight file once for
every time it is mapped, Pss once in all, so Pss is what the machine gives up; it is read every few milliseconds. Then a
count of the files: bytes, operators by the model's block, weights that graphs share. Linux only.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from gguf_plans import check_names
from harness.afresh import WORD, answer, ask_afresh
from harness.contents import Check, Contents, checks_of, contents_of
from harness.figures import Spread, Target
from harness.machine import describe
from harness.report import cell, targets_table
from peer_runtimes import LICENSE

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import replace_file

BOUND = 1.15  # most that the peak may be, of the dense artifact's
POLL_S = 0.01
MIB = 2**20


@dataclass(frozen=True)
class Turn:
    """One process. `stages`: what was done → (VmHWM so far, Pss then), bytes; `mapped`: weight files in its memory."""

    stages: dict[str, list[int]]
    mapped: list[str]
    accepted: int | None
    peak_pss_bytes: int

    @property
    def peak_rss_bytes(self) -> int:
        return max(rss for rss, _ in self.stages.values())


@dataclass(frozen=True)
class Row:
    """An artifact's peaks in MiB and over those of the dense one, by round; the first row is the dense one."""

    name: str
    rss_mib: Spread
    pss_mib: Spread
    rss_ratio: Spread
    pss_ratio: Spread


def speculation_memory(
    dense: Annotated[Path, typer.Argument(help="The artifact that does not draft.")],
    artifacts: Annotated[list[Path], typer.Argument(help="Artifacts of the same model and precision that draft.")],
    text: Annotated[Path, typer.Option(help="Text whose first tokens are the prompt.")] = LICENSE,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of the prompt.")] = 512,
    new: Annotated[int, typer.Option(min=2, help="Tokens to generate, plainly and then by speculation.")] = 32,
    num_speculations: Annotated[int, typer.Option(min=1, help="Tokens drafted a round.")] = 4,
    rounds: Annotated[int, typer.Option(min=1, help="Processes of each artifact, in turn.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="Threads.")] = 2,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write everything there.")] = None,
) -> None:
    """Measure peak memory against the dense artifact's and count what files hold; tables to stdout."""
    paths = [dense, *artifacts]
    check_names([path.name for path in paths])
    for path in paths:
        if not path.exists():
            raise EdgeSkipError(f"{path} does not exist")
    if not Path("/proc/self/smaps_rollup").exists():
        raise EdgeSkipError("memory is read from /proc, which this system has not: run this on Linux")
    turns: dict[Path, list[Turn]] = {path: [] for path in paths}
    for number in range(1, rounds + 1):
        for path in paths if number % 2 else reversed(paths):
            print(f"round {number}  {path.name}", file=sys.stderr, flush=True)
            request = {
                "path": str(path.resolve()),
                "text": str(text.resolve()),
                "prompt": prompt,
                "new": new,
                "gamma": 0 if path == dense else num_speculations,
                "threads": threads,
            }
            turns[path].append(turn_of(request))
    rows = rows_of({path.name: some for path, some in turns.items()})
    targets = targets_of(rows)
    contents = {path.name: contents_of(path) for path in paths}
    checks = {path.name: checks_of(path, contents[path.name]) for path in paths}
    for path in artifacts:
        checks[path.name] += like(contents[path.name], contents[dense.name])
    setting = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "prompt_tokens": prompt,
        "new_tokens": new,
        "num_speculations": num_speculations,
        "rounds": rounds,
        "threads": threads,
        "machine": describe(),
    }
    if json_file:
        result = {
            "setting": setting,
            "rows": [asdict(row) for row in rows],
            "turns": {path.name: [asdict(turn) for turn in some] for path, some in turns.items()},
            "targets": [{**asdict(target), "met": target.met} for target in targets],
            "contents": {name: count_of(found) for name, found in contents.items()},
            "checks": {name: [asdict(check) for check in found] for name, found in checks.items()},
        }
        replace_file(json_file, (json.dumps(result, indent=1) + "\n").encode())
    last = {path.name: some[-1] for path, some in turns.items()}
    tables = [as_markdown(rows, last, setting), targets_table(targets), contents_table(contents), checks_table(checks)]
    print("\n\n".join("\n".join(table) for table in tables if table))


def turn_of(request: dict[str, Any]) -> Turn:
    """One process's work, its Pss watched from outside."""
    peak = 0

    def watch(process: subprocess.Popen[bytes]) -> None:
        nonlocal peak
        while process.poll() is None:
            peak = max(peak, pss_bytes(str(process.pid)))
            time.sleep(POLL_S)

    reply = ask_afresh(Path(__file__), request, threads=request["threads"], watch=watch)
    peak = max(peak, *(pss for _, pss in reply["stages"].values()))
    return Turn(**reply, peak_pss_bytes=peak)


def work(request: dict[str, Any]) -> dict[str, Any]:
    """The worker: what `Turn` has but for the peak of Pss."""
    from edgeskip.runtime.session import load
    from edgeskip.runtime.speculation.policy import Speculation

    stages: dict[str, tuple[int, int]] = {}
    path, accepted = Path(request["path"]), None
    with load(path, threads=request["threads"]) as session:
        stages["load"] = rss_peak_bytes(), pss_bytes()
        session.end_tokens = frozenset()
        gamma = request["gamma"]
        if gamma and not session.drafts:
            raise EdgeSkipError(f"{path} does not draft: export it with --draft")
        ids = session.encode(Path(request["text"]).read_text(encoding="utf-8"), chat=False)[: request["prompt"]]
        session.generate(ids, max_tokens=request["new"], strategy="plain")
        stages["plain"] = rss_peak_bytes(), pss_bytes()
        if gamma:
            policy = Speculation("model", gamma)
            generation = session.generate(ids, max_tokens=request["new"], strategy="speculative", speculation=policy)
            counts = generation.stats.speculation
            accepted = counts.accepted if counts else None
            stages["speculative"] = rss_peak_bytes(), pss_bytes()
        mapped = weight_files(Path("/proc/self/maps").read_text(encoding="utf-8"), path)
    return {"stages": stages, "mapped": mapped, "accepted": accepted}


def rss_peak_bytes() -> int:
    """Most resident memory this process has held: VmHWM, which unlike ru_maxrss starts afresh with the program."""
    return _kib(Path("/proc/self/status"), "VmHWM") * 1024


def pss_bytes(process: str = "self") -> int:
    """Memory of a process, what it shares with others in proportion; 0 where it has ended."""
    try:
        return _kib(Path(f"/proc/{process}/smaps_rollup"), "Pss") * 1024
    except OSError:
        return 0


def _kib(file: Path, field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", file.read_text(encoding="ascii", errors="replace"), re.MULTILINE)
    return int(found[1]) if found else 0


def weight_files(maps: str, path: Path) -> list[str]:
    """Names of the artifact's own files in the text of /proc/…/maps."""
    folder = path if path.is_dir() else path.parent
    found = {line.split(maxsplit=5)[5] for line in maps.splitlines() if len(line.split(maxsplit=5)) == 6}
    return sorted(Path(name).name for name in found if Path(name).parent == folder)


def rows_of(turns: Mapping[str, Sequence[Turn]]) -> list[Row]:
    """A row per artifact; the first one is what the others are compared with, round by round."""
    dense = next(iter(turns.values()))
    return [
        Row(
            name,
            Spread.of(turn.peak_rss_bytes / MIB for turn in some),
            Spread.of(turn.peak_pss_bytes / MIB for turn in some),
            Spread.of(a.peak_rss_bytes / b.peak_rss_bytes for a, b in zip(some, dense, strict=True)),
            Spread.of(a.peak_pss_bytes / b.peak_pss_bytes for a, b in zip(some, dense, strict=True)),
        )
        for name, some in turns.items()
    ]


def targets_of(rows: Sequence[Row]) -> list[Target]:
    return [
        Target(f"{row.name}: peak {what} over {rows[0].name}'s", BOUND, ratio, at_least=False)
        for row in rows[1:]
        for what, ratio in (("VmHWM", row.rss_ratio), ("Pss", row.pss_ratio))
    ]


def count_of(contents: Contents) -> dict[str, Any]:
    """Counts for JSON; which weights they are stays out."""
    parts = [
        {**asdict(part), "weights": len(part.weights), "weight_bytes": part.weight_bytes} for part in contents.parts
    ]
    return {"files": contents.files, "weight_bytes": contents.weight_bytes, "parts": parts}


def like(contents: Contents, dense: Contents) -> list[Check]:
    """Whether an ONNX artifact holds the model that it is compared with, in the same precision."""
    sizes = [part.weight_bytes for one in (contents, dense) for part in one.parts if part.file == "model.onnx"]
    if len(sizes) < 2:
        return []
    ratio = sizes[0] / sizes[1]
    return [Check("weights of model.onnx ÷ the dense artifact's", f"{ratio:.3f}", abs(ratio - 1) < 0.01)]


def as_markdown(rows: Sequence[Row], turns: Mapping[str, Turn], setting: dict[str, Any]) -> list[str]:
    """Peaks, and VmHWM after each stage of the last round."""
    lines = [
        f"prompt {setting['prompt_tokens']}, {setting['new_tokens']} tokens plainly and by drafts of "
        f"{setting['num_speculations']}, {setting['threads']} threads, {setting['rounds']} processes each, MiB "
        "[least – greatest]",
        "",
        "| | peak VmHWM | ÷ dense | peak Pss | ÷ dense | VmHWM after load, plain, speculative | files mapped |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        turn = turns[row.name]
        stages = ", ".join(f"{rss / MIB:.0f}" for rss, _ in turn.stages.values())
        spreads = (cell(row.rss_mib, 0), cell(row.rss_ratio, 3), cell(row.pss_mib, 0), cell(row.pss_ratio, 3))
        lines.append(f"| {' | '.join([row.name, *spreads, stages, ', '.join(turn.mapped) or 'none'])} |")
    return lines


def contents_table(contents: Mapping[str, Contents]) -> list[str]:
    """A line per artifact and one per graph or GGUF file of it."""
    lines = ["| | operators (GGUF: tensors) | of blocks | weights, MiB |", "|---|---:|---|---:|"]
    for name, found in contents.items():
        total = sum(found.files.values()) / MIB
        lines.append(f"| **{name}**, {len(found.files)} files, {total:.1f} MiB | | | {found.weight_bytes / MIB:.1f} |")
        for part in found.parts:
            blocks = f"{min(part.blocks)} … {max(part.blocks)}" if part.blocks else ""
            lines.append(f"| {part.file} | {part.operators} | {blocks} | {part.weight_bytes / MIB:.1f} |")
    return lines


def checks_table(checks: Mapping[str, Sequence[Check]]) -> list[str]:
    lines = [
        f"| {name}: {check.what} | {check.found} | {'yes' if check.holds else 'NO'} |"
        for name, found in checks.items()
        for check in found
    ]
    return ["| what files show | found | as it should be |", "|---|---|---|", *lines] if lines else []


if __name__ == "__main__":
    if sys.argv[1:] == [WORD]:
        answer(work)
        sys.exit()
    try:
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command()(speculation_memory)
        app()
    except EdgeSkipError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
