"""The cells of a run: every target on every provider, thread count and strategy that it supports."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

from edgeskip.bench.schema import BenchCell, Strategy, Target
from edgeskip.bench.targets import baseline_of_targets
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.lists import parse_names, parse_numbers
from edgeskip.runtime.engines.onnxruntime.providers import PROVIDERS

STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
WEB_PROVIDERS = ("web", "web:gpu")
"""Providers of a browser here: WASM on the CPU, WebGPU."""
PAGE_PROVIDERS = ("web", "webgpu")
"""The same as the page calls them."""
PHONE_THREADS = 4
"""Threads on a phone by default: its other cores are its slow ones."""
WEB_STRATEGIES: tuple[Strategy, ...] = ("plain", "self-speculative")
_GGUF_PROVIDERS = ("cpu", "cuda", "metal", "vulkan", "rocm", "sycl", "opencl", "cann", "musa")


@dataclass(frozen=True)
class Grid:
    """What is crossed with the targets."""

    providers: tuple[str, ...]
    threads: tuple[int, ...]
    strategies: tuple[Strategy, ...]
    engine: str | None = None  # the only one there is on the device; None = both


def parse_grid(providers: str, threads: Sequence[int], strategies: str) -> Grid:
    """Parse comma-separated names. EdgeSkipError for an unknown one; whether a provider is available is seen later."""
    named = tuple(dict.fromkeys(name.lower() for name in parse_names(providers, "--provider")))
    known = {*PROVIDERS, *WEB_PROVIDERS, *_GGUF_PROVIDERS}
    for name in named:
        if name not in known and name.partition(":")[0] not in PROVIDERS:
            raise EdgeSkipError(f"--provider {name:.60} is unknown; choose from {', '.join(sorted(known))}")
    chosen = parse_names(strategies, "--strategy", STRATEGIES)
    return Grid(named, tuple(dict.fromkeys(threads)), chosen)  # type: ignore[arg-type]  # checked above


def parse_lengths(text: str, option: str, *, least: int) -> list[int]:
    """Return the whole numbers between the commas, each once; raise EdgeSkipError if one is not from `least` to 10⁹."""
    return list(parse_numbers(text, option, least=least, most=10**9 - 1, example="128,512"))


def cells_of(targets: Sequence[Target], grid: Grid, device: str) -> tuple[list[BenchCell], list[str]]:
    """Return the cells on one device, and a line for each combination that was asked for and is impossible.

    Raises EdgeSkipError if a provider or strategy fits none of the targets.
    """
    cells = [
        BenchCell(target=target.name, device=device, provider=provider, threads=threads, strategy=strategy)
        for target in targets
        for provider in grid.providers
        if _supports(target, provider) and grid.engine in (None, target.engine)
        for threads in grid.threads
        for strategy in grid.strategies
        if strategy in target.strategies
    ]
    for strategy in grid.strategies:
        if not any(strategy in target.strategies for target in targets):
            raise EdgeSkipError(
                f"no target can be decoded by {strategy}; {_EXPORT_HINTS.get(strategy, 'leave it out')}"
            )
    for provider in grid.providers:
        if not any(cell.provider == provider for cell in cells):
            raise EdgeSkipError(
                f"no target can run on the provider {provider!r} as asked: GGUF files run on the CPU and what "
                "llama.cpp was built for, artifact folders on all others"
            )
    return cells, _skipped_notes(targets, grid)


def check_baselines(targets: Sequence[Target], named: Sequence[str]) -> None:
    """Raise EdgeSkipError if a baseline is not a target."""
    names = [target.name for target in targets]
    for name in named:
        if name not in names:
            raise EdgeSkipError(f"--baseline {name} is not among the targets; choose from {', '.join(names)}")


def reference_of(target: Target, targets: Sequence[Target], baselines: Sequence[str]) -> Target | None:
    """Return the dense target whose predictions `target`'s are compared with; None if that is itself, or lossy."""
    found = baseline_of_targets({one.name: one for one in targets}, target.name, baselines)
    return None if found is None or found.name == target.name or found.label != "dense" else found


def check_distinct_names(names: Iterable[str]) -> None:
    """Raise EdgeSkipError if two targets have one name."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise EdgeSkipError(f"two targets are called {name}; name them, as in  {name}-a=PATH {name}-b=PATH")
        seen.add(name)


_EXPORT_HINTS = {
    "self-speculative": "export one with  edgeskip export --draft early-exit --exit-layer E",
    "online": "export one with  edgeskip export --online",
}


def _skipped_notes(targets: Sequence[Target], grid: Grid) -> list[str]:
    found = []
    for target in targets:
        if grid.engine not in (None, target.engine):
            found.append(f"{target.name} is left out: the device runs {grid.engine} only")
            continue
        without = [provider for provider in grid.providers if not _supports(target, provider)]
        if without:
            found.append(f"{target.name} is left out on {', '.join(without)}: {target.engine} has no such provider")
        cannot = [strategy for strategy in grid.strategies if strategy not in target.strategies]
        if cannot:
            found.append(f"{target.name} is left out for {', '.join(cannot)}: it has nothing to draft or gate with")
    return found


def _supports(target: Target, provider: str) -> bool:
    if target.engine == "llama.cpp":
        return _takes_gguf(provider)
    return provider in WEB_PROVIDERS or provider.partition(":")[0] in PROVIDERS


def _takes_gguf(provider: str) -> bool:
    return provider in _GGUF_PROVIDERS
