"""`edgeskip run` as a process. Oracle: the session's own answer, and the exit codes that the command line promises."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from tiny_graph import TinyArtifact

import edgeskip
from edgeskip.cli.commands.run import run as run_verb
from edgeskip.runtime.engines.onnxruntime.engine import OnnxRuntimeEngine

COMMAND = [sys.executable, "-m", "edgeskip", "run"]


def run(folder: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, str(folder), "--threads", "1", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60)


def test_text_to_stdout_and_the_label_to_stderr(tiny_artifact: TinyArtifact) -> None:
    expected = edgeskip.load(tiny_artifact.folder, threads=1).generate("hey", max_tokens=8)
    answer = run(tiny_artifact.folder, "-p", "hey", "--max-tokens", "8")
    assert answer.returncode == 0
    assert answer.stdout == expected.text + "\n"
    assert answer.stderr.startswith("lossy-skip (1 of 2 sublayers skipped) | plain, cpu, 1 thread | ")
    assert answer.stderr.count("\n") == 1


def test_json_is_one_object(tiny_artifact: TinyArtifact) -> None:
    options = ["--raw", "--temperature", "0.9", "--top-k", "50", "--top-p", "0.9", "--min-p", "0.01", "--seed", "3"]
    answer = run(tiny_artifact.folder, "-p", "-", "--json", "--max-tokens", "8", *options, stdin="hey")
    data = json.loads(answer.stdout)
    sampling = edgeskip.Sampling(temperature=0.9, top_k=50, top_p=0.9, min_p=0.01, seed=3)
    session = edgeskip.load(tiny_artifact.folder, threads=1)
    expected = session.generate("hey", chat=False, max_tokens=8, sampling=sampling)
    assert data["text"] == expected.text
    assert data["tokens"] == list(expected.tokens)
    assert (data["label"], data["strategy"], data["provider"]) == ("lossy-skip", "plain", "cpu")
    assert data["stats"]["prompt_tokens"] == 3
    assert set(data["stats"]) == set(expected.as_dict()["stats"])


def test_a_prompt_file_a_system_message_and_stop_strings(tiny_artifact: TinyArtifact, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("héy", encoding="utf-8")
    session = edgeskip.load(tiny_artifact.folder, threads=1)
    sampling = edgeskip.Sampling(temperature=1.0, seed=1)
    whole = session.generate("héy", system="sys", max_tokens=40, sampling=sampling).text
    stop = ["--stop", whole[10:12], "--stop", "absent"]
    options = ["--system", "sys", "--max-tokens", "40", "--temperature", "1", "--seed", "1", *stop]
    answer = run(tiny_artifact.folder, "-f", str(tmp_path / "prompt.txt"), *options)
    assert answer.stdout == whole[: whole.find(whole[10:12])] + "\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "-p TEXT"),
        (["-p", "a", "-f", "b"], "-p TEXT"),
        (["-p", ""], "prompt is empty"),
        (["-p", "a" * 700], "shorten it"),
        (["-p", "a", "--max-tokens", "0"], "--max-tokens must be at least 1"),
        (["-p", "a", "--top-p", "2"], "--top-p must be"),
        (["-p", "a", "--provider", "tpu"], "unknown provider 'tpu'"),
        (["-f", "no-such-file"], "no-such-file"),
        (["-p", "a", "--threads", "0"], "threads"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(tiny_artifact: TinyArtifact, arguments: list[str], complaint: str) -> None:
    answer = run(tiny_artifact.folder, *arguments)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr.startswith("edgeskip: error: ")
    assert complaint in answer.stderr
    assert answer.stderr.count("\n") == 1


def test_stdin_that_is_not_text(tiny_artifact: TinyArtifact) -> None:
    command = [*COMMAND, str(tiny_artifact.folder), "-p", "-"]
    answer = subprocess.run(command, input=b"\xff\xfe", capture_output=True, timeout=60)
    assert answer.returncode == 2
    assert b"stdin is not UTF-8" in answer.stderr


@pytest.fixture
def endless(tiny_artifact: TinyArtifact, tmp_path: Path) -> list[str]:
    """A command that generates for minutes: the tiny graph has no rotary tables, so its context can be any."""
    folder = Path(shutil.copytree(tiny_artifact.folder, tmp_path / "endless"))
    graph = tiny_artifact.manifest.graph.model_copy(update={"context_length": 10**6})
    manifest = tiny_artifact.manifest.model_copy(update={"graph": graph})
    (folder / "edgeskip.json").write_text(manifest.model_dump_json(), encoding="utf-8")
    (folder / "tokenizer_config.json").unlink()  # no end token
    return [*COMMAND, str(folder), "-p", "hey", "--max-tokens", "900000", "--threads", "1", "--seed", "1",
            "--temperature", "1"]  # fmt: skip


def test_ctrl_c_shows_what_there_is_and_exits_130(endless: list[str]) -> None:
    process = subprocess.Popen(endless, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert len(process.stdout.read(10)) == 10
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert b"ended by interrupted" in err


def test_ctrl_c_with_json_prints_the_object_so_far(
    tiny_artifact: TinyArtifact, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By hand: Ctrl-C arrives in the fifth step, the prompt's included, so four tokens were told."""
    step, calls = OnnxRuntimeEngine.step, itertools.count(1)

    def interrupted_step(self: OnnxRuntimeEngine, *arguments: Any, **options: Any) -> Any:
        if next(calls) == 5:
            raise KeyboardInterrupt
        return step(self, *arguments, **options)

    monkeypatch.setattr(OnnxRuntimeEngine, "step", interrupted_step)
    with pytest.raises(typer.Exit) as stop:
        run_verb(tiny_artifact.folder, prompt="hey", threads=1, json=True)
    assert stop.value.exit_code == 130
    data = json.loads(capsys.readouterr().out)
    assert (data["finish_reason"], len(data["tokens"])) == ("interrupted", 4)


def test_a_reader_that_leaves_is_no_defect(endless: list[str]) -> None:
    """By hand: what `edgeskip run … | head -c 10` does."""
    process = subprocess.Popen(endless, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.wait(timeout=60) != 0
    assert process.stderr is not None
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()
