"""A run's checkpoint: one safetensors file with what is trained, AdamW's moments and the step; written whole or not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from edgeskip.core.bounds import Count, first_problem
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.json_file import parse_json

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

NAME = "checkpoint.safetensors"


def trained_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Name → parameter with a gradient; a parameter that two modules share is named once."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def save_state(
    path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, *, step: int, settings: dict[str, Any]
) -> None:
    """Write the state after `step` steps; `settings` is what a resumed run must share."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    for name, parameter in trained_parameters(module).items():
        tensors[f"model.{name}"] = parameter.detach().cpu().contiguous()
        for key in ("exp_avg", "exp_avg_sq"):
            if key in optimizer.state.get(parameter, {}):
                tensors[f"{key}.{name}"] = optimizer.state[parameter][key].detach().cpu().contiguous()
    beside = path.with_name(path.name + ".new")
    save_file(tensors, beside, metadata={"step": str(step), "settings": json.dumps(settings, sort_keys=True)})
    with beside.open("rb") as written:
        os.fsync(written.fileno())
    beside.replace(path)


def load_state(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, settings: dict[str, Any]) -> int:
    """Take the state of `path` and return its step.

    Raises EdgeSkipError if it is damaged, or of a run with other settings.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            found = parse_json(metadata.get("settings", "{}"))
            if not isinstance(found, dict):
                raise ValueError("its settings are no object")
            different = sorted(name for name in found.keys() | settings.keys() if found.get(name) != settings.get(name))
            if different:
                raise EdgeSkipError(
                    f"{path.parent} holds a run with another {', '.join(different)}: choose another -o, "
                    "or start again with --overwrite"
                )
            step = TypeAdapter(Count).validate_python(metadata["step"])
            with torch.no_grad():
                for name, parameter in trained_parameters(module).items():
                    parameter.copy_(file.get_tensor(f"model.{name}"))
                    state = {"step": torch.tensor(float(step))}
                    for key in ("exp_avg", "exp_avg_sq"):
                        state[key] = file.get_tensor(f"{key}.{name}").to(parameter)
                    optimizer.state[parameter] = state
    except ValidationError as error:
        raise EdgeSkipError(f"{path} is damaged (step: {first_problem(error)}): start again with --overwrite") from None
    except (SafetensorError, KeyError, ValueError, RuntimeError, TypeError) as error:
        raise EdgeSkipError(f"{path} is damaged ({error}): start again with --overwrite") from None
    return step
