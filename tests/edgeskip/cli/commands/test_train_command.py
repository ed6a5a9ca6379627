"""`edgeskip train` from the outside, where it must refuse. Oracle: exit code, the line, the folder's listing."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from random_profiles import random_profile

from edgeskip.models.source import open_model

Cli = Callable[..., Any]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("Skip what it does not need, and say so. " * 20)
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--method distil", "--method.*distil.*layerskip.*heal"),
        ("--method layerskip --exits 1", "--exits 1 has weight 0 in the paper's formula: add --exit-weights equal"),
        ("--method layerskip --exits 1,two", "--exits 1,two"),
        ("--method layerskip --exits 4", "exit layer 4 is not possible: the model has 4 blocks"),
        ("--method layerskip --exits 0", "exit layer 0 is not possible"),
        ("--method layerskip --learning-rate 0", "--learning-rate must be a positive number"),
        ("--method layerskip --epochs inf", "--epochs must be a positive number"),
        ("--method layerskip --lora 0", "--lora"),
        ("--method layerskip --lora 4 --lora-scaling nan", "--lora-scaling"),
        ("--method layerskip --lora-early 4", "--lora-early has no effect"),
        ("--method layerskip --lora 4 --lora-early 8", "name it with --exits"),
        ("--method layerskip --draft-vocab 40", "--draft-vocab has no effect.*--method exit-adapter"),
        ("--method layerskip --model m", "--model has no effect"),
        ("--method layerskip --adapter map", "--adapter has no effect"),
        ("--method layerskip --lora-scaling 1", "--lora-scaling has no effect.*--lora;"),
        ("--method layerskip --new-tokens 8", "--new-tokens has no effect.*--data self"),
        ("--method layerskip --temperature 1", "--temperature has no effect"),
        ("--method layerskip --steps 1 --epochs 1", "--epochs has no effect.*--steps"),
        ("--method layerskip --validation text.txt --held-out 0.1", "--held-out has no effect"),
        ("--method layerskip --curriculum gradual --interval 8", "--interval has no effect"),
        ("--method layerskip --e-scale 0 --exit-weights equal", "--exit-weights has no effect"),
        ("--method heal --p-max 0.1", "--p-max has no effect"),
        ("--method exit-adapter --exits 2 --curriculum gradual", "--curriculum has no effect"),
        ("--method layerskip --prompts p.txt", "--prompts has no effect"),
        ("--method layerskip --dtype int8", "--dtype.*int8"),
        ("--method layerskip --decay steep", "--decay.*steep"),
        ("--method layerskip --curriculum random", "--curriculum.*random"),
        ("--method layerskip --p-max 1", "--p-max 1.0 is not a rate"),
        ("--method layerskip --context 4", "--context 4 is too short"),
        ("--method layerskip --held-out 1", "--held-out 1.0 is not a share"),
        ("--method layerskip --save-every 0", "--save-every must be a positive number"),
        ("--method layerskip --data missing.txt", "data file missing.txt"),
        ("--method layerskip --validation missing.txt", "data file missing.txt"),
        ("--method exit-adapter", "--exits is missing"),
        ("--method exit-adapter --exits 2 --lora 4", "--lora has no effect"),
        ("--method exit-adapter --exits 2 --adapter tower", "--adapter.*tower"),
        ("--method exit-adapter --exits 2", "not a profile"),
        ("--method heal", "not a profile"),
        ("--method heal --exits 2", "--exits has no effect"),
    ],
)
def test_options_that_cannot_be(cli: Cli, tiny_llama: Path, text: Path, out: Path, options: str, told: str) -> None:
    complaint = cli("train", tiny_llama, "--data", text, "-o", out / "run", *options.split()).complaint()
    assert re.search(told, complaint), complaint
    assert list(out.iterdir()) == []


def test_no_data(cli: Cli, tiny_llama: Path, out: Path) -> None:
    complaint = cli("train", tiny_llama, "--method", "layerskip", "-o", out / "run").complaint()
    assert "--data is missing" in complaint
    assert list(out.iterdir()) == []


def test_a_context_beyond_the_model(cli: Cli, tiny_llama: Path, text: Path, out: Path) -> None:
    """It was cut to the model's 512 positions without a word."""
    arguments = ("--method", "layerskip", "--data", text, "--context", 513, "-o", out / "run")
    assert "--context 513 is longer than the model's 512 positions" in cli("train", tiny_llama, *arguments).complaint()
    assert list(out.iterdir()) == []


def test_a_profile_where_a_model_is_wanted(cli: Cli, tiny_llama: Path, text: Path, tmp_path: Path, out: Path) -> None:
    random_profile(open_model(str(tiny_llama)), tmp_path / "p.json")
    complaint = cli(
        "train", tmp_path / "p.json", "--method", "layerskip", "--data", text, "-o", out / "run"
    ).complaint()
    assert "p.json" in complaint
    assert list(out.iterdir()) == []


def test_a_folder_of_something_else(cli: Cli, tiny_llama: Path, text: Path, out: Path) -> None:
    (out / "letter").write_text("mine")
    for more in ([], ["--overwrite"]):
        arguments = ("--method", "layerskip", "--data", text, "--context", 32, "-o", out, *more)
        complaint = cli("train", tiny_llama, *arguments).complaint()
        assert "not a run of edgeskip train" in complaint
    assert [path.read_text() for path in out.iterdir()] == ["mine"]
