"""`edgeskip.bench`: measure speed, memory and loss of artifacts, here and on other devices."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeskip.api.argument_names import names_arguments
from edgeskip.core.notes import note
from edgeskip.core.progress import Progress, silent

if TYPE_CHECKING:
    from edgeskip.bench.benchmark import BenchResult
    from edgeskip.bench.devices.options import DeviceOptions
    from edgeskip.bench.devices.web.serve_config import ServeOptions

Target = str | os.PathLike[str]


@names_arguments
def bench(
    targets: Target | Sequence[Target] | Mapping[str, Target],
    *,
    prompt_tokens: int | Sequence[int] = 512,
    new_tokens: int | Sequence[int] = 128,
    depths: int | Sequence[int] = 0,
    rounds: int = 5,
    threads: int | Sequence[int] | None = None,
    provider: str | Sequence[str] = "cpu",
    strategy: str | Sequence[str] = "plain",
    prompts: str | Path | None = None,
    num_prompts: int | None = None,
    max_tokens: int = 128,
    baselines: Sequence[str] = (),
    quality: bool | str | Path = True,
    allow_fallback: bool = False,
    pythons: Mapping[str, str | Path] | None = None,
    devices: DeviceOptions | None = None,
    serve: ServeOptions | None = None,
    seed: int = 0,
    log: str | Path | None = None,
    progress: Progress = silent,
) -> BenchResult:
    """Measure artifacts: synthetic tests like llama-bench's, real prompts, memory and loss.

    In each round every combination of target, processor and strategy runs in a fresh process.

    Args:
        targets: Artifact folders and `.gguf` files, one, several, or by the names that tables show.
        prompt_tokens: Tokens of the random prompts; 0 = none.
        new_tokens: Tokens decoded one by one; 0 = none.
        depths: Tokens in the KV cache before either.
        rounds: Rounds; figures are means and medians over them.
        threads: Numbers of threads; None = the physical cores.
        provider: Processors: `cpu`, `cuda`, `openvino`, …; `web` and `web:gpu` run in a browser here.
        strategy: `plain`, `self-speculative` (the artifact's own draft), `speculative` (that and n-grams), `online`.
        prompts: Real prompts: `.jsonl` with `prompt` or `turns`, or one a line. None = six that ship.
        num_prompts: How many of them; 0 = no figures of real prompts. None = three that ship, all of yours.
        max_tokens: Most tokens of an answer.
        baselines: Targets that ratios are to, one per engine. () = each engine's first.
        quality: Text to measure each target's loss on; True = one that ships, False = leave the loss unmeasured.
        allow_fallback: Run on the CPU if a provider cannot; the rows say so.
        pythons: Interpreters for providers whose onnxruntime is another build, by provider.
        devices: Other devices to measure on (ssh, adb, browser). None = this machine.
        serve: After the rounds, serve a page that measures whatever browser opens it.
        seed: Seed of the random tokens.
        log: `.jsonl` file that gets every measurement at once; it must not exist yet. None = none.
        progress: Gets the stage `measuring`, counted in rounds.

    Returns:
        Everything that was measured; `rows` is the table. After Ctrl-C `interrupted` is true, and after an error in the
        middle `error` is set: what was measured before is there all the same.

    Raises:
        EdgeSkipError: If a target or an argument makes no sense, or a device cannot be opened: before anything is
            measured.

    Example:
        >>> result = edgeskip.bench({"dense": "dense", "skipped": "skipped"}, prompt_tokens=8, new_tokens=4,
        ...                         num_prompts=0, rounds=1, quality=False)
        >>> sorted({(row.cell.target, row.measure) for row in result.rows})
        [('dense', 'pp8'), ('dense', 'tg4'), ('skipped', 'pp8'), ('skipped', 'tg4')]
    """
    from edgeskip.bench.benchmark import run_benchmark
    from edgeskip.bench.config import BenchArgs, BenchConfig
    from edgeskip.core.held_out import HELD_OUT_TEXT

    if isinstance(targets, Mapping):
        words = [f"{name}={os.fspath(path)}" for name, path in targets.items()]
    else:
        words = [os.fspath(path) for path in ([targets] if isinstance(targets, str | os.PathLike) else targets)]
    args = BenchArgs(
        targets=words,
        prompt_tokens=_listed(prompt_tokens),
        new_tokens=_listed(new_tokens),
        depths=_listed(depths),
        threads=None if threads is None else _listed(threads),
        provider=provider if isinstance(provider, str) else ",".join(provider),
        strategy=strategy if isinstance(strategy, str) else ",".join(strategy),
        prompts=None if prompts is None else Path(prompts),
        num_prompts=num_prompts,
        max_tokens=max_tokens,
        rounds=rounds,
        baselines=list(baselines),
        allow_fallback=allow_fallback,
        pythons=[f"{name}={path}" for name, path in (pythons or {}).items()],
        seed=seed,
    )
    text = (HELD_OUT_TEXT if quality else None) if isinstance(quality, bool) else Path(quality)
    return run_benchmark(
        BenchConfig.from_args(args),
        devices,
        serve=serve,
        quality=text,
        log=None if log is None else Path(log),
        progress=progress,
        note=note,
    )


def _listed(numbers: int | Sequence[int]) -> str:
    return ",".join(map(str, [numbers] if isinstance(numbers, int) else numbers))
