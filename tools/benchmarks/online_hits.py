"""Do an answer's first tokens find the FFNs that all of it would leave out? AdaSkip's table 2 (arXiv 2501.02336).

    python tools/benchmarks/online_hits.py ARTIFACT --data longbench_gov_report.jsonl --limit 10 --log online.json

Makes the second table of docs/results/online.md: of the FFNs that a whole answer's similarities would leave out, the
share that its first P decode steps find. Nothing is left out meanwhile: the answers are those of plain decoding.
ARTIFACT is made with `edgeskip export --online`; FFNs that have no gate there are not counted. Goes on where it was:
requests are kept in --log.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from calibration_overlap import hit_rate
from harness.command import DATA, JsonFile, located, main, numbers
from harness.processes import show_progress
from harness.results import Results, Table
from numpy.typing import NDArray

from edgeskip.artifacts.path_errors import MANIFEST_NAME
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import replace_file, sha256_of
from edgeskip.evaluation.bootstrap import interval
from edgeskip.evaluation.datasets import drawn
from edgeskip.evaluation.generate import cut_middle, prompt_room
from edgeskip.evaluation.longbench import GOV_REPORT
from edgeskip.evaluation.task import EvalSample, EvalSettings, Task
from edgeskip.evaluation.tasks import TASKS

if TYPE_CHECKING:
    from edgeskip.runtime.session import Session

FORMAT = "edgeskip-hit-rates-2"


@dataclass(frozen=True)
class Request:
    """One watched answer: each FFN's similarity, mean over the first P decode steps (`first`, by P as text, if there
    were more than P) and over all `steps` (`whole`, empty if there were none)."""

    id: str
    prompt_tokens: int
    cut_from: int | None  # tokens before the middle was taken out
    steps: int
    first: dict[str, list[float]]
    whole: list[float]


@dataclass(frozen=True)
class Row:
    """One β and P, over the requests that had more than P steps; FFNs at or above β are means over these.

    `shares` by their titles, each the mean over requests, `intervals` 95 % (None if there is no spread).
    """

    beta: float
    window: int
    requests: int
    found_ffns: float
    true_ffns: float
    shares: dict[str, float]
    intervals: dict[str, tuple[float, float] | None]


def online_hits(
    artifact: Annotated[Path, typer.Argument(help="An artifact with gates: edgeskip export --online.")],
    data: Annotated[Path, typer.Option(help="File of a generating task of edgeskip eval.")] = Path(GOV_REPORT.files[0]),
    limit: Annotated[int, typer.Option(min=1, help="Requests, in eval's order.")] = 10,
    tokens: Annotated[int | None, typer.Option(min=2, help="Most tokens of an answer.  [default: the task's]")] = None,
    prompt_tokens: Annotated[int | None, typer.Option(min=2, help="Most of a prompt's, cut in its middle.")] = None,
    windows: Annotated[str, typer.Option(help="Decode steps watched, P, by comma.")] = "5,10,20,40,80",
    beta: Annotated[str | None, typer.Option(help="Thresholds β, by comma.  [default: the artifact's]")] = None,
    counts: Annotated[str, typer.Option(help="Numbers of FFNs, k, for the k most similar; by comma.")] = "4,8",
    oracle: Annotated[str, typer.Option(help="Of all of an answer's steps: whole; of those after P: rest.")] = "whole",
    log: Annotated[Path, typer.Option(help="Requests go there, and are taken from there.")] = Path("online_hits.json"),
    threads: Annotated[int | None, typer.Option(min=1, help="Threads (default: the physical cores).")] = None,
    json_file: JsonFile = None,
) -> None:
    """Hit rates of an answer's first P steps against all of it; a table for each β to stdout."""
    if oracle not in ("whole", "rest"):
        raise EdgeSkipError(f"--oracle {oracle}: choose whole or rest")  # rest is what gates act on
    steps = numbers("--windows", windows, int, 1)
    sizes = numbers("--counts", counts, int, 1)
    thresholds = None if beta is None else numbers("--beta", beta, float, -1)
    if thresholds and thresholds[-1] > 1:
        raise EdgeSkipError(f"--beta {beta}: a similarity is at most 1")
    task, path = task_of(data)
    samples = drawn(task.read([path]), limit)
    settings = EvalSettings(max_new_tokens=tokens, max_prompt_tokens=prompt_tokens)
    from edgeskip.runtime.session import load

    with load(artifact, threads=threads) as session:
        record = session.online
        if record is None:
            raise EdgeSkipError(f"{artifact} has no gates: export it with  edgeskip export --online")
        prompt_room(session.context_length, task, settings)  # before the log is made
        setting = {
            **{"artifact_sha256": sha256_of(artifact / MANIFEST_NAME), "ffns": record.ffns},
            **{"data_sha256": sha256_of(path), "task": f"{task.name} {task.protocol}"},
            **{"tokens": tokens, "prompt_tokens": prompt_tokens, "windows": steps},
        }
        found = read_log(log, setting)
        for at, sample in enumerate(samples, 1):
            if sample.id not in found:
                found[sample.id] = watch(session, task, sample, settings, steps)
                kept = {"format": FORMAT, "settings": setting, "requests": [asdict(one) for one in found.values()]}
                replace_file(log, (json.dumps(kept) + "\n").encode())  # whole or not there
            show_progress(f"{task.name}: {at} of {len(samples)}")
    requests = [found[sample.id] for sample in samples]
    rows = rows_of(requests, steps, thresholds or [record.threshold], sizes, rest=oracle == "rest")
    if not rows:
        raise EdgeSkipError(f"no answer has more than {steps[0]} decode steps: give smaller --windows")
    lasted = [request.steps for request in requests]
    Results(
        name="online_hits",
        setting={
            "requests": len(requests), "least_steps": min(lasted), "most_steps": max(lasted), "oracle": oracle,
            "prompt_tokens": prompt_tokens, "tokens": tokens, "log_settings": setting,
        },
        tables=tables_of(rows),
        data=rows,
        notes=[
            "The first P steps against " + ("all of them" if oracle == "whole" else "those after") + "; a request "
            "counts for a P that it outlasts."
        ],
    ).publish(json_file)  # fmt: skip


