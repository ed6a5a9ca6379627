"""Does what was measured here find the sublayers that another text, or the rest of an answer, would choose?

    python tools/hit_rates.py corpora --work FOLDER --json corpora.json
    python tools/hit_rates.py online ARTIFACT --data longbench_gov_report.jsonl --limit 10 --log online.jsonl

Counterparts of AdaSkip's tables 1 and 2 (arXiv 2501.02336). `corpora`: of the k sublayers most similar on one corpus,
the share that is among the k most similar on another. `online`: of the FFNs that a whole answer's similarities would
leave out, the share that its first P decode steps find. Nothing is left out meanwhile: the answers are those of plain
decoding. ARTIFACT is made with `edgeskip export --online`; FFNs that have no gate there are not counted.

Both go on where they were: profiles are kept in --work, requests in --log.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import numpy as np
import typer
from numpy.typing import NDArray
from perplexity_table import DATA
from product import edgeskip, model_folder

from edgeskip.errors import EdgeSkipError
from edgeskip.evaluation.answers import cut_middle, prompt_room
from edgeskip.evaluation.bootstrap import Values, interval
from edgeskip.evaluation.longbench import GOV_REPORT
from edgeskip.evaluation.reading import drawn
from edgeskip.evaluation.task import Sample, Settings, Task
from edgeskip.evaluation.tasks import TASKS
from edgeskip.files import replace_file, sha256_of
from edgeskip.manifest import MANIFEST_NAME
from edgeskip.profile import Profile, read_profile
from edgeskip.training.examples import split_reference

if TYPE_CHECKING:
    from edgeskip.runtime.session import Session

CORPORA = (  # the first is AdaSkip's own
    "qasper=longbench_qasper.jsonl#context",
    "wikitext=wikitext2_test.txt",
    "gov_report=longbench_gov_report.jsonl#context",
    "code=mbpp.jsonl#code",
    "news=longbench_multi_news.jsonl#context",
)
FORMAT = "edgeskip-hit-rates-1"
Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Text:
    """A corpus to calibrate on; `field` of its records, None for plain text."""

    name: str
    path: Path
    field: str | None
    sha256: str


@dataclass(frozen=True)
class Request:
    """One watched answer: each FFN's similarity, mean over the first P decode steps (`first`, by P as text, where there
    were more than P) and over all `steps` (`whole`, empty where there were none)."""

    id: str
    prompt_tokens: int
    cut_from: int | None  # tokens before the middle was taken out
    steps: int
    first: dict[str, list[float]]
    whole: list[float]


@dataclass(frozen=True)
class Row:
    """One β and P, over the requests that had more than P steps; FFNs at or above β are means over these.

    `shares` by their titles, each the mean over requests, `intervals` 95 % (None where they tell nothing of a spread).
    """

    beta: float
    window: int
    requests: int
    found_ffns: float
    true_ffns: float
    shares: dict[str, float]
    intervals: dict[str, tuple[float, float] | None]


def corpora(
    model: Annotated[str, typer.Option(help="Ready model's name, folder or GGUF file.")] = "smollm2-135m-instruct",
    corpus: Annotated[
        list[str] | None, typer.Option(help=f"NAME=FILE[#FIELD], repeatable.  [default: {' '.join(CORPORA)}]")
    ] = None,
    calibrated_on: Annotated[str | None, typer.Option(help="The table's corpus.  [default: the first]")] = None,
    counts: Annotated[str, typer.Option(help="Numbers of sublayers, k, by comma.")] = "4,8,12,16",
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to calibrate with, of each corpus.")] = 16384,
    data: Annotated[Path, typer.Option(help="Folder of the corpora's files.")] = DATA,
    work: Annotated[Path | None, typer.Option(help="Profiles are kept here.  [default: the user's cache]")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every pair's hit rates there.")] = None,
) -> None:
    """Hit rates between corpora: calibrated on one, tested on the others; a table to stdout."""
    texts = [text_named(reference, data) for reference in corpus or CORPORA]
    sizes = numbers("--counts", counts, int, 1)
    names = [text.name for text in texts]
    if len(set(names)) < len(names) or len(names) < 2:
        raise EdgeSkipError("--corpus: give two corpora or more, each a name of its own")
    base = calibrated_on or names[0]
    if base not in names:
        raise EdgeSkipError(f"--calibrated-on {base}: choose from {', '.join(names)}")
    folder = model_folder(model, work or _default_work()) / "corpora"
    profiles = {text.name: profile_of(model, text, tokens, folder) for text in texts}
    similar = {name: [one.prefill.similarity for one in profile.sublayers] for name, profile in profiles.items()}
    rates = matrix(similar, sizes)
    if json_file:
        about = {
            text.name: {
                **{"file": text.path.name, "field": text.field, "sha256": text.sha256},
                "tokens": profiles[text.name].sublayers[0].prefill.tokens,
                "similarity": {one.name: one.prefill.similarity for one in profiles[text.name].sublayers},
            }
            for text in texts
        }
        _write(json_file, {"model": model, "corpora": about, "hit_rates": rates})
    print(corpora_table(rates, base, len(similar[base])))


def online(
    artifact: Annotated[Path, typer.Argument(help="An artifact with gates: edgeskip export --online.")],
    data: Annotated[Path, typer.Option(help="File of a generating task of edgeskip eval.")] = Path(GOV_REPORT.files[0]),
    limit: Annotated[int, typer.Option(min=1, help="Requests, in eval's order.")] = 10,
    tokens: Annotated[int, typer.Option(min=2, help="Most tokens of an answer.")] = 256,
    prompt_tokens: Annotated[int | None, typer.Option(min=2, help="Most of a prompt's, cut in its middle.")] = None,
    windows: Annotated[str, typer.Option(help="Decode steps watched, P, by comma.")] = "5,10,20,40,80",
    beta: Annotated[str | None, typer.Option(help="Thresholds β, by comma.  [default: the artifact's]")] = None,
    counts: Annotated[str, typer.Option(help="Numbers of FFNs, k, for the k most similar; by comma.")] = "4,8",
    oracle: Annotated[str, typer.Option(help="Of all of an answer's steps: whole; of those after P: rest.")] = "whole",
    log: Annotated[Path, typer.Option(help="Requests go there, and are taken from there.")] = Path("hit_rates.jsonl"),
    threads: Annotated[int | None, typer.Option(min=1, help="Threads (default: the physical cores).")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the rows there.")] = None,
) -> None:
    """Hit rates of an answer's first P steps against all of it; a table for each β to stdout."""
    if oracle not in ("whole", "rest"):
        raise EdgeSkipError(f"--oracle {oracle}: choose whole or rest")  # rest is what gates act on
    steps = numbers("--windows", windows, int, 1)
    sizes = numbers("--counts", counts, int, 1)
    thresholds = None if beta is None else numbers("--beta", beta, float, -1)
    task, path = task_of(data)
    samples = drawn(task.read([path]), limit)
    settings = Settings(max_new_tokens=tokens, max_prompt_tokens=prompt_tokens)
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
        found = {request.id: request for request in read_log(log, setting)}
        with log.open("a", encoding="utf-8") as file:
            for at, sample in enumerate(samples, 1):
                if sample.id not in found:
                    found[sample.id] = watch(session, task, sample, settings, steps)
                    file.write(json.dumps(asdict(found[sample.id])) + "\n")
                    file.flush()
                print(f"\r{task.name}: {at} of {len(samples)}", end="", file=sys.stderr, flush=True)
            print(file=sys.stderr)
    requests = [found[sample.id] for sample in samples]
    rows = rows_of(requests, steps, thresholds or [record.threshold], sizes, rest=oracle == "rest")
    if not rows:
        raise EdgeSkipError(f"no answer has more than {steps[0]} decode steps: give smaller --windows")
    if json_file:
        about = {"artifact": artifact.name, "limit": limit, "oracle": oracle, "setting": setting}
        _write(json_file, {**about, "rows": [asdict(row) for row in rows]})
    print(online_tables(rows, requests, oracle))


