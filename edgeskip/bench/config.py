"""The configuration of a benchmark, parsed from the command line's options and checked before anything runs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgeskip.artifacts.target_names import told_apart
from edgeskip.bench.grid import WEB_PROVIDERS, Grid, check_baselines, check_distinct_names, parse_grid, parse_lengths
from edgeskip.bench.runner.prompts import read_prompts
from edgeskip.bench.runner.schedule import RoundSpec, synthetic_tests
from edgeskip.bench.schema import RunHeader, RunSettings, Target
from edgeskip.bench.targets import load_target
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.paths import named_path
from edgeskip.core.version import __version__
from edgeskip.runtime.engines.threads import default_threads

SHIPPED_PROMPTS = 3
"""Prompts of those that ship, by default."""


@dataclass(frozen=True)
class BenchArgs:
    """The options of a benchmark as they were typed."""

    targets: Sequence[str]
    prompt_tokens: str
    new_tokens: str
    depths: str
    threads: str | None
    provider: str
    strategy: str
    prompts: Path | None
    num_prompts: int | None
    max_tokens: int
    rounds: int
    baselines: Sequence[str]
    allow_fallback: bool
    pythons: Sequence[str]
    seed: int
    chat_options: Mapping[str, Any] = field(default_factory=dict)  # variables of the chat template


@dataclass(frozen=True)
class BenchConfig:
    """A benchmark to run: its targets, grid and tests, all checked."""

    targets: tuple[Target, ...]
    grid: Grid
    explicit_threads: bool
    round_spec: RoundSpec
    header: RunHeader
    pythons: dict[str, Path]

    @property
    def settings(self) -> RunSettings:
        return self.header.settings

    @classmethod
    def from_args(cls, args: BenchArgs) -> BenchConfig:
        """Parse and check the options; targets are read, nothing of them runs. EdgeSkipError for the first mistake."""
        prompt_tokens = parse_lengths(args.prompt_tokens, "-p", least=0)
        new_tokens = parse_lengths(args.new_tokens, "-n", least=0)
        depths = parse_lengths(args.depths, "-d", least=0)
        threads = parse_lengths(args.threads, "-t", least=1) if args.threads else [default_threads()]
        grid = parse_grid(args.provider, threads, args.strategy)
        pythons = _parse_pythons(args.pythons, grid)
        count = SHIPPED_PROMPTS if args.num_prompts is None and args.prompts is None else args.num_prompts
        prompts = read_prompts(args.prompts, count) if count != 0 else []
        targets = _load_targets(args.targets)
        check_distinct_names(target.name for target in targets)
        check_baselines(targets, args.baselines)
        created = datetime.now(UTC)
        settings = RunSettings(
            prompt_tokens=prompt_tokens,
            new_tokens=new_tokens,
            depths=depths,
            rounds=args.rounds,
            prompts=[prompt.name for prompt in prompts],
            max_tokens=args.max_tokens,
            seed=args.seed,
            baselines=list(args.baselines),
            chat_options=dict(args.chat_options),
        )
        return cls(
            targets=targets,
            grid=grid,
            explicit_threads=args.threads is not None,
            round_spec=RoundSpec(
                tests=synthetic_tests(prompt_tokens, new_tokens, depths),
                prompts=tuple(prompts),
                max_tokens=args.max_tokens,
                seed=args.seed,
                allow_fallback=args.allow_fallback,
                chat_options=dict(args.chat_options),
            ),
            header=RunHeader(
                version=__version__,
                created=created.isoformat(timespec="seconds"),
                command=shlex.join(["edgeskip", *sys.argv[1:]]),
                settings=settings,
            ),
            pythons=pythons,
        )


def default_log(header: RunHeader) -> Path:
    """Return a file name with the time of the run, in the current folder."""
    moment = datetime.fromisoformat(header.created)
    return Path(f"edgeskip-bench-{moment:%Y%m%d-%H%M%S}.jsonl")


def _load_targets(words: Sequence[str]) -> tuple[Target, ...]:
    """Load each PATH, or NAME=PATH if no file has that whole name; targets without a name get distinct ones."""
    split = [_named_path(word) for word in words]
    names = told_apart([path for _, path in split], [name for name, _ in split])
    return tuple(load_target(path, name) for name, (_, path) in zip(names, split, strict=True))


def _named_path(word: str) -> tuple[str | None, Path]:
    name, equals, path = word.partition("=")
    if equals and name and not Path(word).exists():
        return name, named_path(path)
    return None, named_path(word)


def _parse_pythons(words: Sequence[str], grid: Grid) -> dict[str, Path]:
    found = {}
    for word in words:
        provider, _, path = word.partition("=")
        if not path or provider not in grid.providers or provider in WEB_PROVIDERS:
            asked = ", ".join(grid.providers)
            raise EdgeSkipError(f"--python {word} is not PROVIDER=PATH with one of --provider's ({asked})")
        if not Path(path).is_file():
            raise EdgeSkipError(f"--python {word}: {path} does not exist; give a Python interpreter")
        found[provider] = Path(path).absolute()  # not resolved: a virtual environment's is a link
    return found
