"""`edgeskip run` with strategies, drafters and --compare, as a process. Oracle: the session's own answer."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest

import edgeskip
from edgeskip.cli.views.generation import colored, speculation_facts, summary, verdict
from edgeskip.runtime.speculation.policy import Speculation
from edgeskip.runtime.stream import Piece

COMMAND = [sys.executable, "-m", "edgeskip", "run"]
LOOP = ["-p", "hey hey hey hey hey", "--raw", "--max-tokens", "24"]


def run(folder, *arguments):
    command = [*COMMAND, str(folder), "--threads", "1", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_speculation_says_what_it_did(tiny_artifact):
    with edgeskip.load(tiny_artifact.folder, threads=1) as session:
        wanted = session.generate("hey hey hey hey hey", chat=False, max_tokens=24).text
    options = ["--strategy", "speculative", "--drafter", "ngram", "--num-speculations", "3"]
    answer = run(tiny_artifact.folder, *LOOP, *options)
    assert (answer.returncode, answer.stdout) == (0, wanted + "\n")
    assert " | speculative, cpu, 1 thread | " in answer.stderr
    assert answer.stderr.count("\n") == 1
    data = json.loads(run(tiny_artifact.folder, *LOOP, *options, "--json").stdout)
    assert data["strategy"] == "speculative"
    assert data["label"] == "lossy-skip"  # verified by a lossy model is lossy
    assert set(data["stats"]["speculation"]) >= {"rounds", "drafted", "accepted", "acceptance_per_position", "speedup"}
    assert "\x1b" not in answer.stdout  # colours are for terminals


def test_what_is_said_of_speculation_is_not_passed_over(tiny_artifact):
    """An artifact without a draft decodes plainly by itself; asked to speculate in any way, it does."""
    for options in (["--drafter", "ngram"], ["--num-speculations", "3"]):
        assert json.loads(run(tiny_artifact.folder, *LOOP, *options, "--json").stdout)["strategy"] == "speculative"


def test_compare_runs_both(tiny_artifact):
    options = ["--compare", "--drafter", "ngram", "--num-speculations", "2"]
    answer = run(tiny_artifact.folder, *LOOP, *options)
    assert answer.returncode == 0
    for word in ("plain", "speculative", "decode, tokens/s", "identical: 24 of 24 tokens"):
        assert word in answer.stdout
    data = json.loads(run(tiny_artifact.folder, *LOOP, *options, "--json").stdout)
    assert data["identical"] is True
    assert data["first_difference"] is None
    assert data["plain"]["tokens"] == data["speculative"]["tokens"]
    tokens_per_s = [data[name]["stats"]["decode_tokens_per_s"] for name in ("speculative", "plain")]
    assert data["speedup"] == pytest.approx(tokens_per_s[0] / tokens_per_s[1])


def test_drawn_texts_are_not_compared_token_by_token(tiny_artifact):
    options = ["--compare", "--drafter", "ngram", "--temperature", "1", "--seed", "1"]
    assert "sampled texts" in run(tiny_artifact.folder, *LOOP, *options).stdout
    assert json.loads(run(tiny_artifact.folder, *LOOP, *options, "--json").stdout)["identical"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num-speculations", "9" * 5000], "9 is not a number"),
        (["--num-speculations", "٣"], "--num-speculations ٣ is not a number"),
        (["--num-speculations", "many"], "--num-speculations many is not a number"),
        (["--num-speculations", "17"], "--num-speculations must be 1 … 16 or auto, not 17"),
        (["--drafter", "magic"], "--drafter: 'magic' is unknown; choose from 'model', 'ngram', 'mixed'"),
        (["--strategy", "fast"], "--strategy: 'fast' is unknown; choose from 'plain', 'speculative', 'draft-only'"),
        (["--strategy", "speculative", "--drafter", "model"], "this artifact has no draft"),
        (["--strategy", "draft-only"], "draft-only needs a draft"),
        (["--draft-confidence", "2"], "confidence must be from 0 to 1, not 2.0"),
        (["--compare", "--strategy", "plain"], "--compare runs plain decoding anyway"),
        (["--drafter", "model"], "this artifact has no draft"),
        (["--exit-layer", "4"], "no exit after 4 blocks; its exits: none"),
        (["--strategy", "plain", "--num-speculations", "4"], "--num-speculations has no effect with --strategy plain"),
        (["--strategy", "plain", "--exit-layer", "4"], "--exit-layer has no effect with --strategy plain"),
        (["--strategy", "draft-only", "--drafter", "ngram"], "--drafter has no effect with --strategy draft-only"),
        (
            ["--strategy", "draft-only", "--num-speculations", "4"],
            "--num-speculations has no effect with --strategy draft",
        ),
        (["--drafter", "ngram", "--exit-layer", "4"], "n-grams have no exit layer"),
        (["--drafter", "ngram", "--draft-confidence", "0.5"], "n-grams have no confidence"),
    ],
)
def test_what_does_not_fit_is_one_line(tiny_artifact, arguments, message):
    answer = run(tiny_artifact.folder, *LOOP, *arguments)
    assert answer.returncode == 2
    assert message in answer.stderr
    assert answer.stderr.count("\n") == 1
    assert answer.stdout == ""


def test_drafted_pieces_are_colored():
    text = colored([Piece("ab", drafted=False), Piece("cd", drafted=True)])
    assert text.plain == "abcd"
    assert [(span.start, span.end, span.style) for span in text.spans] == [(2, 4, "green")]


def test_the_words_of_a_generation(tiny_artifact):
    with edgeskip.load(tiny_artifact.folder, threads=1) as session:
        found = session.generate(
            "hey hey hey", chat=False, max_tokens=24, strategy="speculative", speculation=Speculation("ngram", 3)
        )
        line = summary(found, session.plan).plain
    stats = found.stats.speculation
    assert f"{stats.accepted} of {stats.drafted} drafted tokens accepted" in speculation_facts(stats)
    assert line.startswith("lossy-skip (1 of 2 sublayers skipped) | speculative")


def test_nothing_drafted_is_not_said_to_be_slow(tiny_artifact):
    """Fixed γ, and no n-gram stood before: speed had no part in it."""
    with edgeskip.load(tiny_artifact.folder, threads=1) as session:
        found = session.generate([1, 2], max_tokens=2, strategy="speculative", speculation=Speculation("ngram", 3))
    assert found.stats.speculation.rounds == 0
    assert speculation_facts(found.stats.speculation) == "nothing drafted, 1 plain step"


def test_a_draft_alone_is_never_said_to_follow_the_models_distribution(tiny_artifact):
    from edgeskip.runtime.comparison import DecodingComparison

    with edgeskip.load(tiny_artifact.folder, threads=1) as session:
        one = session.generate([1, 2], max_tokens=3)
    alone = dataclasses.replace(one, strategy="draft-only", label="draft-only")
    assert verdict(DecodingComparison(one, alone, False, None)).startswith("the draft's own text, not verified")


def test_the_verdict_on_texts_that_part(tiny_artifact):
    from edgeskip.runtime.comparison import DecodingComparison, TokenDifference

    with edgeskip.load(tiny_artifact.folder, threads=1) as session:
        one = session.generate([1, 2], max_tokens=3)
    assert "rounding decides" in verdict(DecodingComparison(one, one, True, TokenDifference(2, 1e-5)))
    assert "more than rounding" in verdict(DecodingComparison(one, one, True, TokenDifference(2, 0.5)))
