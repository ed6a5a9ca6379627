"""Does calibration on one text find the sublayers that another would choose? AdaSkip's table 1 (arXiv 2501.02336).

    python tools/benchmarks/calibration_overlap.py --work FOLDER --json corpora.json

Makes the table of docs/results/hit-rates.md: of the k sublayers most similar on one corpus, the share that is among the
k most similar on another. Goes on where it was: profiles are kept in --work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from harness.command import (
    DATA,
    DEFAULT_MODEL,
    DataFolder,
    JsonFile,
    Model,
    Work,
    cache_folder,
    check_names,
    located,
    main,
    numbers,
)  # fmt: skip
from harness.product import calibrated, model_folder
from harness.results import Results, Table

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import sha256_of
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


@dataclass(frozen=True)
class Text:
    """A corpus to calibrate on; `field` of its records, None for plain text."""

    name: str
    path: Path
    field: str | None
    sha256: str


def calibration_overlap(
    model: Model = DEFAULT_MODEL,
    corpus: Annotated[
        list[str] | None, typer.Option(help=f"NAME=FILE[#FIELD], repeatable.  [default: {' '.join(CORPORA)}]")
    ] = None,
    calibrated_on: Annotated[str | None, typer.Option(help="The table's corpus.  [default: the first]")] = None,
    counts: Annotated[str, typer.Option(help="Numbers of sublayers, k, by comma.")] = "4,8,12,16",
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to calibrate with, of each corpus.")] = 16384,
    data: DataFolder = DATA,
    work: Work = None,
    json_file: JsonFile = None,
) -> None:
    """Hit rates between corpora: calibrated on one, tested on the others; a table to stdout."""
    texts = [text_named(reference, data) for reference in corpus or CORPORA]
    sizes = numbers("--counts", counts, int, 1)
    names = [text.name for text in texts]
    check_names(names)
    if len(names) < 2:
        raise EdgeSkipError("--corpus: give two corpora or more")
    base = calibrated_on or names[0]
    if base not in names:
        raise EdgeSkipError(f"--calibrated-on {base}: choose from {', '.join(names)}")
    folder = model_folder(model, work or cache_folder("hit-rates")) / "corpora"
    profiles = {text.name: profile_of(model, text, tokens, folder) for text in texts}
    similar = {name: [one.prefill.similarity for one in profile.sublayers] for name, profile in profiles.items()}
    rates = matrix(similar, sizes)
    about = {
        text.name: {
            **{"file": text.path.name, "field": text.field, "sha256": text.sha256},
            "tokens": profiles[text.name].sublayers[0].prefill.tokens,
            "similarity": {one.name: one.prefill.similarity for one in profiles[text.name].sublayers},
        }
        for text in texts
    }
    Results(
        name="calibration_overlap",
        setting={"model": model, "tokens_of_each_corpus": tokens},
        tables=[table_of(rates, base, len(similar[base]))],
        data={"corpora": about, "hit_rates": rates},
    ).publish(json_file)


def text_named(reference: str, data: Path) -> Text:
    """`NAME=FILE` or `NAME=FILE#FIELD`, in the folder `data` unless it is a path of its own."""
    name, mark, rest = reference.partition("=")
    if not mark or not name.replace("_", "").replace("-", "").isalnum():
        raise EdgeSkipError(f"--corpus {reference}: write NAME=FILE or NAME=FILE#FIELD")
    file, fields = split_reference(rest)
    if len(fields) > 1:
        raise EdgeSkipError(f"--corpus {reference}: name one field, that of the text")
    path = located(file, data)
    return Text(name, path, fields[0] if fields else None, sha256_of(path))


def profile_of(model: str, text: Text, tokens: int, folder: Path) -> Profile:
    """Return the profile of `text`, calibrated unless `folder` has it; its file's name says what it depends on."""
    path = folder / "-".join(filter(None, (text.name, text.field, str(tokens), f"{text.sha256[:12]}.json")))
    if not path.exists():
        field = ("--field", text.field) if text.field else ()
        calibrated(model, path, corpus=(text.path, *field), tokens=tokens)
    return read_profile(path)


def top(similarity: Values, count: int) -> set[int]:
    """Places of the `count` most similar; of equal ones those that run first, as plans take them."""
    return set(np.argsort(-np.asarray(similarity), kind="stable")[:count].tolist())


def hit_rate(one: Values, other: Values, count: int) -> float:
    """Share of the `count` most similar in one that are so in the other; the same either way round."""
    return len(top(one, count) & top(other, count)) / count


def matrix(similar: Mapping[str, Values], counts: Sequence[int]) -> dict[str, dict[str, dict[str, float]]]:
    """k → calibrated on → tested on → hit rate. Raises EdgeSkipError if k leaves nothing to choose from."""
    most = min(len(one) for one in similar.values())
    if too_many := [count for count in counts if count >= most]:
        raise EdgeSkipError(f"--counts {too_many[0]}: the model has {most} sublayers, so give fewer")
    return {
        str(count): {a: {b: hit_rate(of_a, of_b, count) for b, of_b in similar.items()} for a, of_a in similar.items()}
        for count in counts
    }


def table_of(rates: Mapping[str, Mapping[str, Mapping[str, float]]], base: str, sublayers: int) -> Table:
    """Return a row for each k: the corpora tested, and what chance would hit."""
    others = [name for name in next(iter(rates.values())) if name != base]
    lines = [
        [count, *(f"{of_count[base][name]:.1%}" for name in others), f"{int(count) / sublayers:.1%}"]
        for count, of_count in rates.items()
    ]
    title = f"Share of the k most similar sublayers on {base} that another text finds"
    return Table(title, [f"k, calibrated on {base}", *others, "by chance"], lines)


if __name__ == "__main__":
    main(calibration_overlap)