def text_named(reference: str, data: Path) -> Text:
    """`NAME=FILE` or `NAME=FILE#FIELD`, in the folder `data` where it is not a path of its own."""
    name, mark, rest = reference.partition("=")
    if not mark or not name.replace("_", "").replace("-", "").isalnum():
        raise EdgeSkipError(f"--corpus {reference}: write NAME=FILE or NAME=FILE#FIELD")
    file, fields = split_reference(rest)
    if len(fields) > 1:
        raise EdgeSkipError(f"--corpus {reference}: name one field, that of the text")
    path = _located(file, data)
    return Text(name, path, fields[0] if fields else None, sha256_of(path))


def task_of(data: Path) -> tuple[Task, Path]:
    """The task of `edgeskip eval` that reads a file of this name alone, and where the file is."""
    path = _located(data, DATA)
    tasks = {task.files[0]: task for task in TASKS.values() if isinstance(task, Task) and len(task.files) == 1}
    if path.name not in tasks:
        raise EdgeSkipError(f"--data {data} is of no task of edgeskip eval: choose {', '.join(tasks)}")
    return tasks[path.name], path


def numbers(option: str, text: str, kind: Callable[[str], Number], least: float) -> list[Number]:
    """The numbers of a list by comma, each once, rising; EdgeSkipError for other text, and below `least`."""
    try:
        found = sorted({kind(part) for part in text.split(",")})
    except ValueError:
        raise EdgeSkipError(f"{option} {text!r}: give numbers, by comma") from None
    if not all(number >= least for number in found):
        raise EdgeSkipError(f"{option} {text}: give numbers of at least {least:g}")
    return found


