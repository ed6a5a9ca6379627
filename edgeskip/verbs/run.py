"""`edgeskip run`: answers a prompt with an artifact; the text to stdout as it comes, what it cost to stderr."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edgeskip.manifest import PlanSummary
    from edgeskip.runtime.generation import Generation
    from edgeskip.runtime.stream import TextStream


def run(
    artifact: Annotated[Path, typer.Argument(help="An exported artifact folder, or a .gguf file.", metavar="DIR|FILE")],
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="The prompt; - reads it from stdin.")] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Read the prompt from this text file.")] = None,
    system: Annotated[str | None, typer.Option(help="System message, put before the prompt.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text as it is, without the chat template.")] = False,
    max_tokens: Annotated[int, typer.Option(help="Most tokens to generate.")] = 256,
    temperature: Annotated[
        float, typer.Option(help="0 = greedy: the likeliest token each time, whatever the model's own default is.")
    ] = 0.0,
    top_k: Annotated[int, typer.Option(help="Draw from the k likeliest tokens; 0 = all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Draw from the fewest tokens that together have this probability.")] = 1,
    min_p: Annotated[float, typer.Option(help="Draw from tokens at least this share as likely as the likeliest.")] = 0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1: tokens already seen get less likely.")] = 1,
    seed: Annotated[int | None, typer.Option(help="Makes drawing repeatable.")] = None,
    stop: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="End before this text; may be given several times.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads to compute with.", show_default="physical cores")] = None,
    provider: Annotated[
        str, typer.Option(help="Processor to run on: cpu, cuda, … An error where it cannot be used.")
    ] = "cpu",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the text.")] = False,
) -> None:
    """Generate text with an exported artifact."""
    from edgeskip.runtime.sampling import Sampling
    from edgeskip.runtime.session import load

    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty, seed)
    text = _read_prompt(prompt, file)
    with load(artifact, provider=provider, threads=threads) as session:
        stream = session.stream(
            text, chat=False if raw else None, system=system, sampling=sampling, max_tokens=max_tokens, stop=stop or ()
        )
        interrupted = _print_stream(stream, silent=json)
        if json:
            import json as json_module

            print(json_module.dumps(stream.generation.as_dict(), ensure_ascii=False))
        else:
            _print_summary(stream.generation, session.plan)
    if interrupted:
        raise typer.Exit(130)


def _read_prompt(prompt: str | None, file: Path | None) -> str:
    import sys

    from edgeskip.errors import EdgeSkipError

    if (prompt is None) == (file is None):
        raise EdgeSkipError("give the prompt either with -p TEXT (-p - reads stdin) or with -f FILE")
    try:
        if file is not None:
            return file.read_text(encoding="utf-8")
        return sys.stdin.buffer.read().decode("utf-8") if prompt == "-" else str(prompt)
    except UnicodeDecodeError:
        raise EdgeSkipError(f"{file or 'stdin'} is not UTF-8 text: convert it, e.g. with iconv") from None


def _print_stream(stream: TextStream, *, silent: bool) -> bool:
    """Prints the text as it comes; True where Ctrl-C ended it."""
    import sys

    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal that is not UTF-8
    try:
        for piece in stream:
            if not silent:
                print(piece, end="", flush=True)
    except KeyboardInterrupt:
        stream.close()
        return True
    finally:
        if not silent:
            print(flush=True)
    return False


def _print_summary(generation: Generation, plan: PlanSummary | None) -> None:
    from rich.console import Console
    from rich.text import Text

    stats = generation.stats
    lossy = generation.label != "dense"
    skipped = f" ({len(plan.skip)} of {2 * plan.num_blocks} sublayers skipped)" if plan and plan.skip else ""
    facts = [
        f"{generation.strategy}, {generation.provider}, {stats.threads} thread{'s' if stats.threads > 1 else ''}",
        f"{stats.prompt_tokens} prompt tokens, first token after {stats.ttft_s:.3f} s "
        f"({stats.prefill_tokens_per_s:.0f} tokens/s)",
        f"{stats.generated_tokens} tokens, {stats.decode_tokens_per_s:.1f} tokens/s",
        f"ended by {generation.finish_reason}",
    ]
    line = Text.assemble((generation.label + skipped, "bold red" if lossy else "bold"), " | ", " | ".join(facts))
    Console(stderr=True, highlight=False).print(line, soft_wrap=True)