def task_of(data: Path) -> tuple[Task, Path]:
    """Return the task of `edgeskip eval` that reads a file of this name alone, and the file's folder.

    Tasks whose answers end at a stop string are left out: steps beyond it are no part of an answer.
    """
    path = located(data, DATA)
    named = [task for task in TASKS.values() if isinstance(task, Task)]
    tasks = {task.files[0]: task for task in named if len(task.files) == 1 and not task.stop}
    if path.name not in tasks:
        raise EdgeSkipError(f"--data {data} is of no task of edgeskip eval: choose {', '.join(tasks)}")
    return tasks[path.name], path


def read_log(path: Path, setting: dict[str, Any]) -> dict[str, Request]:
    """Return the requests of a log by id; EdgeSkipError for a log of something else."""
    if not path.exists():
        return {}
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        before, found = dict(kept["settings"]), {one["id"]: Request(**one) for one in kept["requests"]}
        if kept["format"] != FORMAT:
            raise ValueError(kept["format"])
    except (ValueError, TypeError, KeyError):
        raise EdgeSkipError(f"{path} is not a log of watched requests: name another --log") from None
    if before != setting:
        names = [name for name in {**before, **setting} if before.get(name) != setting.get(name)]
        raise EdgeSkipError(f"{path} was made with another {', '.join(names)}: name another --log")
    return found


