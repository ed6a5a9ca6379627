"""The one error a user of EdgeSkip is meant to see, and how a value is shown in it."""

from contextvars import ContextVar

COMMAND_LINE: ContextVar[bool] = ContextVar("COMMAND_LINE", default=False)
"""Whether a command runs: its user knows options, a program's author arguments (`edgeskip.api.argument_names`)."""


class EdgeSkipError(Exception):
    """A problem that the user can fix.

    The message is one line: the problem, and what to do about it. The command line prints it without a traceback and
    exits with code 2; every other exception that escapes is a defect of EdgeSkip.

    Example:
        >>> try:
        ...     edgeskip.load("missing")
        ... except edgeskip.EdgeSkipError as error:
        ...     print("missing" in str(error))
        True
    """


class MissingExtraError(EdgeSkipError):
    """A command needs a package that the base install does not bring."""

    def __init__(self, package: str, extra: str, command: str | None = None) -> None:
        """`command` installs the extra; None = pip alone does."""
        command = command or f"pip install 'edgeskip[{extra}]'"
        super().__init__(f"this needs the package {package!r}: run  {command}")


def shown(value: object, most: int = 60) -> str:
    """Return `value` as code would write it, on one line, cut after `most` characters."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # whatever a foreign type raises; Python's own integers do, of more than 4300 digits
        return f"this {type(value).__name__}"
    return text if len(text) <= most else f"{text[:most]}…"
