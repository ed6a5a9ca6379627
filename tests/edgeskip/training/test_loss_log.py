"""The table and the picture of the losses. Oracle: the lines themselves; pixels of the PNG's header."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from edgeskip.training.loss_log import LossTable, plot_losses, read_losses


def write(path: Path, steps: range, *, keep: int = 0) -> LossTable:
    with LossTable(path, keep=keep) as table:
        for step in steps:
            table.add(step, 0.1 / step, {"loss": 1 / step, "last": 2 / 3})
    return table


def test_a_line_for_each_part(tmp_path: Path) -> None:
    write(tmp_path / "losses.csv", range(1, 3))
    assert (tmp_path / "losses.csv").read_text().splitlines() == [
        "step,learning_rate,part,loss",
        "1,0.1,loss,1",
        "1,0.1,last,0.666667",
        "2,0.05,loss,0.5",
        "2,0.05,last,0.666667",
    ]


@pytest.mark.parametrize("cut", [0, 3, 17])
def test_going_on_writes_what_an_unbroken_run_does(tmp_path: Path, cut: int) -> None:
    """Also where the last line is a half, and where lines after the checkpoint were there already."""
    write(tmp_path / "whole.csv", range(1, 10))
    broken = tmp_path / "broken.csv"
    write(broken, range(1, 6))
    broken.write_bytes(broken.read_bytes()[: -cut or None])
    table = write(broken, range(4, 10), keep=3)
    assert broken.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert [row[0] for row in table.rows[::2]] == list(range(1, 10))


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    with LossTable(tmp_path / "losses.csv", write=False) as table:
        table.add(1, 0.1, {"loss": 1.0})
    assert list(tmp_path.iterdir()) == []
    assert len(table.rows) == 1


def test_a_half_line_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("step,learning_rate,part,loss\n1,0.1,last,0.5\n2,0.1,la")
    assert read_losses(tmp_path / "l.csv") == [(1, 0.1, "last", 0.5)]


def test_the_picture(tmp_path: Path) -> None:
    table = write(tmp_path / "losses.csv", range(1, 30))
    plot_losses(table.rows, tmp_path / "loss.png", r"a $\frac$ name")  # text, no mathematics
    data = (tmp_path / "loss.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == (1260, 700)
