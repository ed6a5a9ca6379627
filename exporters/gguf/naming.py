"""File names as the GGUF ecosystem has them: model, what was done to it, precision."""

from __future__ import annotations

from edgeskip.artifacts.gguf.manifest import Part
from edgeskip.artifacts.manifest import PlanSummary


def file_name(
    model: str, plan: PlanSummary, precision: str, *, exit_layer: int | None = None, part: Part = "whole"
) -> str:
    """Return a name such as `smollm2-135m-instruct-adaskip8-Q4_1.gguf`: method and number of skips, if there are any.

    Early exit: `…-exit8-Q4_1.gguf` is the first part, a draft model of its own, `…-exit8-rest-Q4_1.gguf` the rest.
    """
    words = [model.lower().replace(" ", "-")]
    if plan.skip:
        words.append(f"{plan.method}{len(plan.skip)}")
    if exit_layer is not None:
        words.append(f"exit{exit_layer}")
    if part == "rest":
        words.append("rest")
    return "-".join([*words, precision]) + ".gguf"


def head_file_name(first: str) -> str:
    """Return the name of the side file with the trimmed draft head of the first part called `first`."""
    return f"{first.removesuffix('.gguf')}-head.safetensors"


def decode_file_name(whole: str) -> str:
    """Return the name of the file that takes over from the one called `whole` while decoding."""
    return f"{whole.removesuffix('.gguf')}-decode.gguf"
