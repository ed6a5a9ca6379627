"""Exact match of greedy parses: how many utterances an artifact answers as the data does, whole and by its exits.

    python tools/benchmarks/parse_accuracy.py ARTIFACT … --data topv2_en_validation.tsv --log parses.jsonl

The utterance is the user's message, as `edgeskip run -p` renders it; the parse counts where it is the data's, white
space aside. Ways to decode: plain, speculative, draft-only (each exit's own tokens, nothing verified). Utterance by
utterance every way has its turn, plain first, and what is left is compared with plain's tokens: the share that is
identical, and for what was verified how near to a tie the likeliest tokens were where it parts.

The log is appended to, parse by parse; started again, the work goes on where it was. Utterances come in an order drawn
once, so that more of them go on after fewer. Without artifacts the log alone is reported. Times want a quiet machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any

import typer
from gguf_plans import check_names
from harness.machine import cpu_time
from harness.report import doubts

from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.comparison import NEAR_TIE, find_difference
from edgeskip.runtime.speculation.policy import Speculation
from edgeskip.training.examples import read_records, split_reference, text_of

if TYPE_CHECKING:
    from edgeskip.runtime.generation import Strategy
    from edgeskip.runtime.session import Session

STRATEGIES = ("plain", "speculative", "draft-only")
FIELDS = ("utterance", "semantic_parse")
AUTO = Speculation()


@dataclass(frozen=True)
class Utterance:
    """`number` is its place in the file, from 0."""

    number: int
    text: str
    parse: str


@dataclass(frozen=True)
class Way:
    """One way to decode."""

    name: str
    strategy: Strategy
    policy: Speculation = AUTO


@dataclass(frozen=True)
class Parse:
    """What one way wrote for one utterance; `steps` tokens after the first in `decode_s` seconds.

    `same` as plain decoding of the same artifact, None for plain itself or where there is none. `position` and
    `margin` (in logits) tell where a verified text parts from plain's, and how near a tie it was.
    """

    artifact: str
    made: str | None  # when the artifact was exported, as it says itself
    way: str
    utterance: int
    text: str
    exact: bool
    finished: bool  # by an end token, not by the limit
    tokens: list[int]
    steps: int
    ttft_s: float
    decode_s: float
    drafted: int = 0
    accepted: int = 0
    same: bool | None = None
    position: int | None = None
    margin: float | None = None


def parse_accuracy(
    artifacts: Annotated[list[Path] | None, typer.Argument(help="Artifact folders or .gguf files.")] = None,
    data: Annotated[str, typer.Option(help="FILE or FILE#UTTERANCE,PARSE (.tsv, .csv, .jsonl).")] = "",
    log: Annotated[Path, typer.Option(help="Every parse goes there, and is taken from there.")] = Path("parses.jsonl"),
    utterances: Annotated[int, typer.Option(min=1, help="How many of the file's.")] = 200,
    strategies: Annotated[
        str | None, typer.Option(help="plain, speculative, draft-only; comma-separated (default: what it can do).")
    ] = None,
    num_speculations: Annotated[
        str, typer.Option(help="speculative: tokens drafted a round, comma-separated.")
    ] = "auto",
    drafter: Annotated[
        str, typer.Option(help="speculative: default, model, ngram, mixed; comma-separated.")
    ] = "default",
    exit_layer: Annotated[str | None, typer.Option(help="draft-only: exits, comma-separated (default: all).")] = None,
    draft_confidence: Annotated[
        str, typer.Option(help="draft-only: least probability, else a deeper exit is asked; comma-separated.")
    ] = "0",
    tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a parse.")] = 128,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads (default: the physical cores).")] = None,
) -> None:
    """Exact match of greedy parses, and what the ways to decode share with plain; a table to stdout."""
    from edgeskip.runtime.session import load

    chosen, digest = read_utterances(data, utterances)
    check_names([path.name for path in artifacts or ()])
    found = read_log(log, {"data_sha256": digest, "tokens": tokens})
    others: list[float | None] = []
    for path in artifacts or ():
        with load(path, threads=threads) as session:
            exits = exit_layer.split(",") if exit_layer else None
            ways = ways_of(
                session, strategies.split(",") if strategies else None, num_speculations.split(","),
                drafter.split(","), exits, draft_confidence.split(","),
            )  # fmt: skip
            check_made(session, path.name, found)
            before, begin = cpu_time(os.getpid()), time.perf_counter()
            with log.open("a", encoding="utf-8") as file:
                for parse in parses(session, path.name, chosen, ways, tokens, found):
                    found.append(parse)
                    file.write(json.dumps(asdict(parse), ensure_ascii=False) + "\n")
                    file.flush()
            after = cpu_time(os.getpid())
            others.append(after.others_since(before, time.perf_counter() - begin) if before and after else None)
    numbers = {utterance.number for utterance in chosen}
    print("\n".join([*report([one for one in found if one.utterance in numbers]), *doubts(others)]))


def read_utterances(reference: str, count: int) -> tuple[list[Utterance], str]:
    """`count` utterances of a file in an order drawn once, and the file's SHA-256. EdgeSkipError where it has none."""
    path, fields = split_reference(reference or "../shared/data/topv2_en_validation.tsv")
    if len(fields) not in (0, 2):
        raise EdgeSkipError(f"{reference}: name the fields of utterance and parse, as in FILE#{','.join(FIELDS)}")
    said, meant = fields or FIELDS
    records = list(read_records(path))
    if not records:
        raise EdgeSkipError(f"{path} has no utterances")
    every = [
        Utterance(number, text_of(record, said, where), text_of(record, meant, where))
        for number, (where, record) in enumerate(records)
    ]
    drawn = random.Random(0).sample(every, len(every))
    return drawn[:count], hashlib.sha256(path.read_bytes()).hexdigest()


