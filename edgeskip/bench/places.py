"""The devices a benchmark runs on: this machine, a browser on it, others over ssh and adb."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from edgeskip.bench.asked import Asked
from edgeskip.bench.cells import WEB
from edgeskip.bench.local import LocalLauncher
from edgeskip.bench.run_bench import SILENCE_S, Place
from edgeskip.errors import EdgeSkipError


@dataclass(frozen=True)
class Elsewhere:
    """Devices besides this machine's own processors."""

    local: bool = True  # this machine too
    browser: Path | None = None  # to run `web` in; None = the one that is found
    throttle: float | None = None  # of that browser: a phone-like device


def open_places(asked: Asked, elsewhere: Elsewhere, stack: ExitStack, tell: Callable[[str], None]) -> list[Place]:
    """Starts what is needed and asks each device what it is; `stack` closes it all. EdgeSkipError where one fails."""
    places = []
    native = tuple(name for name in asked.grid.providers if name not in WEB)
    if elsewhere.local and native:
        tell("measuring what this machine gives")
        grid = replace(asked.grid, providers=native)
        wanted = [(provider, threads) for provider in native for threads in grid.threads]
        launcher = LocalLauncher(wanted, pythons=asked.pythons, silence_s=SILENCE_S)
        places.append(Place(launcher, grid))
    if len(native) < len(asked.grid.providers):
        places.append(_browser(asked, elsewhere, stack, tell))
    if not places:
        raise EdgeSkipError("--no-local leaves no device: name one, e.g. with --remote user@host")
    return places


def _browser(asked: Asked, elsewhere: Elsewhere, stack: ExitStack, tell: Callable[[str], None]) -> Place:
    raise NotImplementedError
