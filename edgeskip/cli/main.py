"""The `edgeskip` command: registers the commands, and turns errors a user can fix into one line and exit code 2.

The options of a command are declared by its function in `edgeskip.cli.commands`; nothing heavy is imported here.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Annotated, Any, NoReturn

import typer

from edgeskip.cli import messages, signals
from edgeskip.cli.command import CommandGroup, old_spelling, register
from edgeskip.cli.commands.bench import app as bench
from edgeskip.cli.commands.calibrate import calibrate
from edgeskip.cli.commands.compare import compare
from edgeskip.cli.commands.doctor import doctor
from edgeskip.cli.commands.evaluate import eval_
from edgeskip.cli.commands.export import export
from edgeskip.cli.commands.fetch import fetch
from edgeskip.cli.commands.inspect import inspect
from edgeskip.cli.commands.plan import plan
from edgeskip.cli.commands.profile_device import profile_device
from edgeskip.cli.commands.report import report
from edgeskip.cli.commands.run import run
from edgeskip.cli.commands.schema import schema
from edgeskip.cli.commands.sweep import sweep
from edgeskip.cli.commands.train import train
from edgeskip.core import terminal
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.library_warnings import hide_library_warnings
from edgeskip.core.locks import let_go
from edgeskip.core.version import __version__

app = typer.Typer(
    name="edgeskip",
    cls=CommandGroup,
    help="Make a language model faster: skip the sublayers it can do without.",
    no_args_is_help=True,
    rich_markup_mode=None,  # [export] in a help text is an extra, not markup
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Run `edgeskip COMMAND --help` to see its options.",
)


def _register() -> None:
    faster: list[Callable[..., None]] = [fetch, calibrate, plan, export, train]
    for command in faster:
        register(app, command, heading="Make a model faster")
    register(app, run, heading="Use it")
    register(app, eval_, "eval", heading="Measure")  # a function of that name would hide Python's own
    app.add_typer(bench, name="bench", rich_help_panel="Measure")
    register(app, sweep, heading="Measure")
    register(app, profile_device, heading="Measure")
    for command in (inspect, doctor, schema):
        register(app, command, heading="Look inside")
    for command in (report, compare):
        name = command.__name__
        register(app, old_spelling(command, f"edgeskip bench {name}"), name, hidden=True)


_register()


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"edgeskip {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    messages.reset()
    messages.listen()
    context.call_on_close(messages.stop_listening)
    context.call_on_close(let_go)


def main() -> None:
    """Run the command line; exits 0 on success, 2 on an error the user can fix, 130 on Ctrl-C, 143 on SIGTERM."""
    hide_library_warnings()
    with signals.handled(), terminal.protected():
        _run_and_finish()


def _run_and_finish() -> None:
    code = 0
    try:
        try:
            code = _run()
        except BaseException as error:
            with suppress(OSError):  # the first failure is the one that counts
                terminal.finish()
            if terminal.is_broken_pipe(error):
                sys.exit(1)  # as click does: the reader has what it wanted
            raise
        terminal.finish()
    except OSError as error:
        if terminal.is_broken_pipe(error):
            sys.exit(code or 1)
        from edgeskip.core.user_errors import explain

        line = explain(error)
        if line is None or not terminal.output_failed:
            raise
        _print_error(f"error: standard output: {line}")
        code = 2
    sys.exit(code)


def _run() -> int:
    """Run the command and return the exit code; a defect raises."""
    try:
        app(prog_name="edgeskip")
        signals.command_ended()
        return 0
    except SystemExit as stop:
        signals.command_ended()
        if (number := signals.stopped_by()) is not None:
            return 128 + number
        if stop.code == 130:  # typer turns Ctrl-C into this
            _print_error("interrupted")
        if not stop.code and "TORCHELASTIC_RUN_ID" in os.environ:
            _leave_at_once()
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except KeyboardInterrupt:
        signals.command_ended()
        _print_error("interrupted")
        return 130
    except Exception as error:
        signals.command_ended()
        if (number := signals.stopped_by()) is not None:  # what a library made of being stopped in an import
            return 128 + number
        if terminal.is_broken_pipe(error):
            raise
        from edgeskip.core.user_errors import explain

        line = explain(error)
        if line is None or os.environ.get("EDGESKIP_TRACEBACK"):
            raise
        # Every process of a torchrun meets the same mistake; only one of them may run out of memory or disk.
        _print_error(f"error: {_in_options(line)}", first_only=isinstance(error, EdgeSkipError))
        return 2


def _in_options(line: str) -> str:
    """Return `line` with arguments of the Python API, `max_tokens must be …`, named as the command names them."""
    for parameter in _parameters(typer.main.get_command(app), sys.argv[1:]):
        option = next((opt for opt in parameter.opts if opt.startswith("--")), None)
        if option is not None:
            line = re.sub(rf"(?<![\w.'\"/=-]){parameter.name} must\b", f"{option} must", line)
    return line


def _parameters(command: Any, words: list[str]) -> Iterator[Any]:
    """Yield the parameters of the command that `words` name."""
    for number, word in enumerate(words):
        if word in (commands := getattr(command, "commands", {})):
            yield from _parameters(commands[word], words[number + 1 :])
            return
    if not getattr(command, "commands", None):
        yield from command.params
    elif (usual := command.commands.get("run")) is not None:  # `edgeskip bench TARGET…`
        yield from usual.params


def _leave_at_once() -> NoReturn:
    """End a process of a torchrun that has done its work.

    While the interpreter shuts down, Gloo's threads now and then abort it ("terminate called without an active
    exception").
    """
    let_go()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _print_error(line: str, *, first_only: bool = True) -> None:
    rank = os.environ.get("RANK", "0")
    with suppress(OSError, ValueError):  # nobody reads standard error
        if rank == "0":
            print(f"edgeskip: {line}", file=sys.stderr)
        elif not first_only:
            print(f"edgeskip: rank {rank}: {line}", file=sys.stderr)