def read_log(path: Path, setting: dict[str, Any]) -> list[Parse]:
    """The parses of a log, () where it is new: its first line then says `setting`.

    A last line that was not written to its end is cut off. EdgeSkipError for a log of another setting or of no parses.
    """
    if not path.exists():
        path.write_text(json.dumps(setting) + "\n", encoding="utf-8")
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    try:
        first, *lines = [json.loads(line) for line in whole.decode("utf-8").split("\n") if line]
        found = [Parse(**line) for line in lines]
    except (ValueError, TypeError):
        raise EdgeSkipError(f"{path} is not a log of parses: name another --log") from None
    if first != setting:
        raise EdgeSkipError(f"{path} is of other data or another --tokens ({json.dumps(first)}): name another --log")
    if whole != data:
        with path.open("rb+") as file:
            file.truncate(len(whole))
    return found


def check_made(session: Session, artifact: str, found: Iterable[Parse]) -> None:
    """EdgeSkipError where the log has parses of another artifact of this name."""
    made = session.manifest.created if session.manifest else None
    if any(one.artifact == artifact and one.made != made for one in found):
        raise EdgeSkipError(f"the log has parses of another {artifact}, exported before or after: name another --log")


def ways_of(
    session: Session, strategies: Sequence[str] | None, counts: Sequence[str], drafters: Sequence[str],
    exits: Sequence[str] | None, confidences: Sequence[str],
) -> list[Way]:  # fmt: skip
    """Plain first. None = what the artifact can do. EdgeSkipError for what nothing can."""
    if strategies is None:
        strategies = STRATEGIES if session.drafts else ("plain",)
    if unknown := [one for one in strategies if one not in STRATEGIES]:
        raise EdgeSkipError(f"--strategies {unknown[0]}: choose from {', '.join(STRATEGIES)}")
    try:
        numbers: list[Any] = [count if count == "auto" else int(count) for count in counts]
        layers = [int(layer) for layer in exits] if exits else [draft.exit_layer for draft in session.drafts]
        floors = [float(confidence) for confidence in confidences]
    except ValueError as error:
        raise EdgeSkipError(f"{error}: give numbers") from None
    ways = [Way("plain", "plain")] if "plain" in strategies else []
    if "speculative" in strategies:
        for drafter in drafters:
            who: Any = None if drafter == "default" else drafter
            for number in numbers:
                name = f"speculative {drafter} " if who else "speculative "
                name += "auto" if number == "auto" else f"γ {number}"
                ways.append(Way(name, "speculative", Speculation(who, number)))
    if "draft-only" in strategies:
        for layer in layers or [None]:
            for floor in floors:
                name = "draft-only" if layer is None else f"draft-only exit {layer}"
                name += f", ≥ {floor:g}" if floor else ""
                ways.append(Way(name, "draft-only", Speculation(confidence=floor, exit_layer=layer)))
    return ways