def watch(session: Session, task: Task, sample: EvalSample, settings: EvalSettings, windows: Sequence[int]) -> Request:
    """Return the greedy answer with every FFN running, watched to its end; the prompt is `edgeskip eval`'s."""
    from edgeskip.runtime.decoding.interface import DecodeRequest, History
    from edgeskip.runtime.decoding.online import online_decoding
    from edgeskip.runtime.online import Online
    from edgeskip.runtime.sampling import Sampling, TokenSampler

    whole = session.encode(sample.prompt, chat=task.chat and session.chat_template is not None)
    ids = cut_middle(whole, prompt_room(session.context_length, task, settings))
    engine, most = session.engine, settings.max_new_tokens or task.max_new_tokens
    decoding = online_decoding(engine, Online(gate=False), session.online)
    engine.truncate(0)
    engine.reserve(len(ids) + most)
    logits = decoding.prefill(ids)
    sampler = TokenSampler(Sampling())
    written = decoding.decode(DecodeRequest(logits, History(ids), sampler, most, session.end_tokens))
    for _ in written:
        pass
    similarity, _ = decoding.measured
    return Request(
        id=sample.id,
        prompt_tokens=len(ids),
        cut_from=len(whole) if len(whole) > len(ids) else None,
        steps=len(similarity),
        first={str(window): _means(similarity[:window]) for window in windows if window < len(similarity)},
        whole=_means(similarity),
    )


def rows_of(
    requests: Sequence[Request], windows: Sequence[int], betas: Sequence[float], counts: Sequence[int], *, rest: bool
) -> list[Row]:
    """Return every β with every P that some request outlasts; k of as many FFNs or more than there are is left out."""
    rows = []
    for beta in betas:
        for window in windows:
            pairs = [
                (np.array(request.first[str(window)]), oracle_of(request, window, rest=rest))
                for request in requests
                if str(window) in request.first
            ]
            if not pairs:
                continue
            chosen = [(set(np.flatnonzero(a >= beta)), set(np.flatnonzero(b >= beta))) for a, b in pairs]
            ffns = len(pairs[0][0])
            scores = {
                "hit rate": [share_of(true, found) for found, true in chosen],
                "precision": [share_of(found, true) for found, true in chosen],
                **{f"top {k} of {ffns}": [hit_rate(a, b, k) for a, b in pairs] for k in counts if k < ffns},
            }
            rows.append(
                Row(
                    beta=beta,
                    window=window,
                    requests=len(pairs),
                    found_ffns=fmean(len(found) for found, _ in chosen),
                    true_ffns=fmean(len(true) for _, true in chosen),
                    shares={title: fmean(values) for title, values in scores.items()},
                    intervals={title: interval(values, of=lambda mean: mean) for title, values in scores.items()},
                )
            )
    return rows


def oracle_of(request: Request, window: int, *, rest: bool) -> NDArray[np.float64]:
    """Mean similarities [G] of the whole answer, or of its steps after the window."""
    whole = np.array(request.whole)
    if not rest:
        return whole
    first = np.array(request.first[str(window)])
    after: NDArray[np.float64] = (request.steps * whole - window * first) / (request.steps - window)
    return after


def share_of(these: set[Any], those: set[Any]) -> float:
    """Return the share of these that are among those; of none: 1 if those are none too, else 0."""
    return len(these & those) / len(these) if these else float(not those)


def tables_of(rows: Sequence[Row]) -> list[Table]:
    """Return a table for each β."""
    tables = []
    for beta in dict.fromkeys(row.beta for row in rows):
        some = [row for row in rows if row.beta == beta]
        lines = []
        for row in some:
            cells = [str(row.window), str(row.requests), f"{row.found_ffns:.1f}", f"{row.true_ffns:.1f}"]
            for title, share in row.shares.items():
                span = row.intervals[title]
                cells.append(f"{share:.1%}" + (f" [{span[0]:.1%} – {span[1]:.1%}]" if span else ""))
            lines.append(cells)
        columns = [f"P, β {beta:g}", "requests", "FFNs ≥ β", "of the oracle", *some[0].shares]
        tables.append(Table(f"Hit rates at β {beta:g}", columns, lines))
    return tables


def _means(similarity: NDArray[np.float32]) -> list[float]:
    """As the runtime takes them, so that a threshold decides alike."""
    return [float(mean) for mean in similarity.mean(axis=0, dtype=np.float64)] if len(similarity) else []


if __name__ == "__main__":
    main(online_hits)
