"""What drafting costs in memory, and what an artifact's files share: peak memory against the dense artifact's.

    python tools/benchmarks/speculation_memory.py DENSE ARTIFACT … --json memory.json

Makes a figure of docs/results/speculation.md. Every figure is of a process of its own: it loads, runs a prompt, decodes
plainly, and if the artifact drafts it then speculates (which measures costs first). DENSE only decodes plainly. VmHWM
counts a page of the weight file once for every time it is mapped, Pss once in all, so Pss is what the machine gives up;
it is read every few milliseconds. Then a count of the files: bytes, operators by the model's block, weights that graphs
share. Linux only.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from harness.command import LICENSE, JsonFile, PromptText, Rounds, Threads, check_names, main
from harness.contents import Check, Contents, checks_of, contents_of
from harness.processes import ask_afresh, take_turns
from harness.results import Results, Spread, Table, Target

from edgeskip.core.errors import EdgeSkipError

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

    def __str__(self) -> str:
        return f"{self.peak_rss_bytes / MIB:.0f} MiB"


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
    text: PromptText = LICENSE,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of the prompt.")] = 512,
    new: Annotated[int, typer.Option(min=2, help="Tokens to generate, plainly and then by speculation.")] = 32,
    num_speculations: Annotated[int, typer.Option(min=1, help="Tokens drafted a round.")] = 4,
    rounds: Rounds = 3,
    threads: Threads = 2,
    json_file: JsonFile = None,
) -> None:
    """Measure peak memory against the dense artifact's and count what files hold; tables to stdout."""
    check_names([dense.name, *(path.name for path in artifacts)])
    paths = {path.name: path for path in (dense, *artifacts)}
    for path in paths.values():
        if not path.exists():
            raise EdgeSkipError(f"{path} does not exist")
    if not Path("/proc/self/smaps_rollup").exists():
        raise EdgeSkipError("memory is read from /proc, which this system does not have: run this on Linux")
    setting = {"prompt": prompt, "new": new, "threads": threads}
    request = {"text": str(text.resolve()), **setting}
    cells = {
        name: partial(turn_of, request | {"path": str(path.resolve()), "gamma": num_speculations * (path != dense)})
        for name, path in paths.items()
    }
    turns = take_turns(cells, rounds=rounds)
    rows = rows_of(turns)
    contents = {name: contents_of(path) for name, path in paths.items()}
    checks = {name: checks_of(path, contents[name]) for name, path in paths.items()}
    for path in artifacts:
        checks[path.name] += like(contents[path.name], contents[dense.name])
    last = {name: some[-1] for name, some in turns.items()}
    counts = {name: count_of(found) for name, found in contents.items()}
    Results(
        name="speculation_memory",
        setting={**setting, "num_speculations": num_speculations, "rounds": rounds},
        tables=[peaks_table(rows, last), contents_table(contents), checks_table(checks)],
        targets=targets_of(rows),
        data={"rows": rows, "turns": turns, "contents": counts, "checks": checks},
    ).publish(json_file)


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
    """Return the worker: what `Turn` has but for the peak of Pss."""
    from edgeskip.runtime.session import load
    from edgeskip.runtime.speculation.policy import Speculation

    stages: dict[str, tuple[int, int]] = {}
    path, gamma, new, accepted = Path(request["path"]), request["gamma"], request["new"], None
    with load(path, threads=request["threads"]) as session:
        stages["load"] = rss_peak_bytes(), pss_bytes()
        session.end_tokens = frozenset()
        if gamma and not session.drafts:
            raise EdgeSkipError(f"{path} does not draft: export it with --draft")
        ids = session.encode(Path(request["text"]).read_text(encoding="utf-8"), chat=False)[: request["prompt"]]
        session.generate(ids, max_tokens=new, strategy="plain")
        stages["plain"] = rss_peak_bytes(), pss_bytes()
        if gamma:
            policy = Speculation("model", gamma)
            counts = session.generate(ids, max_tokens=new, strategy="speculative", speculation=policy).stats.speculation
            accepted = counts.accepted if counts else None
            stages["speculative"] = rss_peak_bytes(), pss_bytes()
        mapped = weight_files(Path("/proc/self/maps").read_text(encoding="utf-8"), path)
    return {"stages": stages, "mapped": mapped, "accepted": accepted}


