"""What `--target`, `--precision` and `--draft` ask for, one choice for each target."""

from __future__ import annotations

from dataclasses import dataclass

from edgeskip.errors import EdgeSkipError

TARGETS = ("onnx", "gguf")
_ONNX_PRECISIONS = {"fp32": "fp32", "f32": "fp32", "fp16": "fp16", "f16": "fp16", "int4": "int4"}


@dataclass(frozen=True)
class Targets:
    """What is exported; `gguf_precision` None = the default for the model."""

    onnx: bool
    gguf: bool
    onnx_precision: str = "fp32"
    gguf_precision: str | None = None


def targets_of(target: str, precision: str | None) -> Targets:
    """`onnx,gguf` and `int4,q4_k_m` → Targets. EdgeSkipError for an unknown target, or a precision too many."""
    wanted = list(dict.fromkeys(name.strip().lower() for name in target.split(",")))
    for name in wanted:
        if name not in TARGETS:
            raise EdgeSkipError(f"--target {name or target} is unknown: choose onnx, gguf or onnx,gguf")
    onnx, gguf = "onnx" in wanted, "gguf" in wanted
    if precision is None:
        return Targets(onnx, gguf)
    names = [name.strip().lower() for name in precision.split(",")]
    if len(names) == 1 and not gguf:
        return Targets(onnx, gguf, _ONNX_PRECISIONS.get(names[0], names[0]))
    if len(names) == 1 and not onnx:
        return Targets(onnx, gguf, gguf_precision=names[0])
    if len(names) == 1 and names[0] in ("fp32", "f32", "fp16", "f16"):  # the same in both
        return Targets(onnx, gguf, _ONNX_PRECISIONS[names[0]], names[0])
    if not (onnx and gguf) or len(names) != 2:
        raise EdgeSkipError(
            f"--precision {precision} does not fit --target {target}: give one for each target, as in "
            "--target onnx,gguf --precision int4,q4_k_m"
        )
    by_target = dict(zip(wanted, names, strict=True))
    return Targets(onnx, gguf, _ONNX_PRECISIONS.get(by_target["onnx"], by_target["onnx"]), by_target["gguf"])


def exit_layer_of(draft: str | None, exit_layer: int | None, targets: Targets) -> int | None:
    """The exit layer of an early-exit export, None for another. EdgeSkipError where the options do not fit."""
    if draft is None and exit_layer is None:
        return None
    if draft not in (None, "early-exit"):
        raise EdgeSkipError(f"--draft {draft} is unknown: choose early-exit")
    if draft is None or exit_layer is None:
        raise EdgeSkipError("an early exit needs both: --draft early-exit --exit-layer E")
    if targets.onnx:
        raise EdgeSkipError("--draft early-exit is for --target gguf alone")
    return exit_layer
