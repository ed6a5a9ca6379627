"""llama-bench's command lines and its JSON. Oracle: real output of a real llama-bench (build 0c1e570, on a PC)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgeskip.bench.devices.adb.llama_bench import llama_bench_arguments, parse_llama_bench
from edgeskip.bench.runner.request import SyntheticTest as RandomTest
from edgeskip.core.errors import EdgeSkipError

REAL = (Path(__file__).parent / "llama_bench.json").read_text(encoding="utf-8")


def named(*names: str) -> list[RandomTest]:
    """pp32@64: 32 tokens at depth 64."""
    found = []
    for name in names:
        length, _, depth = name[2:].partition("@")
        found.append(RandomTest.model_validate({"test": name[:2], "tokens": length, "depth": depth or 0}))
    return found


@pytest.mark.parametrize(
    ("wanted", "calls"),
    [
        (("pp512",), ["-p 512 -n 0"]),
        (("tg128",), ["-p 0 -n 128"]),
        (("pp512", "tg128", "pp512@2048", "tg128@2048"), ["-p 512 -n 128 -d 0,2048"]),
        (("pp512", "pp64", "tg8", "tg8"), ["-p 512,64 -n 8"]),
        (("pp512", "tg128@512"), ["-p 512 -n 0", "-p 0 -n 128 -d 512"]),
    ],
)
def test_each_test_is_asked_for_once(wanted: tuple[str, ...], calls: list[str]) -> None:
    made = llama_bench_arguments(named(*wanted), model="/m.gguf", threads=4, gpu=False)
    common = "-m /m.gguf -r 1 -t 4 -ngl 0 -o json"
    assert [" ".join(call) for call in made] == [f"{common} {call}" for call in calls]


def test_figures_are_those_of_its_json() -> None:
    benched = parse_llama_bench(REAL, named("tg8@64", "pp32"), threads=2)
    rows = {(row["n_prompt"], row["n_gen"], row["n_depth"]): row for row in json.loads(REAL)}
    assert [test.seconds for test in benched.tests] == [rows[0, 8, 64]["avg_ns"] / 1e9, rows[32, 0, 0]["avg_ns"] / 1e9]
    assert [test.tokens / test.seconds for test in benched.tests] == pytest.approx(
        [rows[0, 8, 64]["avg_ts"], rows[32, 0, 0]["avg_ts"]], rel=1e-6
    )
    assert (benched.commit, benched.backends, benched.threads) == ("0c1e570", "CPU", 2)


def test_other_lines_and_several_answers() -> None:
    rows = json.loads(REAL)
    halves = [json.dumps(part, indent=2) for part in (rows[:2], rows[2:])]
    text = f"WARNING: linker: [ something\n{halves[0]}\nggml: loaded\n{halves[1]}\n"
    assert (
        parse_llama_bench(text, named("pp32", "tg8@64"), threads=2).tests
        == parse_llama_bench(REAL, named("pp32", "tg8@64"), threads=2).tests
    )


def changed(**changes: Any) -> str:
    return json.dumps([{**row, **changes} for row in json.loads(REAL)], indent=2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "printed no figures: nothing at all"),
        ("| model | size |\n", r"printed no figures: \| model"),
        (REAL[: len(REAL) // 2], "printed no figures"),
        (changed(samples_ns=[]), r"\(samples_ns: "),
        (changed(samples_ns=[0]), r"\(samples_ns\.0: "),
        (changed(build_commit=None), r"\(build_commit: "),
        (changed(n_threads=4), "ran with 4 threads instead of 2"),
        (changed(n_depth=0), r"did not measure tg8 @ d64 \(depths need"),
        (changed(n_prompt=16), r"did not measure pp32, tg8 @ d64"),
    ],
)
def test_answers_that_are_not_of_these_tests(text: str, message: str) -> None:
    with pytest.raises(EdgeSkipError, match=message) as caught:
        parse_llama_bench(text, named("pp32", "tg8@64"), threads=2)
    assert "\n" not in str(caught.value)