def profile_of(model: str, text: Text, tokens: int, folder: Path) -> Profile:
    """The profile of `text`, calibrated unless `folder` has it; its file's name says what it depends on."""
    path = folder / "-".join(filter(None, (text.name, text.field, str(tokens), f"{text.sha256[:12]}.json")))
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        field = ("--field", text.field) if text.field else ()
        corpus = ("--corpus", text.path, *field, "--tokens", str(tokens), "--decode-tokens", "0")
        edgeskip("calibrate", model, "-o", path, "--overwrite", *corpus)
    return read_profile(path)


def top(similarity: Values, count: int) -> set[int]:
    """Places of the `count` most similar; of equal ones those that run first, as plans take them."""
    return set(np.argsort(-np.asarray(similarity), kind="stable")[:count].tolist())


def hit_rate(one: Values, other: Values, count: int) -> float:
    """Share of the `count` most similar in one that are so in the other; the same either way round."""
    return len(top(one, count) & top(other, count)) / count


def matrix(similar: Mapping[str, Values], counts: Sequence[int]) -> dict[str, dict[str, dict[str, float]]]:
    """k → calibrated on → tested on → hit rate. EdgeSkipError where k leaves nothing to choose from."""
    most = min(len(one) for one in similar.values())
    if too_many := [count for count in counts if count >= most]:
        raise EdgeSkipError(f"--counts {too_many[0]}: the model has {most} sublayers, so give fewer")
    return {
        str(count): {a: {b: hit_rate(of_a, of_b, count) for b, of_b in similar.items()} for a, of_a in similar.items()}
        for count in counts
    }


def corpora_table(rates: Mapping[str, Mapping[str, Mapping[str, float]]], base: str, sublayers: int) -> str:
    """A row for each k: the corpora tested, and what chance would hit."""
    others = [name for name in next(iter(rates.values())) if name != base]
    lines = [f"| k, calibrated on {base} | {' | '.join(others)} | by chance |", "|---:" * (len(others) + 2) + "|"]
    for count, of_count in rates.items():
        cells = [f"{of_count[base][name]:.1%}" for name in others]
        lines.append(f"| {count} | {' | '.join(cells)} | {int(count) / sublayers:.1%} |")
    return "\n".join(lines)


