"""`edgeskip eval`: the options of `edgeskip.evaluate`, its progress and its table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeskip.cli.commands.run import Strategy
from edgeskip.cli.options import MODEL, ArtifactsArg, ChatOptions, Json, Provider, Threads, output_option
from edgeskip.core.terminal import print_json

if TYPE_CHECKING:
    from edgeskip.evaluation.summary import Summary


def eval_(
    targets: ArtifactsArg,
    tasks: Annotated[
        str,
        typer.Option(
            metavar="NAME,…",
            help="perplexity, divergence, gov_report, multi_news, triviaqa, trec, cnn_dailymail, humaneval, topv2.",
        ),
    ] = "perplexity",
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Folder of the tasks' data; for perplexity and divergence also a text file.",
            show_default="$EDGESKIP_DATA, else ../shared/data",
            rich_help_panel=MODEL,
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option(metavar="N", help="Samples of each task; 0 = all. More continue after fewer.")
    ] = 50,
    windows: Annotated[int, typer.Option(metavar="N", help="perplexity, divergence: windows of the text.")] = 6,
    window_tokens: Annotated[int, typer.Option(metavar="N", help="perplexity, divergence: tokens per window.")] = 1024,
    reference: Annotated[
        Path | None, typer.Option(metavar="ARTIFACT", help="divergence: the dense artifact to compare with.")
    ] = None,
    strategy: Annotated[
        Strategy,
        typer.Option(help="How answers are decoded: speculative gives the same text, draft-only and online are lossy."),
    ] = "plain",
    max_new_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Most tokens of an answer.", show_default="the task's own number")
    ] = None,
    max_prompt_tokens: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Most tokens of a prompt; longer ones lose their middle.",
            show_default="what the context leaves beside the new tokens",
        ),
    ] = None,
    chat_option: ChatOptions = None,
    threads: Threads = None,
    provider: Provider = "cpu",
    output: Annotated[
        Path | None,
        output_option("Folder for TASK-ARTIFACT.jsonl, a record per sample; an interrupted run goes on.", "FOLDER"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin again if --output has records.")] = False,
    json: Json = False,
) -> None:
    """Measure quality: perplexity, divergence, and tasks.

    Decoding is greedy. The tasks are AdaSkip's and LayerSkip's; humaneval runs the code that the model writes, in a
    process under limits.
    """
    from edgeskip.api.evaluate import evaluate
    from edgeskip.cli.chat_options import parse_chat_options
    from edgeskip.cli.progress import progress_bar

    with progress_bar() as bar:
        result = evaluate(
            targets, tasks=tasks, data=data, limit=limit or None, windows=windows, window_tokens=window_tokens,
            reference=reference, strategy=strategy, max_new_tokens=max_new_tokens, max_prompt_tokens=max_prompt_tokens,
            chat_kwargs=parse_chat_options(chat_option or []), provider=provider, threads=threads, output=output,
            overwrite=overwrite, progress=bar,
        )  # fmt: skip
    if json:
        print_json(result.to_json())
    else:
        _show(result.summaries)


def _show(summaries: tuple[Summary, ...]) -> None:
    from edgeskip.core.terminal import Console
    from edgeskip.evaluation.report import sandbox_layers, table

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)  # a file has no edge to wrap at
    console.print(table(summaries))
    for task, artifact, cut in dict.fromkeys((s.task, s.artifact, s.cut) for s in summaries if s.cut):
        console.print(f"{task}, {artifact}: {cut} prompts were cut in their middle to fit", markup=False)
    for name, artifact, gated in dict.fromkeys((s.task, s.artifact, s.gated) for s in summaries if s.gated is not None):
        console.print(f"{name}, {artifact}: {gated:.1f} FFNs were skipped online per answer", markup=False)
    if layers := sandbox_layers(summaries):
        console.print(f"the model's programs ran under {', '.join(layers)}", markup=False)
    if any(summary.interval is not None and summary.samples < 20 for summary in summaries):
        console.print("fewer than 20 samples: the intervals are rough, more often too narrow than not", markup=False)
