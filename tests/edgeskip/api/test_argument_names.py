"""What errors call an option: as the caller wrote it. Oracle: the names in a call and on a command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import edgeskip

Cli = Callable[..., Any]


def told(function: Callable[..., object], *arguments: object, **options: object) -> str:
    with pytest.raises(edgeskip.EdgeSkipError) as error:
        function(*arguments, **options)
    return str(error.value)


def test_a_program_reads_of_arguments(tmp_path: Path) -> None:
    assert told(edgeskip.calibrate, "model", tokens=0).startswith("tokens 0 ")
    line = told(edgeskip.plan, tmp_path / "p.json", max_kl=0.1, skip="ffn.1")
    assert "max_kl has no effect" in line
    assert "--" not in line
    (tmp_path / "p.json").write_text("{}")
    assert "overwrite=True" not in told(edgeskip.Profile.load, tmp_path / "p.json")
    assert "exits" in told(edgeskip.train, "p.json", method="exit-adapter", data="x", output=tmp_path / "out")


def test_a_command_to_type_keeps_its_options(tmp_path: Path) -> None:
    missing = tmp_path / "p.json"
    assert told(edgeskip.plan, missing, skip_sublayers=1).endswith(f"edgeskip calibrate MODEL -o {missing}")
    assert "edgeskip calibrate MODEL -o llama.json" in told(edgeskip.export, "missing", tmp_path / "out")


def test_a_command_reads_of_options(cli: Cli, tmp_path: Path) -> None:
    line = cli("plan", tmp_path / "p.json", "--max-kl", "0.1", "--skip", "ffn.1").complaint()
    assert "--max-kl has no effect" in line
