"""`edgeskip doctor`: shows versions, providers and the machine, and what is missing with the command to install it."""

from __future__ import annotations

import typer

from edgeskip.cli.options import Json
from edgeskip.core.terminal import print_json


def doctor(json: Json = False) -> None:
    """Check the installation and show how to fix it.

    Exits 1 if the base install cannot work. With --json: {"versions", "providers", "machine", "llamacpp", "cache",
    "fetched", "findings": [{"problem", "command", "blocking"}], "ok"}.
    """
    from edgeskip.cli.doctor import diagnose

    diagnosis = diagnose()
    if json:
        print_json(diagnosis.as_json(), indent=2)
    else:
        from edgeskip.cli.views.doctor import show_diagnosis

        show_diagnosis(diagnosis)
    if any(finding.blocking for finding in diagnosis.findings):
        raise typer.Exit(1)
