"""What ssh says when it cannot connect, as one line that says what to do. Text in, text out."""

from __future__ import annotations

import re

from edgeskip.bench.devices.ssh.destination import Destination

# Searched for in this order; {host} is the machine as the user named it, {target} the host and port that ssh tried.
_SSH_ERRORS = (
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED",
        "the host key of {host} has changed: it is another machine, or set up anew; if you trust it, forget the old "
        "key with  ssh-keygen -R '{target}'",
    ),
    (
        r"Host key verification failed|host key is known for",
        "the host key of {host} is not known here: connect once with  ssh {host}  and confirm it",
    ),
    (
        r"Permission denied|Too many authentication failures|no mutual signature|No more authentication methods",
        "{host} refuses the login: set up a key that needs no typing (ssh-copy-id, ssh-agent), or name one with an "
        "identity file; passwords are not asked for",
    ),
    (r"Could not resolve hostname", "there is no machine called {host}: check the name and the network"),
    (r"Connection refused", "nothing answers ssh on {host}: start its ssh server, or give the right port"),
    (
        r"(Connection|Operation) timed out|No route to host|Network is unreachable|Host is down",
        "{host} cannot be reached: is it switched on and in this network?",
    ),
)


def explain_ssh_error(destination: Destination, said: str) -> str:
    """`said`: all that ssh wrote to stderr."""
    port = "" if destination.port is None else f":{destination.port}"
    target = f"[{destination.host}]{port}" if port else destination.host
    for pattern, line in _SSH_ERRORS:
        if re.search(pattern, said):
            return line.format(host=destination.named, target=target)
    return f"ssh cannot connect to {destination.named}: {last_line(said) or 'it says nothing'}"


def last_line(said: str) -> str:
    """The last line with something in it."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1][:500] if lines else ""
