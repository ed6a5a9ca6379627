"""`edgeskip doctor`: shows versions, providers and the machine, and what is missing with the command to install it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edgeskip.cli.doctor import Diagnosis


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
) -> None:
    """Show versions, providers, the machine, and what is missing. Exits 1 where the base install cannot work."""
    from edgeskip.cli.doctor import diagnose

    diagnosis = diagnose()
    if json:
        import json as json_module

        print(json_module.dumps(diagnosis.as_json(), indent=2))
    else:
        _print(diagnosis)
    if any(finding.blocking for finding in diagnosis.findings):
        raise typer.Exit(1)


def _print(diagnosis: Diagnosis) -> None:
    from rich.table import Table

    from edgeskip.core.terminal import Console

    console = Console(highlight=False, markup=False)
    machine = diagnosis.machine
    facts = {
        "versions": ", ".join(f"{package} {version or '-'}" for package, version in diagnosis.versions.items()),
        "providers": ", ".join(diagnosis.providers) or "none",
        "system": machine.system,
        "processor": f"{machine.processor}; {machine.usable_cores} of {machine.logical_cores} cores usable",
        "SIMD": " ".join(machine.simd) or "unknown",
        "memory": f"{_gigabytes(machine.memory_bytes)}, {_gigabytes(machine.available_memory_bytes)} available",
        "GPU": "; ".join(machine.gpus) or "none (nvidia-smi finds none)",
        "llama.cpp": diagnosis.llamacpp,
        "cache": diagnosis.cache,
        "models": "; ".join(
            f"{name}: {', '.join(paths) or f'not here, edgeskip fetch {name} brings it'}"
            for name, paths in diagnosis.fetched.items()
        ),
    }
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in facts.items():
        grid.add_row(name, value)
    console.print(grid)
    console.print()
    if not diagnosis.findings:
        console.print("Nothing is missing.")
    for finding in diagnosis.findings:
        console.print(f"- {finding.problem}", style="bold red" if finding.blocking else "bold", soft_wrap=True)
        console.print(f"    {finding.command}", soft_wrap=True)  # one line, to be copied


def _gigabytes(size_bytes: int | None) -> str:
    return "unknown" if size_bytes is None else f"{size_bytes / 1e9:.1f} GB"