def rss_peak_bytes() -> int:
    """Most resident memory this process has held: VmHWM, which unlike ru_maxrss starts afresh with the program."""
    return _kib(Path("/proc/self/status"), "VmHWM") * 1024


def pss_bytes(process: str = "self") -> int:
    """Memory of a process, what it shares with others in proportion; 0 if it has ended."""
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
    """Return a row per artifact; the first one is what the others are compared with, round by round."""
    rss = {name: [turn.peak_rss_bytes / MIB for turn in some] for name, some in turns.items()}
    pss = {name: [turn.peak_pss_bytes / MIB for turn in some] for name, some in turns.items()}
    first = next(iter(turns))
    return [
        Row(
            name, Spread.of(rss[name]), Spread.of(pss[name]), *(Spread.of_ratios(p[name], p[first]) for p in (rss, pss))
        )
        for name in turns
    ]


def targets_of(rows: Sequence[Row]) -> list[Target]:
    return [
        Target(f"{row.name}: peak {what} over {rows[0].name}'s", BOUND, ratio, at_least=False)
        for row in rows[1:]
        for what, ratio in (("VmHWM", row.rss_ratio), ("Pss", row.pss_ratio))
    ]


def count_of(contents: Contents) -> dict[str, Any]:
    """Count for JSON; which weights they are stays out."""
    parts = [
        asdict(part) | {"weights": len(part.weights), "weight_bytes": part.weight_bytes} for part in contents.parts
    ]
    return {"files": contents.files, "weight_bytes": contents.weight_bytes, "parts": parts}


def like(contents: Contents, dense: Contents) -> list[Check]:
    """Return whether an ONNX artifact holds the model that it is compared with, in the same precision."""
    sizes = [part.weight_bytes for one in (contents, dense) for part in one.parts if part.file == "model.onnx"]
    if len(sizes) < 2:
        return []
    ratio = sizes[0] / sizes[1]
    return [Check("weights of model.onnx ÷ the dense artifact's", f"{ratio:.3f}", abs(ratio - 1) < 0.01)]


def peaks_table(rows: Sequence[Row], turns: Mapping[str, Turn]) -> Table:
    """Peaks, and VmHWM after each stage of the last round, MiB."""
    columns = ["", "peak VmHWM", "÷ dense", "peak Pss", "÷ dense", "VmHWM after load, plain, speculative"]
    lines = []
    for row in rows:
        stages = ", ".join(f"{rss / MIB:.0f}" for rss, _ in turns[row.name].stages.values())
        peaks = (row.rss_mib.text(0), row.rss_ratio.text(3), row.pss_mib.text(0), row.pss_ratio.text(3))
        lines.append([row.name, *peaks, stages, ", ".join(turns[row.name].mapped) or "none"])
    return Table("Peak memory, MiB", [*columns, "files mapped"], lines)


def contents_table(contents: Mapping[str, Contents]) -> Table:
    """Return a line per artifact and one per graph or GGUF file of it."""
    lines = []
    for name, found in contents.items():
        total = f"**{name}**, {len(found.files)} files, {sum(found.files.values()) / MIB:.1f} MiB"
        lines.append([total, "", "", f"{found.weight_bytes / MIB:.1f}"])
        for part in found.parts:
            blocks = f"{min(part.blocks)} … {max(part.blocks)}" if part.blocks else ""
            lines.append([part.file, str(part.operators), blocks, f"{part.weight_bytes / MIB:.1f}"])
    return Table("Files", ["", "operators (GGUF: tensors)", "of blocks", "weights, MiB"], lines)


def checks_table(checks: Mapping[str, Sequence[Check]]) -> Table:
    every = [(f"{name}: {check.what}", check) for name, found in checks.items() for check in found]
    lines = [[what, check.found, "yes" if check.holds else "NO"] for what, check in every]
    return Table("What files show", ["what files show", "found", "as it should be"], lines)


if __name__ == "__main__":
    main(speculation_memory, worker=work)
