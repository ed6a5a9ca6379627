"""What the README of version 0.1 told users to type is still accepted. Oracle: that README's lines, kept in a file.

The command lines are parsed, not run: `tests/test_command_blocks.py` runs today's documents.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from command_lines import parsed

LINES = [
    line
    for line in (Path(__file__).parent / "old_commands.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]


def test_the_file_has_every_command_of_that_readme() -> None:
    assert len(LINES) > 60
    assert {line.split()[1] for line in LINES} >= {"fetch", "calibrate", "plan", "export", "run", "bench", "compare"}


@pytest.mark.parametrize("line", LINES)
def test_old_command_lines_are_accepted(line: str) -> None:
    program, *words = shlex.split(line)
    path, parameters = parsed(words)
    assert program == "edgeskip"
    assert path.split()[1] == words[0] or path.split()[-1] == words[0]  # `report` may be `bench report` by now
    given = [word for word in words[1:] if not word.startswith("-")]
    values = repr(parameters)
    assert all(word in values for word in given[:1]), f"{given[0]} went nowhere: {values}"


def test_options_that_do_not_exist_are_still_refused() -> None:
    """The parser above can fail."""
    with pytest.raises(Exception, match="no-such-option"):
        parsed(["run", "folder", "--no-such-option"])


def test_old_imports_work() -> None:
    import edgeskip
    from edgeskip import Generation, Online, Session, Speculation, load
    from edgeskip.runtime.sampling import Sampling

    assert Sampling(temperature=0.7, seed=1) == edgeskip.Sampling(temperature=0.7, seed=1)
    assert Online(window=10, threshold=0.97).window == 10
    assert Speculation("model", 4) == edgeskip.Speculation("model", 4)
    assert (edgeskip.load, edgeskip.Session, edgeskip.Generation) == (load, Session, Generation)


def test_the_flags_for_llamacpp_are_printed_under_the_old_name() -> None:
    """`CMAKE_ARGS="$(python -m edgeskip.runtime.engines.llamacpp_build)" pip install …` stood in the README."""
    names = ("edgeskip.runtime.engines.llamacpp_build", "edgeskip.runtime.engines.llamacpp.build")
    old, new = (subprocess.run([sys.executable, "-m", name], capture_output=True, text=True) for name in names)
    assert (old.returncode, old.stdout) == (0, new.stdout)
