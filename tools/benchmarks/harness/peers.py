"""Other runtimes: their Python environments, pinned, and one checkpoint in each one's format, kept in a work folder."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import staged_folder
from harness.processes import show_progress
from harness.product import model_folder

INSTALL_TORCH = Path(__file__).parents[2] / "install_torch.py"

# Pinned: figures are of these versions. optimum-onnx needs transformers < 4.58, genai's model builder needs 5.
REQUIREMENTS = {
    "genai": ("onnxruntime-genai==0.18.0", "onnxruntime==1.31.1", "transformers==5.23.0", "onnx-ir==1.1.0"),
    # accelerate: without it optimum stores a tied head twice.
    "optimum": ("optimum-onnx==0.1.0", "onnxruntime==1.31.1", "transformers==4.57.6", "accelerate==1.15.0"),
}


def environment(name: str, work: Path) -> Path:
    """Return the interpreter of the environment `name`, made if the work folder does not have it yet.

    torch comes from `tools/install_torch.py`, as in the Makefile: the CPU build on a machine without a GPU.
    Raises EdgeSkipError if pip fails; a half-made environment is taken up again the next time.
    """
    folder = work / "environments" / name
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    stamp = folder / "installed.txt"
    wanted = "\n".join(REQUIREMENTS[name])
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    if not python.exists():
        show_progress(f"making the environment {folder}")
        venv.create(folder, with_pip=True)
    show_progress(f"installing {', '.join(REQUIREMENTS[name])} and torch there")
    pip = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", *REQUIREMENTS[name]]
    for command in ([str(python), str(INSTALL_TORCH)], pip):
        if subprocess.run(command, stdout=sys.stderr, check=False).returncode:
            raise EdgeSkipError(
                f"cannot make the environment of {name}: {' '.join(command)} failed; fix that error and run again, "
                f"pass an interpreter that has the packages with --{name}-python, or leave it out with --peers"
            )
    stamp.write_text(wanted)
    return python


def checkpoint_folder(model: str, work: Path) -> Path:
    """Return a Hugging Face folder with `model`'s weights in float32: what every peer exports from.

    Kept in the model's folder of `work`; the peers' exports go beside it.
    """
    target = model_folder(model, work) / "hf"
    if target.exists():
        return target
    from edgeskip.models.source import open_model
    from edgeskip.models.torch_reference.load import load_torch_model

    source = open_model(model)
    show_progress(f"writing {source.name} as a float32 checkpoint")
    with staged_folder(target, overwrite=False) as folder:
        load_torch_model(source).save_pretrained(folder)
        source.write_tokenizer(folder)
        # transformers 5 writes rotary settings that 4.57 does not read; the source's spelling is read by both.
        (folder / "config.json").write_text(json.dumps(source.config, indent=2), encoding="utf-8")
        (folder / "generation_config.json").write_text(json.dumps(source.generation_config), encoding="utf-8")
    return target


def genai_folder(python: Path, checkpoint: Path, precision: str, options: Sequence[str] = ()) -> Path:
    """onnxruntime-genai's model builder on `checkpoint`; `options` are its `--extra_options` KEY=VALUE."""
    variant = "".join(f"-{option.replace('=', '-')}" for option in options)
    target = checkpoint.parent / f"genai-{_version(python, 'onnxruntime-genai')}-{precision}{variant}"
    command = [str(python), "-m", "onnxruntime_genai.models.builder", "-i", str(checkpoint), "-p", precision]
    command += ["-e", "cpu", "-c", str(checkpoint.parent / "cache")]
    return _built(target, [*command, *(["--extra_options", *options] if options else []), "-o"])


def optimum_folder(python: Path, checkpoint: Path) -> Path:
    """optimum's ONNX export of `checkpoint` with past key values, float32."""
    target = checkpoint.parent / f"optimum-{_version(python, 'optimum-onnx')}-fp32"
    command = [str(python), "-m", "optimum.commands.optimum_cli", "export", "onnx", "--model", str(checkpoint)]
    return _built(target, [*command, "--task", "text-generation-with-past", "--dtype", "fp32"])


def _built(target: Path, command: Sequence[str]) -> Path:
    """`target`, made by the command with a folder's name at its end unless it is there."""
    if target.exists():
        return target
    show_progress(f"building {target.name}")
    log = target.with_name(f"{target.name}.log")
    with staged_folder(target, overwrite=False) as folder, log.open("w", encoding="utf-8") as file:
        code = subprocess.run([*command, str(folder)], stdout=file, stderr=subprocess.STDOUT, check=False).returncode
        if code:
            raise EdgeSkipError(f"building {target.name} failed: see {log}")
    return target


def _version(python: Path, package: str) -> str:
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    answer = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    if answer.returncode:
        raise EdgeSkipError(f"{python} has no {package}: give an interpreter that has it")
    return answer.stdout.strip()
