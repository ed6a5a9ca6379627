"""How a remote machine is named: `user@host`, `user@host:port`, an alias of the user's ssh configuration."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.whole_number import whole_number

# What ssh itself would take for an option, and what no name has.
_NAME = re.compile(r"(?!-)[^\s@/\\'\"`$;&|<>()]+")
_HELP = "give user@host, user@host:port or a name from your ssh configuration"


@dataclass(frozen=True)
class Destination:
    """`host` without brackets; None if ssh is to choose."""

    named: str  # as the user wrote it
    host: str
    user: str | None
    port: int | None

    @property
    def arguments(self) -> tuple[str, ...]:
        """Return the arguments for ssh's command line."""
        port = () if self.port is None else ("-p", str(self.port))
        return (*port, "--", self.host if self.user is None else f"{self.user}@{self.host}")


def parse_destination(text: str) -> Destination:
    """Parse a machine's name. Raises EdgeSkipError if it cannot be one."""
    plain = unquote(text.removeprefix("ssh://").rstrip("/")) if text.startswith("ssh://") else text
    user, at, place = plain.rpartition("@")
    match = re.fullmatch(r"\[([^\[\]]+)\](?::([0-9]+))?|([^:\[\]]+):([0-9]+)|([^\[\]]+)", place)
    host = match and (match[1] or match[3] or match[5])
    if not match or not host or not _NAME.fullmatch(host) or (at and not _NAME.fullmatch(user.replace("@", ""))):
        raise EdgeSkipError(f"{text!r} names no machine: {_HELP}")
    written = match[2] or match[4]
    port = whole_number(written) if written else None
    if written and (port is None or not 0 < port < 65536):
        raise EdgeSkipError(f"{text!r} has no valid port: {_HELP}")
    if host.count(":") == 1:  # host:word
        raise EdgeSkipError(f"{text!r} has no valid port: {_HELP}")
    return Destination(text, host, user or None, port)