def read_log(path: Path, setting: dict[str, Any]) -> list[Request]:
    """The requests of a log, () where it is new: its first line then says `setting`.

    A last line that was not written to its end is cut off. EdgeSkipError for a log of something else.
    """
    if not path.exists():
        header = {"format": FORMAT, "settings": setting}
        replace_file(path, (json.dumps(header) + "\n").encode())  # whole or not there
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    try:
        first, *lines = [json.loads(line) for line in whole.decode("utf-8").splitlines()]
        if first["format"] != FORMAT:
            raise ValueError(first["format"])
        before: dict[str, Any] = dict(first["settings"])
        found = [Request(**line) for line in lines]
    except (ValueError, TypeError, KeyError):
        raise EdgeSkipError(f"{path} is not a log of watched requests: name another --log") from None
    if before != setting:
        names = [name for name in {**before, **setting} if before.get(name) != setting.get(name)]
        raise EdgeSkipError(f"{path} was made with another {', '.join(names)}: name another --log")
    if whole != data:
        with path.open("rb+") as file:
            file.truncate(len(whole))
    return found


def watch(session: Session, task: Task, sample: Sample, settings: Settings, windows: Sequence[int]) -> Request:
    """The greedy answer with every FFN running, watched to its end; the prompt is `edgeskip eval`'s."""
    from edgeskip.runtime.loops import History
    from edgeskip.runtime.online import Online
    from edgeskip.runtime.online_decoding import online_decoding
    from edgeskip.runtime.sampling import Sampler, Sampling

    whole = session.encode(sample.prompt, chat=task.chat and session.chat_template is not None)
    ids = cut_middle(whole, prompt_room(session.context_length, task, settings))
    engine, most = session.engine, settings.max_new_tokens or task.max_new_tokens
    decoding = online_decoding(engine, Online(gate=False), session.online)
    engine.truncate(0)
    engine.reserve(len(ids) + most)
    logits = decoding.prefill(ids)
    sampler = Sampler(Sampling())
    written = decoding.decode(logits, History(ids), sampler, max_tokens=most, end_tokens=session.end_tokens)
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
    """Every β with every P that some request outlasts; k of as many FFNs or more than there are is left out."""
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
    """The share of these that are among those; of none 1 where those are none too, else 0."""
    return len(these & those) / len(these) if these else float(not those)


def online_tables(rows: Sequence[Row], requests: Sequence[Request], oracle: str) -> str:
    """A table for each β."""
    steps = [request.steps for request in requests]
    lines = [
        f"{len(requests)} requests of {min(steps)} to {max(steps)} decode steps; the first P steps against "
        f"{'all of them' if oracle == 'whole' else 'those after'}; a request counts for a P that it outlasts"
    ]
    for beta in dict.fromkeys(row.beta for row in rows):
        some = [row for row in rows if row.beta == beta]
        titles = [f"P, β {beta:g}", "requests", "FFNs ≥ β", "of the oracle", *some[0].shares]
        lines += ["", f"| {' | '.join(titles)} |", "|---:" * len(titles) + "|"]
        for row in some:
            cells = [str(row.window), str(row.requests), f"{row.found_ffns:.1f}", f"{row.true_ffns:.1f}"]
            for title, share in row.shares.items():
                span = row.intervals[title]
                cells.append(f"{share:.1%}" + (f" [{span[0]:.1%} – {span[1]:.1%}]" if span else ""))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _means(similarity: NDArray[np.float32]) -> list[float]:
    """As the runtime takes them, so that a threshold decides alike."""
    return [float(mean) for mean in similarity.mean(axis=0, dtype=np.float64)] if len(similarity) else []


def _located(file: Path, data: Path) -> Path:
    for path in (file, data / file):
        if path.is_file():
            return path
    raise EdgeSkipError(f"there is no file {file}, in {data} neither: name another or set EDGESKIP_DATA")


def _write(path: Path, report: dict[str, Any]) -> None:
    report["created"] = datetime.now(UTC).isoformat(timespec="seconds")
    replace_file(path, (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode())


def _default_work() -> Path:
    from edgeskip.fetch import cache_folder

    return cache_folder() / "hit-rates"


if __name__ == "__main__":
    try:
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command()(corpora)
        app.command()(online)
        app()
    except EdgeSkipError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
