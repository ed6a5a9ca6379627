"""Does calibration on one text find the sublayers that another would choose? AdaSkip's table 1 (arXiv 2501.02336).

    python tools/benchmarks/calibration_overlap.py --work FOLDER --json corpora.json

Of the k sublayers most similar on one corpus, the share that is among the k most similar on another. Goes on where it
was: profiles are kept in --work.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import typer
from harness.product import edgeskip, model_folder
from perplexity_table import DATA

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import replace_file, sha256_of
from edgeskip.evaluation.bootstrap import Values
from edgeskip.profiles.schema import Profile, read_profile
from edgeskip.training.examples import split_reference

CORPORA = (  # the first is AdaSkip's own
    "qasper=longbench_qasper.jsonl#context",
    "wikitext=wikitext2_test.txt",
    "gov_report=longbench_gov_report.jsonl#context",
    "code=mbpp.jsonl#code",
    "news=longbench_multi_news.jsonl#context",
)
Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Text:
    """A corpus to calibrate on; `field` of its records, None for plain text."""

    name: str
    path: Path
    field: str | None
    sha256: str


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
    folder = model_folder(model, work or default_work()) / "corpora"
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
        write_report(json_file, {"model": model, "corpora": about, "hit_rates": rates})
    print(corpora_table(rates, base, len(similar[base])))


def text_named(reference: str, data: Path) -> Text:
    """`NAME=FILE` or `NAME=FILE#FIELD`, in the folder `data` where it is not a path of its own."""
    name, mark, rest = reference.partition("=")
    if not mark or not name.replace("_", "").replace("-", "").isalnum():
        raise EdgeSkipError(f"--corpus {reference}: write NAME=FILE or NAME=FILE#FIELD")
    file, fields = split_reference(rest)
    if len(fields) > 1:
        raise EdgeSkipError(f"--corpus {reference}: name one field, that of the text")
    path = located(file, data)
    return Text(name, path, fields[0] if fields else None, sha256_of(path))


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


def located(file: Path, data: Path) -> Path:
    for path in (file, data / file):
        if path.is_file():
            return path
    raise EdgeSkipError(f"there is no file {file}, in {data} neither: name another or set EDGESKIP_DATA")


def write_report(path: Path, report: dict[str, Any]) -> None:
    report["created"] = datetime.now(UTC).isoformat(timespec="seconds")
    replace_file(path, (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode())


def default_work() -> Path:
    from edgeskip.models.fetch import cache_folder

    return cache_folder() / "hit-rates"


if __name__ == "__main__":
    try:
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command()(corpora)
        app()
    except EdgeSkipError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
