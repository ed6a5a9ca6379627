"""`edgeskip eval`: what exported artifacts can do, measured through the runtime that ships them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeskip.core.named_path import named_path

if TYPE_CHECKING:
    from edgeskip.evaluation.summary import Result
    from edgeskip.evaluation.task import EvalSettings


def eval_(
    targets: Annotated[
        list[Path],
        typer.Argument(parser=named_path, help="Artifact folders or .gguf files; the first is compared with."),
    ],
    tasks: Annotated[
        str,
        typer.Option(
            help="perplexity, divergence, gov_report, multi_news, triviaqa, trec, cnn_dailymail, humaneval, topv2; "
            "several by comma."
        ),
    ] = "perplexity",
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the tasks' data; for perplexity and divergence a text file too.",
            show_default="$EDGESKIP_DATA, else ../shared/data",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(help="Samples of each task; 0 = all. More go on after fewer.")] = 50,
    windows: Annotated[int, typer.Option(help="perplexity, divergence: windows of the text.")] = 6,
    window_tokens: Annotated[int, typer.Option(help="perplexity, divergence: tokens of a window.")] = 1024,
    reference: Annotated[
        Path | None, typer.Option(help="divergence: the dense artifact that is compared with.")
    ] = None,
    strategy: Annotated[
        str, typer.Option(help="plain; speculative: the same answers, drafted and verified; online, draft-only: lossy.")
    ] = "plain",
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Most tokens of an answer.", show_default="the task's own")
    ] = None,
    max_prompt_tokens: Annotated[
        int | None,
        typer.Option(
            help="Longer prompts lose their middle.", show_default="what the context leaves beside the new tokens"
        ),
    ] = None,
    chat_option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Tell the chat template, as enable_thinking=false; repeatable."),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads to compute with.", show_default="physical cores")] = None,
    provider: Annotated[str, typer.Option(help="Processor to run on: cpu, cuda, …")] = "cpu",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder for TASK-ARTIFACT.jsonl, every sample's record; an interrupted run goes on."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin again where -o has records already.")] = False,
    json: Annotated[Path | None, typer.Option(help="Write the summary there.")] = None,
) -> None:
    """Measure exported artifacts: perplexity, divergence from the dense model, and AdaSkip's and LayerSkip's tasks.

    Decoding is greedy. humaneval runs the code that the model writes, in a process under limits.
    """
    from edgeskip.cli.chat_options import parse_chat_options
    from edgeskip.core.errors import EdgeSkipError
    from edgeskip.core.files import refuse_file
    from edgeskip.core.locks import hold
    from edgeskip.evaluation.runner import artifact_names, count, log_files, open_logs, prepare, run
    from edgeskip.evaluation.task import EvalSettings

    names = [name.strip() for name in tasks.split(",")]
    if limit < 0:
        raise EdgeSkipError(f"--limit must be at least 1, or 0 for all, not {limit}")
    called = artifact_names(targets)
    if twice := [name for name in called if called.count(name) > 1]:
        raise EdgeSkipError(f"two artifacts are called {twice[0]}: give it once, or rename one if they differ")
    settings = EvalSettings(
        limit=limit or None, strategy=strategy, max_new_tokens=max_new_tokens, max_prompt_tokens=max_prompt_tokens,
        chat_kwargs=parse_chat_options(chat_option or []), windows=windows, window_tokens=window_tokens,
        provider=provider, threads=threads, reference=reference,
    )  # fmt: skip
    if json is not None:
        refuse_file(json, overwrite=True, option="--json")
    works = prepare(names, data, settings)
    for name in called:
        hold(*log_files(works, output, name))
    logs = [
        open_logs(path, works, settings, output, overwrite=overwrite, name=name)
        for path, name in zip(targets, called, strict=True)
    ]
    results: list[Result] = []
    with _progress(len(targets) * count(works, settings)) as advance:
        for path, some, name in zip(targets, logs, called, strict=True):
            results += run(path, works, some, settings, advance, name)
    _show(results, settings, json)


def _show(results: list[Result], settings: EvalSettings, json_file: Path | None) -> None:
    import json

    from edgeskip.core.files import replace_file
    from edgeskip.core.terminal import Console
    from edgeskip.evaluation.report import as_json, sandbox_layers, table
    from edgeskip.evaluation.summary import summarise

    summaries = summarise(results)
    if json_file is not None:
        text = json.dumps(as_json(summaries, settings), indent=1, ensure_ascii=False)
        replace_file(json_file, (text + "\n").encode())
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)  # a file has no edge to wrap at
    console.print(table(summaries))
    for task, artifact, cut in dict.fromkeys((s.task, s.artifact, s.cut) for s in summaries if s.cut):
        console.print(f"{task}, {artifact}: {cut} prompts were cut in their middle to fit", markup=False)
    for name, artifact, gated in dict.fromkeys((s.task, s.artifact, s.gated) for s in summaries if s.gated is not None):
        console.print(f"{name}, {artifact}: {gated:.1f} FFNs left out online per answer", markup=False)
    if layers := sandbox_layers(summaries):
        console.print(f"the model's programs ran under {', '.join(layers)}", markup=False)
    if any(summary.interval is not None and summary.samples < 20 for summary in summaries):
        console.print("fewer than 20 samples: their intervals are rough, too narrow more often than not", markup=False)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str], None]]:
    from edgeskip.core.progress import progress_display

    with progress_display() as shown:
        done = 0
        shown.update("evaluating", 0, total, "loading")

        def advance(name: str) -> None:
            nonlocal done
            done += 1
            shown.update("evaluating", done, total, name)

        yield advance
