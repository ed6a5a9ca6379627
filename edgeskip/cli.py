"""The `edgeskip` command: registers the verbs and turns errors a user can mend into one line and exit code 2.

The options of a verb are declared by its function in `edgeskip.verbs`; nothing heavy is imported here.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Annotated, NoReturn

import typer

from edgeskip.errors import EdgeSkipError
from edgeskip.verbs.bench import bench
from edgeskip.verbs.calibrate import calibrate
from edgeskip.verbs.compare import compare
from edgeskip.verbs.doctor import doctor
from edgeskip.verbs.evaluate import eval_
from edgeskip.verbs.export import export
from edgeskip.verbs.fetch import fetch
from edgeskip.verbs.inspect import inspect
from edgeskip.verbs.plan import plan
from edgeskip.verbs.profile_device import profile_device
from edgeskip.verbs.report import report
from edgeskip.verbs.run import run
from edgeskip.verbs.schema import schema
from edgeskip.verbs.sweep import sweep
from edgeskip.verbs.train import train
from edgeskip.version import __version__

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
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Runs the command line; exits 0 on success, 2 on an error the user can mend, 130 when interrupted."""
    signal.signal(signal.SIGTERM, _stop)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
        signal.signal(signal.SIGHUP, _stop)  # a terminal that is closed must leave nothing behind either
    try:
        app(prog_name="edgeskip")
    except SystemExit as stop:
        if stop.code == 130:  # typer turns Ctrl-C into this
            _complain("interrupted")
        if not stop.code and "TORCHELASTIC_RUN_ID" in os.environ:
            _leave_at_once()
        raise
    except KeyboardInterrupt:
        _complain("interrupted")
        sys.exit(130)
    except Exception as error:
        from edgeskip.explain import explain

        line = explain(error)
        if line is None or os.environ.get("EDGESKIP_TRACEBACK"):
            raise
        # Every process of a torchrun meets the same mistake; a full memory or disk may be one process' own.
        _complain(f"error: {line}", first_only=isinstance(error, EdgeSkipError))
        sys.exit(2)


def _leave_at_once() -> NoReturn:
    """Ends a process of a torchrun that has done its work: while the interpreter is taken apart, Gloo's threads now and
    then abort it ("terminate called without an active exception")."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _complain(line: str, *, first_only: bool = True) -> None:
    rank = os.environ.get("RANK", "0")
    if rank == "0":
        print(f"edgeskip: {line}", file=sys.stderr)
    elif not first_only:
        print(f"edgeskip: rank {rank}: {line}", file=sys.stderr)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    """Leaves by way of every `finally`, so that a terminated run removes its temporary files too."""
    sys.exit(128 + number)
