"""`edgeskip.evaluate`: measure what exported artifacts can do, through the runtime that ships them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeskip.api.argument_names import names_arguments
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.lists import parse_names
from edgeskip.core.locks import claim
from edgeskip.core.paths import named_path
from edgeskip.core.progress import Progress, Steps, silent

if TYPE_CHECKING:
    from edgeskip.evaluation.summary import Summary
    from edgeskip.evaluation.task import EvalSettings
    from edgeskip.runtime.generation import Strategy


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation measured: a figure per task, metric and artifact.

    Attributes:
        summaries: The figures, each with its 95 % bootstrap interval and, from the second artifact on, its difference
            from the first one's.
        settings: How the tasks were run.
    """

    summaries: tuple[Summary, ...]
    settings: EvalSettings

    def to_json(self) -> dict[str, object]:
        """Return the figures and how they were made, as JSON can hold them."""
        from edgeskip.evaluation.report import as_json

        return as_json(self.summaries, self.settings)

    def rows(self) -> list[dict[str, str | float | int | None]]:
        """Return a row per figure, ready for `pandas.DataFrame`; shares are in percent, times in seconds."""
        return [
            {
                "task": found.task, "metric": found.title, "artifact": found.artifact, "label": found.label,
                "value": found.value,
                "low": found.interval[0] if found.interval else None,
                "high": found.interval[1] if found.interval else None,
                "samples": found.samples,
                "difference": found.difference.value if found.difference else None,
                "ttft_s": found.ttft_s, "decode_tokens_per_s": found.decode_tokens_per_s,
            }
            for found in self.summaries
        ]  # fmt: skip


@names_arguments
def evaluate(
    artifacts: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    tasks: str | Sequence[str] = "perplexity",
    data: str | Path | None = None,
    limit: int | None = 50,
    windows: int = 6,
    window_tokens: int = 1024,
    reference: str | os.PathLike[str] | None = None,
    strategy: Strategy = "plain",
    max_new_tokens: int | None = None,
    max_prompt_tokens: int | None = None,
    chat_kwargs: Mapping[str, object] | None = None,
    provider: str = "cpu",
    threads: int | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Evaluation:
    """Measure perplexity, divergence from the dense model, and AdaSkip's and LayerSkip's tasks.

    Decoding is greedy. The task humaneval runs the code that the model writes, in a process under limits.

    Args:
        artifacts: One artifact or several, folders or `.gguf` files; the others are compared with the first.
        tasks: Names: `perplexity`, `divergence`, `gov_report`, `multi_news`, `triviaqa`, `trec`, `cnn_dailymail`,
            `humaneval`, `topv2`.
        data: Folder of the tasks' data; for perplexity and divergence also a text file. None = `$EDGESKIP_DATA`, else
            `../shared/data`.
        limit: Samples of each task; None = all.
        windows: perplexity, divergence: windows of the text.
        window_tokens: perplexity, divergence: tokens per window.
        reference: divergence: the dense artifact to compare with.
        strategy: How answers are decoded; `draft-only` and `online` are lossy.
        max_new_tokens: Most tokens of an answer; None = the task's own number.
        max_prompt_tokens: Most tokens of a prompt, longer ones lose their middle; None = what the context leaves.
        chat_kwargs: Variables of the chat template, e.g. `{"enable_thinking": False}`.
        provider: Processor to run on: `cpu`, `cuda`, …
        threads: Number of threads; None = the physical cores.
        output: Folder for `TASK-ARTIFACT.jsonl`, a record per sample; an interrupted evaluation goes on there.
        overwrite: Begin again if `output` has records.
        progress: Gets the stage `evaluating`, counted in samples.

    Returns:
        A figure per task, metric and artifact.

    Raises:
        EdgeSkipError: If an artifact, a task or its data is missing, or the arguments do not fit together.

    Example:
        >>> result = edgeskip.evaluate(["dense", "skipped"], data="corpus.txt", windows=2, window_tokens=64)
        >>> [found.artifact for found in result.summaries]
        ['dense', 'skipped']
        >>> result.summaries[1].difference is not None
        True
    """
    from edgeskip.evaluation.runner import artifact_names, count, log_files, open_logs, prepare, run
    from edgeskip.evaluation.summary import summarize
    from edgeskip.evaluation.task import EvalSettings

    given = [artifacts] if isinstance(artifacts, str | os.PathLike) else artifacts
    paths = [named_path(os.fspath(artifact)) for artifact in given]
    if not paths:
        raise EdgeSkipError("no artifact is given; name at least one")
    if limit is not None and limit < 1:
        raise EdgeSkipError(f"--limit must be at least 1, or 0 for all, not {limit}")
    names = artifact_names(paths)
    if twice := [name for name in names if names.count(name) > 1]:
        raise EdgeSkipError(f"two artifacts are called {twice[0]}; give it once, or rename one if they differ")
    settings = EvalSettings(
        limit=limit, strategy=strategy, max_new_tokens=max_new_tokens, max_prompt_tokens=max_prompt_tokens,
        chat_kwargs=dict(chat_kwargs or {}), windows=windows, window_tokens=window_tokens, provider=provider,
        threads=threads, reference=None if reference is None else Path(reference),
    )  # fmt: skip
    folder = None if output is None else Path(output).expanduser()
    listed = list(parse_names(tasks, "--tasks") if isinstance(tasks, str) else tasks)
    works = prepare(listed, None if data is None else Path(data), settings)
    steps = Steps(progress, "evaluating", len(paths) * count(works, settings), "samples")
    with claim(*(file for name in names for file in log_files(works, folder, name))):
        logs = [
            open_logs(path, works, settings, folder, overwrite=overwrite, name=name)
            for path, name in zip(paths, names, strict=True)
        ]
        results = []
        for path, some, name in zip(paths, logs, names, strict=True):
            results += run(path, works, some, settings, steps.end, name)
    return Evaluation(tuple(summarize(results)), settings)
