"""What a run says of itself: the settings a resumed run must share, and the card of a finished one."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgeskip.core.files import sha256_of
from edgeskip.core.machine import this_machine
from edgeskip.exporters.provenance import now, software_versions
from edgeskip.training.examples import split_reference

if TYPE_CHECKING:
    from accelerate import Accelerator

    from edgeskip.models.source import ModelSource
    from edgeskip.training.config import OptimizerConfig
    from edgeskip.training.data import Data, Examples
    from edgeskip.training.loss_log import LossTable


def settings_of(
    source: ModelSource, data: Data, policy: OptimizerConfig, accelerator: Accelerator, **more: Any
) -> dict[str, Any]:
    """Return everything that decides what a run learns, as JSON holds it: the bytes of the data too.

    `save_every` does not.
    """
    references = (*data.sources, *data.validation, *data.generation.prompts)
    paths = [split_reference(reference)[0] for reference in references]
    found = {
        "model": source.fingerprint,
        "data": dataclasses.asdict(data),
        "files": {str(path): sha256_of(path) for path in paths if path.is_file()},
        "optimisation": {k: v for k, v in dataclasses.asdict(policy).items() if k != "save_every"},
        "processes": accelerator.num_processes,
        "precision": accelerator.mixed_precision,
    } | {name: dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value for name, value in more.items()}  # type: ignore[arg-type]
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def card_of(
    source: ModelSource,
    settings: dict[str, Any],
    examples: Examples,
    table: LossTable,
    accelerator: Accelerator,
    *,
    steps: int,
) -> dict[str, Any]:
    """Return what made the result: model, data, settings, steps, machine, versions.

    Losses are means of the last 20 steps.
    """
    last: dict[str, list[float]] = {}
    for step, _, part, loss in table.rows:
        if step > steps - 20:
            last.setdefault(part, []).append(loss)
    machine = this_machine()
    return {
        "base": {"source": source.reference, "name": source.name, "fingerprint": source.fingerprint},
        "settings": settings,
        "files": [file.model_dump() for file in examples.files],
        "examples": {
            "learned": len(examples.learned),
            "held_out": len(examples.held_out),
            "too_long": examples.too_long,
        },
        "steps": steps,
        "losses": {part: sum(values) / len(values) for part, values in last.items()},
        "machine": {
            "processor": machine.processor,
            "cores": machine.usable_cores,
            "device": str(accelerator.device),
            "gpus": list(machine.gpus),
            "process_cpu_s": round(time.process_time()),
        },
        "versions": software_versions("torch", "transformers", "accelerate", "peft"),
        "created": now(),
    }


def in_words(card: Mapping[str, Any]) -> str:
    """Return what a finished run has reached on the examples held out, and what it did not use: a line each, for a
    person."""
    found = card["held_out"]
    lines = [
        f"{name}: {count} too long for --context, left out" for name, count in card["examples"]["too_long"].items()
    ]
    if "healed_perplexity" in found:
        lines.append(
            f"perplexity of the {found['tokens']:,.0f} tokens held out: dense {found['dense_perplexity']:.2f}, "
            f"skipped {found['skipped_perplexity']:.2f}, healed {found['healed_perplexity']:.2f}"
        )
    else:
        lines.append(f"agreement with the last layer on {found['tokens']:,} tokens held out:")
    for layer, exit in found.get("exits", {}).items():
        before = f" (untrained {exit['plain_agreement']:.1%})" if "plain_agreement" in exit else ""
        lines.append(f"  exit {layer}  {exit['agreement']:.1%}{before}")
    if "accuracy" in found:
        lines.append(f"last layer: {found['accuracy']:.1%} of them as the examples have them")
    return "\n".join(lines)
