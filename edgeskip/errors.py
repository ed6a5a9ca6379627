"""The one error a user of EdgeSkip is meant to see."""


class EdgeSkipError(Exception):
    """Something the user can mend.

    The message is one line that says what is wrong and what to do. The command line prints it without a
    traceback and exits with code 2; everything else that escapes is a defect of ours.
    """


class MissingExtraError(EdgeSkipError):
    """A verb needs a package that the base install does not bring."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"this needs the package {package!r}: run  pip install 'edgeskip[{extra}]'")
