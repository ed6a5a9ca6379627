"""Large pages asked for. Oracle: what a process that asked says of itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[4] / "tools" / "benchmarks"
PROGRAM = """
import os, sys
from harness.processes import with_huge_pages
with_huge_pages()
print(os.environ["GLIBC_TUNABLES"], sys.argv[1:])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a tunable of the GNU C library")
@pytest.mark.parametrize("own", [None, "glibc.malloc.check=0"])
def test_starts_again_with_them(own: str | None, tmp_path: Path) -> None:
    """Arguments stay; what the user has set stays too."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    environment |= {"PYTHONPATH": str(TOOLS)} | ({"GLIBC_TUNABLES": own} if own else {})
    done = subprocess.run(
        [sys.executable, str(program), "a b", "--c"], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(own or "glibc.malloc.hugetlb=1:")
    assert done.stdout.endswith(" ['a b', '--c']\n")
