"""`edgeskip run`: answers a prompt with an artifact; the text to stdout as it comes, what it cost to stderr."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeskip.core.named_path import named_path
from edgeskip.core.terminal import print_json, write_exactly, write_sequence

_GREEN, _DEFAULT = "\x1b[32m", "\x1b[39m"  # rich would wrap the text

if TYPE_CHECKING:
    from edgeskip.runtime.sampling import Sampling
    from edgeskip.runtime.session import Session
    from edgeskip.runtime.speculation.policy import Speculation
    from edgeskip.runtime.stream import Piece, TextStream


def run(
    artifact: Annotated[
        Path,
        typer.Argument(parser=named_path, help="An exported artifact folder, or a .gguf file.", metavar="DIR|FILE"),
    ],
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
    chat_option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Tell the chat template, as enable_thinking=false; VALUE is JSON or text; repeatable.",
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads to compute with.", show_default="physical cores")] = None,
    provider: Annotated[
        str, typer.Option(help="Processor to run on: cpu, cuda, … An error where it cannot be used.")
    ] = "cpu",
    strategy: Annotated[
        str | None,
        typer.Option(
            help="plain; speculative: the same text, drafted and verified; draft-only: the draft's own text, lossy; "
            "online: leaves out the FFNs that do little for this answer, lossy.",
            show_default="speculative or online where the artifact can or an option below asks for it, else plain",
        ),
    ] = None,
    drafter: Annotated[
        str | None,
        typer.Option(
            help="model: the artifact's draft; ngram: what the text said before, which any artifact can; mixed: both.",
            show_default="model where there is one; with --num-speculations auto both",
        ),
    ] = None,
    num_speculations: Annotated[
        str, typer.Option(help="Tokens drafted a round, 1 … 16; auto: as many as pay here, none where none do.")
    ] = "auto",
    draft_confidence: Annotated[
        float,
        typer.Option(
            help="Stop drafting where the draft's likeliest token has less probability. draft-only: ask a deeper exit, "
            "then the whole model."
        ),
    ] = 0.0,
    exit_layer: Annotated[
        int | None, typer.Option(help="Draft after this many blocks, where the artifact has several exits.")
    ] = None,
    window: Annotated[
        int | None, typer.Option(help="online: tokens P that are watched first.", show_default="as exported")
    ] = None,
    beta: Annotated[
        float | None,
        typer.Option(
            help="online: skip FFNs of at least this similarity, β. Lower than exported it reaches only FFNs with a "
            "gate: those calibrated near the export's β.",
            show_default="as exported",
        ),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Run plain decoding too and show both, drafted tokens in colour.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the text.")] = False,
) -> None:
    """Generate text with an exported artifact."""
    from edgeskip.cli.chat_options import parse_chat_options
    from edgeskip.core.errors import EdgeSkipError
    from edgeskip.runtime.arguments import check_text
    from edgeskip.runtime.online import Online
    from edgeskip.runtime.sampling import Sampling
    from edgeskip.runtime.session import load

    _refuse_unused(strategy, drafter, num_speculations, draft_confidence, exit_layer, window, beta)
    for option, texts in (("--system", [] if system is None else [system]), ("--stop", stop or [])):
        for one in texts:
            check_text(one, option)
    chat_kwargs = parse_chat_options(chat_option or [])
    if raw and chat_kwargs:
        raise EdgeSkipError("--chat-option is for the chat template, which --raw leaves out: give one of the two")
    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty, seed)
    speculation = _speculation(drafter, num_speculations, draft_confidence, exit_layer)
    text = _read_prompt(prompt, file)
    with load(artifact, provider=provider, threads=threads) as session:
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
            interrupted = _generate(session, start(strategy=strategy), as_json=json)  # type: ignore[arg-type]  # checked there
    if interrupted:
        raise typer.Exit(130)


def _refuse_unused(
    strategy: str | None,
    drafter: str | None,
    num_speculations: str,
    confidence: float,
    exit_layer: int | None,
    window: int | None,
    beta: float | None,
) -> None:
    """EdgeSkipError where an option is given that the strategy does not look at."""
    from edgeskip.core.errors import EdgeSkipError

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
        raise EdgeSkipError(f"{option} has no effect with {other}: leave one of the two out")


def _speculation(drafter: str | None, num_speculations: str, confidence: float, exit_layer: int | None) -> Speculation:
    from edgeskip.core.errors import EdgeSkipError
    from edgeskip.core.whole_number import whole_number
    from edgeskip.runtime.speculation.policy import Speculation

    number = "auto" if num_speculations == "auto" else whole_number(num_speculations)
    if number is None:
        raise EdgeSkipError(f"--num-speculations {num_speculations:.60} is no number: give 1 … 16 or auto")
    return Speculation(drafter, number, confidence, exit_layer)  # type: ignore[arg-type]  # checked there


def _generate(session: Session, stream: TextStream, *, as_json: bool) -> bool:
    """One generation; True where Ctrl-C ended it."""
    interrupted = _print_stream(stream, silent=as_json)
    if as_json:
        cost = session.cost.model_dump(mode="json") if session.cost else None
        print_json(stream.generation.as_dict() | {"cost": cost})
    else:
        from edgeskip.cli.views.generation import print_error_line, summary

        print_error_line(summary(stream.generation, session.plan, session.cost))
    return interrupted


def _compare(
    session: Session,
    start: Callable[..., TextStream],
    strategy: str | None,
    sampling: Sampling,
    *,
    as_json: bool,
) -> bool:
    """Both ways of decoding, one after the other; True where Ctrl-C ended it, and then nothing is compared."""
    from edgeskip.core.errors import EdgeSkipError
    from edgeskip.core.progress import progress_display
    from edgeskip.core.terminal import Console
    from edgeskip.runtime.comparison import DecodingComparison, find_difference

    if strategy == "plain":
        raise EdgeSkipError("--compare runs plain decoding anyway: give the other --strategy, or none")
    chosen = strategy or ("online" if session.online else "speculative")
    start(strategy=chosen).close()  # measures what drafting costs, and refuses what the artifact cannot do, before
    pieces: dict[str, list[Piece]] = {}
    streams: dict[str, TextStream] = {}
    try:
        with progress_display() as shown:
            for name in ("plain", chosen):
                shown.update(f"{name} decoding", 0, None)
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

        Console(highlight=False, markup=False).print(side_by_side(comparison, pieces["plain"], pieces[chosen]))
    return False


def _read_prompt(prompt: str | None, file: Path | None) -> str:
    import sys

    from edgeskip.core.errors import EdgeSkipError
    from edgeskip.core.text_files import decode_text, read_bounded, read_text_file, unix_lines
    from edgeskip.runtime.arguments import check_text

    if (prompt is None) == (file is None):
        raise EdgeSkipError("give the prompt either with -p TEXT (-p - reads stdin) or with -f FILE")
    if file is not None:
        return read_text_file(file)
    if prompt == "-":
        return unix_lines(decode_text(read_bounded(sys.stdin.buffer, "stdin"), "stdin"))
    return check_text(prompt, "--prompt")


def _print_stream(stream: TextStream, *, silent: bool) -> bool:
    """Prints the text as it comes, accepted draft tokens in colour on a terminal; True where Ctrl-C ended it."""
    import sys

    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    try:
        for piece in stream:
            if silent:
                continue
            green = colour and piece.drafted
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
