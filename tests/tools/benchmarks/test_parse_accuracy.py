"""tools/benchmarks/parse_accuracy.py. Oracle: the runtime's own generations, figures by hand, an uninterrupted run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import parse_accuracy
import pytest
from parse_accuracy import Parse, read_log, read_utterances, report, ways_of

import edgeskip
from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.speculation.policy import Speculation

TOKENS = 6


@pytest.fixture
def utterances(tiny_early_exit: Path, tmp_path: Path) -> Path:
    """Three utterances; the second's parse is what the whole model writes, with more white space."""
    with edgeskip.load(tiny_early_exit, threads=1) as session:
        written = session.generate("play fox", max_tokens=TOKENS, strategy="plain").text
    file = tmp_path / "top.tsv"
    rows = [("wake me", "[IN:X ]"), ("play fox", "  ".join(["", *written.split(), ""])), ('stop "it', "[IN:Y ]")]
    file.write_text("utterance\tsemantic_parse\n" + "".join(f"{said}\t{meant}\n" for said, meant in rows))
    return file


def run(artifact: Path | None, data: Path, log: Path, count: int = 3, **options: Any) -> list[Parse]:
    parse_accuracy.parse_accuracy(
        [artifact] if artifact else [], data=str(data), log=log, utterances=count, tokens=TOKENS, threads=1, **options
    )
    return [Parse(**json.loads(line)) for line in log.read_text().splitlines()[1:]]


def test_what_the_runtime_writes(
    tiny_early_exit: Path, utterances: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(tiny_early_exit, utterances, tmp_path / "log.jsonl", num_speculations="2")
    ways = ("plain", "speculative γ 2", "draft-only exit 1")
    assert sorted((one.way, one.utterance) for one in found) == sorted((way, i) for way in ways for i in range(3))
    by_way = {way: {one.utterance: one for one in found if one.way == way} for way in ways}
    with edgeskip.load(tiny_early_exit, threads=1) as session:
        for strategy, way in (("plain", ways[0]), ("draft-only", ways[2])):
            direct = session.generate("play fox", max_tokens=TOKENS, strategy=strategy)  # type: ignore[arg-type]
            assert (tuple(by_way[way][1].tokens), by_way[way][1].text) == (direct.tokens, direct.text)
    assert [by_way["plain"][i].exact for i in range(3)] == [False, True, False]
    for one in found:
        plain = by_way["plain"][one.utterance]
        assert one.same == (None if one.way == "plain" else one.tokens == plain.tokens)
    out = capsys.readouterr().out
    assert f"| {tiny_early_exit.name} | plain | 3 | 33.3% |" in out


def test_goes_on_where_it_was(tiny_early_exit: Path, utterances: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    expected = run(tiny_early_exit, utterances, whole, num_speculations="2")
    run(tiny_early_exit, utterances, cut, 1, num_speculations="2")
    data = cut.read_bytes()
    cut.write_bytes(data[:-20])  # killed while it wrote
    found = run(tiny_early_exit, utterances, cut, num_speculations="2")
    timeless = [
        sorted((one.way, one.utterance, one.text, one.same, one.drafted) for one in some) for some in (expected, found)
    ]
    assert timeless[0] == timeless[1]
    before = cut.read_bytes()
    run(None, utterances, cut)
    assert cut.read_bytes() == before


def test_fewer_utterances_come_first(utterances: Path) -> None:
    every, digest = read_utterances(f"{utterances}#utterance,semantic_parse", 9)
    assert read_utterances(str(utterances), 2) == (every[:2], digest)
    assert {one.number: one.text for one in every} == {0: "wake me", 1: "play fox", 2: 'stop "it'}


def test_logs_that_do_not_fit(tiny_early_exit: Path, utterances: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    run(tiny_early_exit, utterances, log, 1, strategies="plain")
    before = log.read_bytes()
    with pytest.raises(EdgeSkipError, match="other data or another --tokens"):
        read_log(log, {"data_sha256": "0", "tokens": TOKENS})
    first, *lines = before.decode().splitlines()
    other = json.dumps({**json.loads(lines[0]), "made": "2001-01-01"})
    log.write_text(f"{first}\n{other}\n")
    with pytest.raises(EdgeSkipError, match="parses of another"):
        run(tiny_early_exit, utterances, log, 1)
    log.write_text("a book\n")
    with pytest.raises(EdgeSkipError, match="not a log of parses"):
        run(tiny_early_exit, utterances, log, 1)
    assert log.read_text() == "a book\n"


def test_ways() -> None:
    class TwoExits:
        drafts = tuple(type("Draft", (), {"exit_layer": layer}) for layer in (4, 8))

    session: Any = TwoExits()
    found = ways_of(session, None, ["2", "auto"], ["default", "ngram"], None, ["0", "0.5"])
    assert {way.name: way.policy for way in found} == {
        "plain": Speculation(),
        "speculative γ 2": Speculation(None, 2),
        "speculative auto": Speculation(),
        "speculative ngram γ 2": Speculation("ngram", 2),
        "speculative ngram auto": Speculation("ngram"),
        "draft-only exit 4": Speculation(exit_layer=4),
        "draft-only exit 4, ≥ 0.5": Speculation(exit_layer=4, confidence=0.5),
        "draft-only exit 8": Speculation(exit_layer=8),
        "draft-only exit 8, ≥ 0.5": Speculation(exit_layer=8, confidence=0.5),
    }
    for bad, message in ((["oracle"], "choose from"), (["speculative"], "give numbers")):
        with pytest.raises(EdgeSkipError, match=message):
            ways_of(session, bad, ["many"], ["default"], None, ["0"])


def test_figures_by_hand() -> None:
    plain = Parse("a", None, "plain", 0, "x", True, True, [1, 2], 10, 0.1, 1.0)
    other = replace(plain, way="speculative γ 2", decode_s=0.5, drafted=8, accepted=2, same=True)
    found = [plain, replace(plain, utterance=1, exact=False, finished=False, decode_s=3.0), other]
    found += [replace(other, utterance=1, decode_s=1.1, same=False, position=3, margin=0.2)]
    lines = report(found)
    assert lines[2] == "| a | plain | 2 | 50.0% | 1 |  | 5.0 |  | 2100 |  |"
    assert lines[3] == "| a | speculative γ 2 | 2 | 100.0% | 0 | 50.0% | 12.5 | 2.50 | 900 | 25.0% |"
    assert lines[4:] == ["- a, speculative γ 2, utterance 1: token 3, margin 0.2, no near tie"]
