"""Errors for paths that are no artifacts: what they are instead, and what makes an artifact of them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from edgeskip.core.errors import EdgeSkipError

MANIFEST_NAME = "edgeskip.json"


def not_an_artifact(folder: Path) -> EdgeSkipError:
    """Return the error for a folder that has no manifest and no GGUF file to run."""
    config, adapter = folder / "config.json", folder / "adapter_config.json"
    weights = any(any(folder.glob(pattern)) for pattern in ("*.safetensors", "*.bin", "*.safetensors.index.json"))
    if adapter.is_file() or (config.is_file() and weights):
        return model_not_artifact(str(folder))
    if any(folder.glob("*.onnx")):
        return EdgeSkipError(
            f"{folder} has an ONNX graph but no {MANIFEST_NAME}, so EdgeSkip did not export it, or the file is lost: "
            "export the model with  edgeskip export"
        )
    return EdgeSkipError(
        f"{folder} has no {MANIFEST_NAME}: it is not an EdgeSkip artifact; make one with  edgeskip export"
    )


def model_not_artifact(model: str) -> EdgeSkipError:
    """Return the error for a model that is given where an artifact is wanted."""
    name = re.sub(r"[^\w.-]+", "-", Path(model).absolute().name).lower() or "model"
    quoted = shlex.quote(model)
    return EdgeSkipError(
        f"{model} is a model, not an artifact; calibrate and export it first:  edgeskip calibrate {quoted} -o "
        f"{name}.json && edgeskip export --profile {name}.json -o {name}-onnx"
    )
