"""The same checkpoint in every peer's own format, made by the peer's own exporter and kept in the work folder."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import staged_folder
from harness.product import model_folder


def checkpoint_folder(model: str, work: Path) -> Path:
    """A Hugging Face folder with `model`'s weights in float32: what every peer exports from.

    Kept in the model's folder of `work`; the peers' exports go beside it.
    """
    target = model_folder(model, work) / "hf"
    if target.exists():
        return target
    from edgeskip.models.source import open_model
    from edgeskip.models.torch_reference.load import load_torch_model

    source = open_model(model)
    print(f"writing {source.name} as a float32 checkpoint", file=sys.stderr)
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
    if target.exists():
        return target
    with staged_folder(target, overwrite=False) as folder:
        command = [str(python), "-m", "onnxruntime_genai.models.builder", "-i", str(checkpoint), "-o", str(folder)]
        command += ["-p", precision, "-e", "cpu", "-c", str(checkpoint.parent / "cache")]
        _build([*command, *(["--extra_options", *options] if options else [])], target)
    return target


def optimum_folder(python: Path, checkpoint: Path) -> Path:
    """optimum's ONNX export of `checkpoint` with past key values, float32."""
    target = checkpoint.parent / f"optimum-{_version(python, 'optimum-onnx')}-fp32"
    if target.exists():
        return target
    with staged_folder(target, overwrite=False) as folder:
        command = [str(python), "-m", "optimum.commands.optimum_cli", "export", "onnx", "--model", str(checkpoint)]
        _build([*command, "--task", "text-generation-with-past", "--dtype", "fp32", str(folder)], target)
    return target


def _build(command: Sequence[str], target: Path) -> None:
    print(f"building {target.name}", file=sys.stderr)
    log = target.with_name(f"{target.name}.log")
    with log.open("w", encoding="utf-8") as file:
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        raise EdgeSkipError(f"building {target.name} failed: see {log}")


def _version(python: Path, package: str) -> str:
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    answer = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    if answer.returncode:
        raise EdgeSkipError(f"{python} has no {package}: give an interpreter that has it")
    return answer.stdout.strip()
