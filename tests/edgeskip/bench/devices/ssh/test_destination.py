"""Names of machines. Oracle: what ssh takes on its command line (the manual's)."""

from __future__ import annotations

import pytest

from edgeskip.bench.devices.ssh.destination import parse_destination
from edgeskip.core.errors import EdgeSkipError


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("board", ("--", "board")),
        ("pi@board.local", ("--", "pi@board.local")),
        ("pi@10.0.0.7:2222", ("-p", "2222", "--", "pi@10.0.0.7")),
        ("pi@[fe80::1%eth0]:22", ("-p", "22", "--", "pi@fe80::1%eth0")),
        ("[::1]", ("--", "::1")),
        ("pi@fe80::1", ("--", "pi@fe80::1")),
        ("ssh://pi@board:2200/", ("-p", "2200", "--", "pi@board")),
        ("first.last@corp@board", ("--", "first.last@corp@board")),
        ("", None),
        ("@board", None),
        ("pi@", None),
        ("-oProxyCommand=evil", None),
        ("pi@-oProxyCommand=evil", None),
        ("board:0", None),
        ("board:99999", None),
        ("board:ssh", None),
        ("two words", None),
        ("a;b", None),
        ("$(id)", None),
        ("board\n", None),
    ],
)
def test_names(text: str, arguments: tuple[str, ...] | None) -> None:
    if arguments is not None:
        assert parse_destination(text).arguments == arguments
        return
    with pytest.raises(EdgeSkipError, match=r"give user@host, user@host:port or a name from your ssh configuration"):
        parse_destination(text)
