"""The `edgeskip` command: registers the verbs and turns errors a user can mend into one line and exit code 2.

The options of a verb are declared by its function in `edgeskip.cli.commands`; nothing heavy is imported here.
"""

from __future__ import annotations

import _thread
import os
import re
import signal
import sys
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from edgeskip.cli.commands.bench import bench
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
    help="Skip the sublayers a language model does not need, and run what is left faster.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # [export] in a help text is an extra, not markup
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="edgeskip VERB --help tells the options of a verb.",
)
_VERBS = (fetch, train, calibrate, profile_device, plan, schema, export, run)
for _verb in (*_VERBS, bench, report, compare, sweep, inspect, doctor):
    app.command()(_verb)
app.command("eval")(eval_)  # a function of that name would hide Python's own


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
    context.call_on_close(let_go)


def main() -> None:
    """Run the command line; exits 0 on success, 2 on an error the user can fix, 130 on Ctrl-C, 143 on SIGTERM."""
    hide_library_warnings()
    handlers, hook = _handle_signals(), sys.unraisablehook
    sys.unraisablehook = _ask_again
    try:
        with terminal.protected():
            _run_and_finish()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        sys.unraisablehook = hook


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
        _complain(f"error: standard output: {line}")
        code = 2
    sys.exit(code)


def _run() -> int:
    """Run the command; returns the exit code, unless a defect raises."""
    global _has_ended
    try:
        app(prog_name="edgeskip")
        _has_ended = True
        return 0
    except SystemExit as stop:
        _has_ended = True
        if _stopped_by is not None:
            return 128 + _stopped_by
        if stop.code == 130:  # typer turns Ctrl-C into this
            _complain("interrupted")
        if not stop.code and "TORCHELASTIC_RUN_ID" in os.environ:
            _leave_at_once()
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except KeyboardInterrupt:
        _has_ended = True
        _complain("interrupted")
        return 130
    except Exception as error:
        _has_ended = True
        if _stopped_by is not None:  # what a library made of being stopped in the middle of its import
            return 128 + _stopped_by
        if terminal.is_broken_pipe(error):
            raise
        from edgeskip.core.user_errors import explain

        line = explain(error)
        if line is None or os.environ.get("EDGESKIP_TRACEBACK"):
            raise
        # Every process of a torchrun meets the same mistake; a full memory or disk may be one process' own.
        _complain(f"error: {_in_options(line)}", first_only=isinstance(error, EdgeSkipError))
        return 2


def _in_options(line: str) -> str:
    """The line with what the Python API calls an argument, `max_tokens must be …`, called as the command does."""
    commands: dict[str, Any] = getattr(typer.main.get_command(app), "commands", {})
    named = next((commands[word] for word in sys.argv[1:] if word in commands), None)
    for parameter in named.params if named is not None else []:
        option = next((opt for opt in parameter.opts if opt.startswith("--")), None)
        if option is not None:
            line = re.sub(rf"(?<![\w.'\"/=-]){parameter.name} must\b", f"{option} must", line)
    return line


def _leave_at_once() -> NoReturn:
    """Ends a process of a torchrun that has done its work: while the interpreter is taken apart, Gloo's threads now and
    then abort it ("terminate called without an active exception")."""
    let_go()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _complain(line: str, *, first_only: bool = True) -> None:
    rank = os.environ.get("RANK", "0")
    with suppress(OSError, ValueError):  # nobody reads standard error
        if rank == "0":
            print(f"edgeskip: {line}", file=sys.stderr)
        elif not first_only:
            print(f"edgeskip: rank {rank}: {line}", file=sys.stderr)


_stopped_by: signal.Signals | None = None
_has_ended = False  # the command, so that only its exit code is left to say
LONGEST_IMPORT_S = 20.0
_put_off_since: float | None = None  # when the first of the signals came that an import puts off
_asked_again = False  # whether a Ctrl-C of `_ask_again` is on its way


def _handle_signals() -> dict[int, Any]:
    """Make signals unwind this process; returns the handlers there were before."""
    global _stopped_by, _has_ended, _asked_again
    _stopped_by, _has_ended, _asked_again = None, False, False
    numbers = [signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
        numbers.append(signal.SIGHUP)  # a terminal that is closed must leave nothing behind either
    before: dict[int, Any] = {number: signal.signal(number, _stop) for number in numbers}
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as in the background of a shell script
        before[signal.SIGINT] = signal.signal(signal.SIGINT, _interrupt)
    return before


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Ends the command; after that the process, unless it is the Ctrl-C that the command ended by, asked for again."""
    global _asked_again
    if _put_off(number, frame):
        return
    again, _asked_again = _asked_again, False
    if not _has_ended:
        raise KeyboardInterrupt
    if not again:
        os._exit(128 + number)


def _stop(number: int, frame: FrameType | None) -> None:
    """Leaves by way of every `finally`, so that a terminated run removes its temporary files too."""
    global _stopped_by
    if _put_off(number, frame):
        return
    _stopped_by = signal.Signals(number)
    sys.exit(128 + number)


def _put_off(number: int, frame: FrameType | None) -> bool:
    """Whether the signal comes in the middle of an import, which torch's C++ code may end by an abort, and so is asked
    for again a moment later. An import that takes too long is not waited for."""
    global _put_off_since
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    now = time.monotonic()
    _put_off_since = None if frame is None else _put_off_since or now
    if _put_off_since is None or now - _put_off_since > LONGEST_IMPORT_S:
        return False
    _thread.start_new_thread(_interrupt_soon, (number,))  # threading's own locks may be held here
    return True


def _interrupt_soon(number: int) -> None:
    time.sleep(0.002)
    if hasattr(signal, "pthread_kill") and (main := threading.main_thread().ident) is not None:
        signal.pthread_kill(main, number)  # which ends a system call that waits, too
    else:
        _thread.interrupt_main(signal.Signals(number))


def _ask_again(unraisable: sys.UnraisableHookArgs) -> None:
    """What a destructor or a callback raised is lost; where it was the wish to stop, the signal is delivered again."""
    global _asked_again
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        _asked_again = True
        _thread.interrupt_main(signal.SIGINT)
    elif isinstance(unraisable.exc_value, SystemExit) and _stopped_by is not None:
        _thread.interrupt_main(_stopped_by)
    else:
        sys.__unraisablehook__(unraisable)
