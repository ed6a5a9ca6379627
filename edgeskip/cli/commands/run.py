"""`edgeskip run`: answers a prompt with an artifact, the text on stdout as it comes, what it cost on stderr."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from edgeskip.cli import messages
from edgeskip.cli.options import SAMPLING, SPECULATION, ArtifactArg, ChatOptions, Json, Provider, Threads
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.terminal import print_json, write_exactly, write_sequence

if TYPE_CHECKING:
    from edgeskip.runtime.sampling import Sampling
    from edgeskip.runtime.session import Session
    from edgeskip.runtime.speculation.policy import Speculation
    from edgeskip.runtime.stream import Piece, TextStream

# As in edgeskip.runtime, which is not imported before a command runs.
Strategy = Literal["plain", "speculative", "draft-only", "online"]
Drafter = Literal["model", "ngram", "mixed"]
_GREEN, _DEFAULT = "\x1b[32m", "\x1b[39m"  # rich would wrap the text


def run(
    artifact: ArtifactArg,
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", "-p", metavar="TEXT", help="Prompt; - reads it from stdin.", rich_help_panel=SAMPLING),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", metavar="FILE", help="Text file with the prompt.", rich_help_panel=SAMPLING),
    ] = None,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="System message before the prompt.", rich_help_panel=SAMPLING)
    ] = None,
    raw: Annotated[
        bool,
        typer.Option("--raw", help="Continue the text as it is, without the chat template.", rich_help_panel=SAMPLING),
    ] = False,
    chat_option: ChatOptions = None,
    max_tokens: Annotated[
        int, typer.Option(metavar="N", help="Maximum number of new tokens.", rich_help_panel=SAMPLING)
    ] = 256,
    temperature: Annotated[
        float,
        typer.Option(
            metavar="X",
            help="0 = greedy: always the likeliest token, whatever the model's own default is.",
            rich_help_panel=SAMPLING,
        ),
    ] = 0.0,
    top_k: Annotated[
        int, typer.Option(metavar="N", help="Sample from the N likeliest tokens; 0 = all.", rich_help_panel=SAMPLING)
    ] = 0,
    top_p: Annotated[
        float,
        typer.Option(
            metavar="X", help="Sample from the fewest tokens with this total probability.", rich_help_panel=SAMPLING
        ),
    ] = 1,
    min_p: Annotated[
        float,
        typer.Option(
            metavar="X",
            help="Sample from tokens at least this share as likely as the likeliest.",
            rich_help_panel=SAMPLING,
        ),
    ] = 0,
    repetition_penalty: Annotated[
        float,
        typer.Option(metavar="X", help="Above 1: tokens that occurred become less likely.", rich_help_panel=SAMPLING),
    ] = 1,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Make sampling reproducible.", rich_help_panel=SAMPLING)
    ] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="Stop before this text; repeatable.", rich_help_panel=SAMPLING),
    ] = None,
    strategy: Annotated[
        Strategy | None,
        typer.Option(
            help="speculative: the same text, drafted and verified. draft-only: the draft's own text, lossy. online: "
            "skip the FFNs that do little for this answer, lossy.",
            show_default="speculative or online if the artifact can or an option below asks for it, else plain",
            rich_help_panel=SPECULATION,
        ),
    ] = None,
    drafter: Annotated[
        Drafter | None,
        typer.Option(
            help="model: the artifact's draft. ngram: what the text said before, with any artifact. mixed: both.",
            show_default="model if there is one; with --num-speculations auto both",
            rich_help_panel=SPECULATION,
        ),
    ] = None,
    num_speculations: Annotated[
        str,
        typer.Option(
            metavar="N",
            help="Tokens to draft per round, 1 … 16; auto: as many as pay off, none if none do.",
            rich_help_panel=SPECULATION,
        ),
    ] = "auto",
    draft_confidence: Annotated[
        float,
        typer.Option(
            metavar="X",
            help="Stop drafting if the draft's likeliest token is less probable than this. draft-only: ask a deeper "
            "exit, then the whole model.",
            rich_help_panel=SPECULATION,
        ),
    ] = 0.0,
    exit_layer: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Draft after N blocks, if the artifact has several exits.", rich_help_panel=SPECULATION
        ),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="online: number of tokens P to watch first.",
            show_default="as exported",
            rich_help_panel=SPECULATION,
        ),
    ] = None,
    beta: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="online: skip FFNs of at least this similarity β. A β below the exported one only affects FFNs that "
            "were exported with a gate.",
            show_default="as exported",
            rich_help_panel=SPECULATION,
        ),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Run plain decoding too, and show both with drafted tokens in color.",
            rich_help_panel=SPECULATION,
        ),
    ] = False,
    threads: Threads = None,
    provider: Provider = "cpu",
    json: Json = False,
) -> None:
    """Generate text with an exported artifact.

    The text goes to stdout, what it cost to stderr. With --json: {"text", "tokens", "label", "strategy",
    "finish_reason", "stats", "cost", …}; with --compare {"plain", "speculative", "identical", …}.
    """
    from edgeskip.cli.chat_options import parse_chat_options
    from edgeskip.runtime.arguments import check_text
    from edgeskip.runtime.online import Online
    from edgeskip.runtime.sampling import Sampling
    from edgeskip.runtime.session import load

    _refuse_unused(strategy, drafter, num_speculations, draft_confidence, exit_layer, window, beta)
    for option, texts in (("--system", [] if system is None else [system]), ("--stop", stop or [])):
        for one in texts:
            check_text(one, option)
    chat_kwargs = parse_chat_options(chat_option, raw=raw)
    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty, seed)
    speculation = _speculation(drafter, num_speculations, draft_confidence, exit_layer)
    text = _read_prompt(prompt, file)
    messages.detail(f"loading {artifact}")
    with load(artifact, provider=provider, threads=threads) as session:
        messages.detail(f"loaded: {session.label}, {session.provider}")
        start = partial(
            session.stream,
            text,
            chat=False if raw else None,
            system=system,
            chat_kwargs=chat_kwargs,
            sampling=sampling,
            max_tokens=max_tokens,
            stop=stop or (),
            speculation=speculation,
            online=Online(window, beta),
        )
        if compare:
            interrupted = _compare(session, start, strategy, sampling, as_json=json)
        else:
            interrupted = _generate(session, start(strategy=strategy), as_json=json)
    if interrupted:
        raise typer.Exit(130)


def _refuse_unused(
    strategy: Strategy | None,
    drafter: Drafter | None,
    num_speculations: str,
    confidence: float,
    exit_layer: int | None,
    window: int | None,
    beta: float | None,
) -> None:
    """Raise EdgeSkipError if an option is given that the strategy ignores."""
    rounds = {"--drafter": drafter is not None, "--num-speculations": num_speculations != "auto"}
    drafts = {"--draft-confidence": confidence != 0, "--exit-layer": exit_layer is not None}
    gates = {"--window": window is not None, "--beta": beta is not None}
    named = strategy
    if strategy is None and any(gates.values()):
        strategy = "online"
    unused = {"plain": rounds | drafts | gates, "speculative": gates, "draft-only": rounds | gates}
    given = unused.get(strategy or "", rounds | drafts if strategy == "online" else {})
    for option in (option for option, is_given in given.items() if is_given):
        other = f"--strategy {named}" if named is not None else next(name for name, given in gates.items() if given)
        raise EdgeSkipError(f"{option} has no effect with {other}; drop one of them")


def _speculation(
    drafter: Drafter | None, num_speculations: str, confidence: float, exit_layer: int | None
) -> Speculation:
    from edgeskip.core.whole_number import whole_number
    from edgeskip.runtime.speculation.policy import Speculation

    if num_speculations == "auto":
        return Speculation(drafter, "auto", confidence, exit_layer)
    number = whole_number(num_speculations)
    if number is None:
        raise EdgeSkipError(f"--num-speculations {num_speculations:.60} is not a number; give 1 … 16 or auto")
    return Speculation(drafter, number, confidence, exit_layer)


def _generate(session: Session, stream: TextStream, *, as_json: bool) -> bool:
    """Generate once and return whether Ctrl-C ended it."""
    interrupted = _print_stream(stream, silent=as_json)
    if as_json:
        cost = session.cost.model_dump(mode="json") if session.cost else None
        print_json(stream.generation.as_dict() | {"cost": cost})
    elif messages.verbosity() is not messages.Verbosity.QUIET:
        from edgeskip.cli.views.generation import print_error_line, summary

        print_error_line(summary(stream.generation, session.plan, session.cost))
    return interrupted


def _compare(
    session: Session,
    start: Callable[..., TextStream],
    strategy: Strategy | None,
    sampling: Sampling,
    *,
    as_json: bool,
) -> bool:
    """Decode plainly and the other way and print both; return True, without comparing, if Ctrl-C ended it."""
    from edgeskip.cli.progress import progress_bar
    from edgeskip.core.progress import ProgressEvent
    from edgeskip.runtime.comparison import DecodingComparison, find_difference

    if strategy == "plain":
        raise EdgeSkipError("--compare runs plain decoding anyway; give the other --strategy, or none")
    chosen = strategy or ("online" if session.online else "speculative")
    start(strategy=chosen).close()  # measures the cost of drafting first, or raises if the artifact cannot do it
    pieces: dict[str, list[Piece]] = {}
    streams: dict[str, TextStream] = {}
    try:
        with progress_bar() as bar:
            for name in ("plain", chosen):
                bar(ProgressEvent(f"{name} decoding"))
                streams[name] = start(strategy=name)
                pieces[name] = list(streams[name])
    except KeyboardInterrupt:
        return True
    plain, other = streams["plain"].generation, streams[chosen].generation
    greedy = sampling.greedy and chosen == "speculative"
    prompt = streams["plain"].prompt
    difference = None
    if greedy:
        difference = find_difference(session, prompt, plain.tokens, other.tokens, sampling=sampling)
    comparison = DecodingComparison(plain, other, greedy, difference)
    if as_json:
        print_json(comparison.as_dict())
    else:
        from edgeskip.cli.views.generation import side_by_side
        from edgeskip.core.terminal import Console

        Console(highlight=False, markup=False).print(side_by_side(comparison, pieces["plain"], pieces[chosen]))
    return False


def _read_prompt(prompt: str | None, file: Path | None) -> str:
    import sys

    from edgeskip.core.text_files import decode_text, read_bounded, read_text_file, unix_lines
    from edgeskip.runtime.arguments import check_text

    if (prompt is None) == (file is None):
        raise EdgeSkipError("there is no prompt, or two; give either -p TEXT (-p - reads stdin) or -f FILE")
    if file is not None:
        return read_text_file(file)
    if prompt == "-":
        return unix_lines(decode_text(read_bounded(sys.stdin.buffer, "stdin"), "stdin"))
    return check_text(prompt, "--prompt")


def _print_stream(stream: TextStream, *, silent: bool) -> bool:
    """Print the text as it comes, drafted tokens in color on a terminal; return whether Ctrl-C ended it."""
    import sys

    color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    try:
        for piece in stream:
            if silent:
                continue
            green = color and piece.drafted
            if green:
                write_sequence(_GREEN)
            write_exactly(piece)
            if green:
                write_sequence(_DEFAULT)
    except KeyboardInterrupt:
        stream.close()
        return True
    finally:
        if not silent:
            print(flush=True)
    return False
