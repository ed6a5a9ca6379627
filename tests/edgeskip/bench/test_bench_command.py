"""`edgeskip bench` as a user types it, on tiny artifacts. Oracle: what it leaves must be a run that adds up."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tiny_graph import build_tiny_artifact

from edgeskip.bench.analysis.rows import rows_of
from edgeskip.bench.runner.run_file import read_run

Cli = Any
QUICK = ("-p", "16", "-n", "4", "-r", "2", "-t", "1", "--num-prompts", "1", "--max-tokens", "6")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    base = tmp_path_factory.mktemp("tiny")
    return [build_tiny_artifact(base / name).folder for name in ("one", "two")]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_table_and_a_log(cli: Cli, folders: list[Path], tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise RuntimeError('what lies in the current folder was run')\n")
    done = cli("bench", folders[0], f"other={folders[1]}", *QUICK, "--strategy", "plain,speculative", "--no-quality")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("| target ")
    assert any("| pp16 " in line and "| one " in line for line in lines)
    (log,) = tmp_path.glob("edgeskip-bench-*.jsonl")
    assert f"every measurement is in {log.name}" in done.err
    run = read_run(log)
    assert list(run.targets) == ["one", "other"]
    assert len(run.samples) == 2 * 2 * 2  # targets, strategies, rounds
    assert run.header.settings.prompts == ["question"]
    rows = {(r.cell.target, r.cell.strategy, r.measure): r for r in rows_of(run)}
    assert len(rows["one", "plain", "tg4"].values) == 2
    assert rows["one", "speculative", "TPOT"].ratio is not None
    assert ("one", "speculative", "tg4") not in rows
    assert "lossy-skip; its loss was not measured" in done.out


@pytest.mark.slow
def test_json_jsonl_and_csv_say_the_same(cli: Cli, folders: list[Path], tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    done = cli("bench", folders[0], *QUICK, "-o", "csv", "--log", log)
    assert done.code == 0, done.err
    rows = rows_of(read_run(log))
    table = list(csv.DictReader(io.StringIO(done.out)))
    assert [(r["test"], float(r["mean"])) for r in table] == [(r.measure, r.mean) for r in rows]
    for form in ("json", "jsonl"):
        file = tmp_path / f"out.{form}"
        done = cli("bench", folders[0], *QUICK, "-o", form, "--log", tmp_path / f"{form}.log.jsonl")
        file.write_text(done.out)
        assert [s.cell for s in read_run(file).samples] == [s.cell for s in read_run(log).samples]
        quality = read_run(file).targets["one"].quality
        assert quality is not None
        assert quality.reference is None
        assert quality.perplexity > 1


def test_a_provider_that_cannot_run_is_a_failure_and_the_rest_goes_on(cli: Cli, folders: list[Path]) -> None:
    done = cli("bench", folders[0], *QUICK, "--provider", "coreml,cpu", "--no-quality")
    assert done.code == 1
    assert "one coreml plain t1 on local failed and is left out from here on" in done.err
    assert "| cpu " in done.out
    assert "| coreml " not in done.out


def test_a_fallback_says_so(cli: Cli, folders: list[Path]) -> None:
    done = cli("bench", folders[0], *QUICK, "--provider", "coreml", "--no-quality", "--allow-fallback", "-o", "jsonl")
    assert done.code == 0
    samples = [json.loads(line) for line in done.out.splitlines() if '"kind":"sample"' in line]
    assert {s["ran"]["provider"] for s in samples} == {"cpu"}
    assert "fell back to the CPU" in done.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-p", "x"), "-p x is not a list of whole numbers"),
        (("-t", "0"), "-t 0 is not a list of whole numbers of at least 1"),
        (("-o", "html"), "-o html does not end in .jsonl"),
        (("--strategy", "online"), "decoded by online"),
        (("--provider", "quantum"), "--provider quantum is unknown"),
        (("--baseline", "three"), "--baseline three"),
        (("--prompts", "nowhere.txt"), "nowhere.txt: No such file"),
        (("--num-prompts", "7"), "has 6 prompts, not 7"),
        (("-p", "0", "-n", "0", "--num-prompts", "0"), "nothing is left to measure"),
        (("--python", "cpu=/no/python"), "/no/python does not exist"),
        (("--python", "cuda=/bin/sh"), "PROVIDER=PATH"),
        (("--quality", "q.txt", "--no-quality"), "--no-quality"),
        (("--no-local",), "--no-local leaves no device"),
        (("--log", "taken.jsonl"), "taken.jsonl exists"),
        (("--adb",), "--llama-bench FILE"),
        (("--adb-serial", "x"), "--adb-serial"),
        (("--remote-python", "python3"), "--remote USER@HOST"),
        (("--provider", "web", "--throttle", "0.5"), "--throttle 0.5"),
        (("--provider", "web", "--strategy", "speculative"), "a browser decodes by plain or self-speculative"),
        (("--serve", "--strategy", "speculative"), "a browser decodes by plain or self-speculative"),
        (("--serve", "--certificate", "c.pem"), "--certificate and --key belong together"),
        (("--serve", "--host", "999.1.1.1"), "cannot serve on 999.1.1.1"),
    ],
)
def test_bad_input_is_one_line(
    cli: Cli, folders: list[Path], tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    (tmp_path / "taken.jsonl").write_text("mine")
    assert words in cli("bench", folders[0], *arguments).complaint()
    assert (tmp_path / "taken.jsonl").read_text() == "mine"
    assert [file.name for file in tmp_path.iterdir()] == ["taken.jsonl"]


def test_a_port_in_use_is_said_before_anything_is_measured(cli: Cli, folders: list[Path], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        complaint = cli("bench", folders[0], "--serve", "--port", port).complaint()
    assert f"127.0.0.1 port {port} (Address already in use)" in complaint
    assert list(tmp_path.iterdir()) == []


def test_a_phone_is_asked_for_what_it_can(folders: list[Path]) -> None:
    """Oracle: by hand, from what the page tells of itself."""
    from edgeskip.bench.config import BenchArgs, BenchConfig
    from edgeskip.bench.devices.web.serve_config import requests_for
    from edgeskip.bench.schema import Device

    def asked(threads: str | None) -> Any:
        words = BenchArgs(
            targets=[str(folders[0])], prompt_tokens="8", new_tokens="4", depths="0", threads=threads, provider="cpu",
            strategy="plain,speculative", prompts=None, num_prompts=1, max_tokens=4, rounds=2, baselines=[],
            allow_fallback=False, pythons=[], seed=0,
        )  # fmt: skip
        return BenchConfig.from_args(words)

    def device(**facts: Any) -> Device:
        return Device(id="phone", type="browser", name="a phone", facts=facts)

    def cells(asked_for: str | None, /, **facts: Any) -> list[tuple[str, int, str, int]]:
        found = requests_for(asked(asked_for), device(**facts))
        return [(r.cell.provider, r.cell.threads, r.cell.strategy, r.round) for r in found]

    assert cells(None, threads=8, webgpu=None) == [("web", 4, "plain", 0), ("web", 4, "plain", 1)]
    assert cells("1,2,16", threads=8) == [
        ("web", 1, "plain", 0), ("web", 2, "plain", 0), ("web", 8, "plain", 0),
        ("web", 8, "plain", 1), ("web", 2, "plain", 1), ("web", 1, "plain", 1),
    ]  # fmt: skip
    assert cells(None, threads=1, webgpu={"vendor": "arm"})[:2] == [("web", 1, "plain", 0), ("webgpu", 1, "plain", 0)]
    assert cells(None)[0] == ("web", 1, "plain", 0)  # a page that says nothing
    assert cells(None, threads="<b>")[0] == ("web", 1, "plain", 0)


def test_two_of_one_name(cli: Cli, folders: list[Path]) -> None:
    assert "called one" in cli("bench", folders[0], folders[0]).complaint()


def test_ctrl_c_keeps_what_was_measured(folders: list[Path], tmp_path: Path) -> None:
    """As a user: the process gets SIGINT between two rounds, prints its table and leaves with 130."""
    log = tmp_path / "log.jsonl"
    command = [sys.executable, "-m", "edgeskip", "bench", str(folders[0]), *QUICK[:4], "-r", "500", "-t", "1"]
    command += ["--num-prompts", "0", "--no-quality", "--log", str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 60
        while time.monotonic() < end and (not log.exists() or log.read_text().count('"kind":"sample"') < 2):
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "| pp16 " in out
    assert "log.jsonl: interrupted" in err.replace("\n", "")
    assert len(read_run(log).samples) >= 2