def parses(
    session: Session, artifact: str, utterances: Sequence[Utterance], ways: Sequence[Way], tokens: int,
    found: Iterable[Parse],
) -> Iterator[Parse]:  # fmt: skip
    """Every utterance in every way that is not in `found` yet; the ways after plain change their order."""
    done = {(one.way, one.utterance): one for one in found if one.artifact == artifact}
    for at, utterance in enumerate(utterances):
        first = [way for way in ways if way.strategy == "plain"]
        rest = [way for way in ways if way.strategy != "plain"]
        shift = at % max(1, len(rest))
        for way in [*first, *rest[shift:], *rest[:shift]]:
            if (way.name, utterance.number) not in done:
                one = parse_once(session, artifact, way, utterance, tokens, done.get(("plain", utterance.number)))
                done[way.name, utterance.number] = one
                yield one
        if (at + 1) % 10 == 0 or at + 1 == len(utterances):
            print(f"\r{artifact}: {at + 1} of {len(utterances)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)


def parse_once(
    session: Session, artifact: str, way: Way, utterance: Utterance, tokens: int, plain: Parse | None
) -> Parse:
    ids = session.encode(utterance.text)
    generation = session.generate(ids, max_tokens=tokens, strategy=way.strategy, speculation=way.policy)
    stats, counts = generation.stats, generation.stats.speculation
    compared = plain is not None and way.strategy != "plain"
    same = list(generation.tokens) == plain.tokens if plain and compared else None
    difference = None
    if plain and same is False and way.strategy == "speculative":
        difference = find_difference(session, ids, plain.tokens, generation.tokens)
    return Parse(
        artifact=artifact,
        made=session.manifest.created if session.manifest else None,
        way=way.name,
        utterance=utterance.number,
        text=generation.text,
        exact=generation.text.split() == utterance.parse.split(),
        finished=generation.finish_reason == "eos",
        tokens=list(generation.tokens),
        steps=round(stats.decode_s * stats.decode_tokens_per_s),
        ttft_s=stats.ttft_s,
        decode_s=stats.decode_s,
        drafted=counts.drafted if counts else 0,
        accepted=counts.accepted if counts else 0,
        same=same,
        position=difference.position if difference else None,
        margin=difference.margin if difference else None,
    )


def report(found: Sequence[Parse]) -> list[str]:
    """A table of artifacts and ways, then every verified text that parts from plain's."""
    lines = [
        "| artifact | way | utterances | exact | unfinished | identical to plain | tok/s | ÷ plain | ms an utterance "
        "| accepted |",
        "|---|---" + "|---:" * 8 + "|",
    ]
    groups: dict[tuple[str, str], list[Parse]] = {}
    for one in found:
        groups.setdefault((one.artifact, one.way), []).append(one)
    for (artifact, way), some in groups.items():
        plain = {one.utterance: one for one in groups.get((artifact, "plain"), [])}
        both = [one for one in some if one.utterance in plain]
        theirs, ours = speed([plain[one.utterance] for one in both]), speed(both)
        compared = [one.same for one in some if one.same is not None]
        drafted = sum(one.drafted for one in some)
        cells = [
            artifact,
            way,
            str(len(some)),
            f"{fmean(one.exact for one in some):.1%}",
            str(sum(not one.finished for one in some)),
            f"{fmean(compared):.1%}" if compared else "",
            f"{speed(some):.1f}",
            f"{ours / theirs:.2f}" if theirs and way != "plain" else "",
            f"{1e3 * fmean(one.ttft_s + one.decode_s for one in some):.0f}",
            f"{sum(one.accepted for one in some) / drafted:.1%}" if drafted else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    parted = [one for one in found if one.margin is not None]
    lines += [
        f"- {one.artifact}, {one.way}, utterance {one.utterance}: token {one.position}, margin {one.margin:.2g}"
        + ("" if one.margin is not None and one.margin < NEAR_TIE else ", no near tie")
        for one in parted
    ]
    return lines


def speed(some: Sequence[Parse]) -> float:
    """Tokens/s after each first token, over all; 0 where there are none."""
    seconds = sum(one.decode_s for one in some)
    return sum(one.steps for one in some) / seconds if seconds else 0.0


if __name__ == "__main__":
    try:
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command()(parse_accuracy)
        app()
    except EdgeSkipError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
