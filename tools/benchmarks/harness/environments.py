"""Virtual environments of the peers, made with pip from nothing and kept in the work folder."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

from edgeskip.core.errors import EdgeSkipError

INSTALL_TORCH = Path(__file__).parents[2] / "install_torch.py"

# Pinned: figures are of these versions. optimum-onnx needs transformers < 4.58, genai's model builder needs 5.
REQUIREMENTS = {
    "genai": ("onnxruntime-genai==0.18.0", "onnxruntime==1.31.1", "transformers==5.23.0", "onnx-ir==1.1.0"),
    # accelerate: without it optimum stores a tied head twice.
    "optimum": ("optimum-onnx==0.1.0", "onnxruntime==1.31.1", "transformers==4.57.6", "accelerate==1.15.0"),
}


def environment(name: str, work: Path) -> Path:
    """The interpreter of the environment `name`, made first where the work folder does not have it yet.

    torch comes from `tools/install_torch.py`, as in the Makefile: the CPU build on a machine without a GPU.
    EdgeSkipError where pip fails; a half-made environment is taken up again the next time.
    """
    folder = work / "environments" / name
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    stamp = folder / "installed.txt"
    wanted = "\n".join(REQUIREMENTS[name])
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    if not python.exists():
        print(f"making the environment {folder}", file=sys.stderr)
        venv.create(folder, with_pip=True)
    print(f"installing {', '.join(REQUIREMENTS[name])} and torch there", file=sys.stderr)
    pip = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", *REQUIREMENTS[name]]
    for command in ([str(python), str(INSTALL_TORCH)], pip):
        if subprocess.run(command, stdout=sys.stderr, check=False).returncode:
            raise EdgeSkipError(
                f"cannot make the environment of {name}: {' '.join(command)} failed; mend what it says and run again, "
                f"pass an interpreter that has the packages with --{name}-python, or leave it out with --peers"
            )
    stamp.write_text(wanted)
    return python
