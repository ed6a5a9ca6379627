"""What `edgeskip doctor` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeskip.cli.views.tables import facts, show, show_line

if TYPE_CHECKING:
    from edgeskip.cli.doctor import Diagnosis


def show_diagnosis(diagnosis: Diagnosis) -> None:
    """Print the facts of this machine, then what is missing, each with the command that fixes it."""
    machine = diagnosis.machine
    show(
        facts(
            {
                "versions": ", ".join(f"{package} {version or '-'}" for package, version in diagnosis.versions.items()),
                "providers": ", ".join(diagnosis.providers) or "none",
                "system": machine.system,
                "processor": f"{machine.processor}; {machine.usable_cores} of {machine.logical_cores} cores usable",
                "SIMD": " ".join(machine.simd) or "unknown",
                "memory": f"{_size(machine.memory_bytes)}, {_size(machine.available_memory_bytes)} available",
                "GPU": "; ".join(machine.gpus) or "none (nvidia-smi finds none)",
                "llama.cpp": diagnosis.llamacpp,
                "cache": diagnosis.cache,
                "models": "; ".join(
                    f"{name}: {', '.join(paths) or f'not here; run  edgeskip fetch {name}'}"
                    for name, paths in diagnosis.fetched.items()
                ),
            }
        ),
        "",
    )
    if not diagnosis.findings:
        show_line("Nothing is missing.")
    for finding in diagnosis.findings:
        show_line(f"- {finding.problem}", style="bold red" if finding.blocking else "bold")
        show_line(f"    {finding.command}")


def _size(size_bytes: int | None) -> str:
    return "unknown" if size_bytes is None else f"{size_bytes / 1e9:.1f} GB"
