"""The one place through which everything is printed: neither a character that the encoding lacks, nor a control
character in a file, nor a closed or full output ends in a traceback.

`protected` puts a guard before standard output and standard error. It makes control characters visible (ESC is printed
as \\x1b), so that a name in a manifest or a token of a vocabulary cannot drive the terminal. On a terminal rich draws
past that guard, with sequences of its own; `Console` is rich's, guarding what it draws. Generated text that is not
printed to a terminal is not changed (`write_exactly`): its reader asked for the model's characters.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import json
import os
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console as Console

ERRORS = "edgeskip"
"""Name of the error handler for characters that an encoding lacks."""
output_failed = False
"""Whether an error came from standard output, in `finish`, and not from one of the command's files."""
_SPELLED = {
    **{"Δ": "d", "β": "beta", "γ": "gamma", "α": "alpha", "λ": "lambda", "σ": "sigma", "μ": "u", "µ": "u"},
    **{"→": "->", "←": "<-", "×": "x", "…": "...", "–": "-", "—": "-", "−": "-", "·": ".", "•": "*", "√": "sqrt"},
    **{"≥": ">=", "≤": "<=", "≈": "~", "±": "+-", "∞": "inf", "’": "'", "‘": "'", "“": "'", "”": "'", "‖": "||"},
}
# C0 and C1 controls but tab and line feed, and the marks that reorder a line (U+202E shows "exe.jpg" as "gpj.exe").
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Return `text` with every control character but tab and line end made visible, ESC as \\x1b."""
    return _CONTROLS.sub(_visible, text)


def _visible(match: re.Match[str]) -> str:
    number = ord(match[0])
    return "\\r" if match[0] == "\r" else f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


def _replaced(error: UnicodeError) -> tuple[str, int]:
    """Return the nearest ASCII spelling of our own symbols, \\xe9 for a byte of a path, else "?"."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    spelled = (
        f"\\x{ord(one) - 0xDC00:02x}" if "\udc80" <= one <= "\udcff" else _SPELLED.get(one, "?") for one in characters
    )
    return "".join(spelled), error.end


class GuardedStream:
    """A text stream whose `write` makes control characters visible; it delegates everything else.

    Args:
        stream: Standard output or standard error.
        progress: Whether this is standard error: then a lone carriage return passes, which progress bars of libraries
            use to go back to the start, and what cannot be written is dropped.
    """

    def __init__(self, stream: TextIO, *, progress: bool) -> None:
        self._stream, self._progress = stream, progress
        if stream.isatty():
            # rich prints to this attribute if there is one: its colors and bars must not be made visible.
            self.rich_proxied_file = stream

    def write(self, text: str) -> int:
        if not isinstance(text, str):  # this is how click finds out whether a stream takes bytes
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if _CONTROLS.search(text):
            if self._progress:
                parts = text.split("\r")
                text = "\r".join(map(printable, parts))
            else:
                text = printable(text.replace("\r\n", "\n"))
        try:
            self._stream.write(text)
        except OSError:
            if not self._progress:
                raise  # a lost result is a failure of the command; a lost status line is not
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            if not self._progress:
                raise

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def protected() -> Iterator[None]:
    """Guard standard output and standard error of this process while the command line runs."""
    before = sys.stdout, sys.stderr
    _protect()
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _protect() -> None:
    _open_missing_descriptors()
    codecs.register_error(ERRORS, _replaced)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # it was closed before this process started
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123  (for as long as the process lives)
        elif isinstance(stream, GuardedStream):
            continue
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=ERRORS)
        setattr(sys, name, GuardedStream(stream, progress=name == "stderr"))
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115, PTH123


def _open_missing_descriptors() -> None:
    """Keep the numbers of closed standard streams from files that are opened later: libraries write to them."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            with contextlib.suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # takes the lowest free number


def write_exactly(text: str) -> None:
    """Print generated text, unchanged into a pipe or a file, with visible control characters on a terminal."""
    stream = sys.stdout
    if isinstance(stream, GuardedStream) and not stream.isatty():
        stream._stream.write(text)
    else:
        stream.write(text)
    stream.flush()


def write_sequence(sequence: str) -> None:
    """Print one of our own escape sequences, such as a color, past the guard."""
    stream: Any = sys.stdout
    (stream._stream if isinstance(stream, GuardedStream) else stream).write(sequence)


def print_json(value: Any, *, indent: int | None = None) -> None:
    """Print `value` as JSON that is valid in every encoding: escaped to ASCII if standard output needs it."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
        safe = not _CONTROLS.search(text)  # C1 controls, which JSON does not escape
    except (UnicodeEncodeError, LookupError):
        safe = False
    print(text if safe else json.dumps(value, ensure_ascii=True, indent=indent))


def __getattr__(name: str) -> Any:
    """Make `Console` on first use: importing rich takes longer than `edgeskip --help` may."""
    if name != "Console":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()["Console"] = guarded = _guarded_console()
    return guarded


def _guarded_console() -> type[Console]:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class GuardedConsole(Console):
        """rich's console, whose text cannot drive the terminal: names are not markup, and escapes are shown."""

        def __init__(self, **options: Any) -> None:
            super().__init__(**({"markup": False} | options))

        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
            for segment in super().render(renderable, options):
                if segment.control or not _CONTROLS.search(segment.text):
                    yield segment
                else:
                    yield Segment(printable(segment.text), segment.style)

    return GuardedConsole


def finish() -> None:
    """Flush, so that a full disk or a closed pipe is noticed here and not while Python shuts down.

    Raises:
        OSError: If standard output cannot be written (BrokenPipeError, ENOSPC); the rest is then discarded.
    """
    global output_failed
    failure: OSError | None = None
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except OSError as error:
            _discard(stream)
            if stream is sys.stdout:
                failure, output_failed = error, True
        except ValueError:  # closed already
            pass
    if failure is not None:
        raise failure


def _discard(stream: Any) -> None:
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
    except (OSError, ValueError, AttributeError):
        pass
    with contextlib.suppress(OSError, ValueError):
        stream.flush()


def is_broken_pipe(error: BaseException) -> bool:
    """Return whether the program that read our output has ended: a broken pipe; on Windows also EINVAL."""
    if isinstance(error, BrokenPipeError):
        return True
    return os.name == "nt" and isinstance(error, OSError) and error.errno == errno.EINVAL and error.filename is None
