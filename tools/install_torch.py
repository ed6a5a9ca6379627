"""Install the development environment's torch into the Python that runs this: never the CUDA build without a GPU.

On Linux a plain `pip install torch` brings the CUDA build and gigabytes of NVIDIA libraries. The CPU build has the
same version with `+cpu` behind it; if pip's own indexes do not carry that, PyTorch's CPU index does.
Run by the Makefile; by hand: `python tools/install_torch.py`.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys

# Pinned, unlike the ranges in pyproject.toml: tests' tolerances and the README's figures were taken with this one.
TORCH = "torch==2.13.0"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def has_nvidia_gpu() -> bool:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return False
    answer = subprocess.run([tool, "--list-gpus"], capture_output=True, text=True, check=False)
    return answer.returncode == 0 and "GPU" in answer.stdout


def pip_install(*arguments: str, quiet_failure: bool = False) -> bool:
    command = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, stderr=subprocess.DEVNULL if quiet_failure else None, check=False).returncode == 0


def main() -> int:
    if importlib.util.find_spec("torch") is not None:
        return 0
    if sys.platform != "linux" or has_nvidia_gpu():
        return 0 if pip_install(TORCH) else 1
    cpu_build = f"{TORCH}+cpu"
    # One after the other: an index that does not answer costs minutes of retries, so it is asked only when needed.
    if pip_install(cpu_build, quiet_failure=True):
        return 0
    print(f"pip's indexes do not carry {cpu_build}: asking {CPU_INDEX}", file=sys.stderr)
    if pip_install("--retries", "2", "--timeout", "20", "--extra-index-url", CPU_INDEX, cpu_build):
        return 0
    print(
        f"cannot get {cpu_build}, torch's CPU build: neither pip's indexes nor {CPU_INDEX} gave it. Not installing the "
        f"CUDA build instead (gigabytes, of no use without an NVIDIA GPU). If you have its wheel, put the folder in "
        f"PIP_FIND_LINKS; to take the CUDA build after all: {sys.executable} -m pip install {TORCH}",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
