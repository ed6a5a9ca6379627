"""What the tests of ssh share: a request, and looks at what runs and what is sent."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loopback_sshd import Loopback

from edgeskip.bench.devices.ssh.launcher import SshLauncher
from edgeskip.bench.runner.request import BenchPrompt, RoundRequest
from edgeskip.bench.runner.request import SyntheticTest as RandomTest
from edgeskip.bench.schema import BenchCell, RoundResult, Strategy

HERE = Path(__file__).parent


Open = Callable[..., SshLauncher]


Make = Callable[[int], Path]


def quiet(_: str) -> None:
    pass


def request(path: str, target: str, device: str, *, strategy: Strategy = "plain") -> RoundRequest:
    return RoundRequest(
        path=path,
        cell=BenchCell(target=target, device=device, provider="cpu", threads=1, strategy=strategy),
        round=2,
        tests=[RandomTest(test="pp", tokens=64, depth=0)],
        prompts=[BenchPrompt(name="short", text="Hello, wörld\n'quoted'")],
        max_tokens=4,
    )


def ours(far: Loopback) -> list[str]:
    """What runs on the other side apart from the connection's own shell."""
    return [command for command in far.running() if "fake_child" in command or "sleep" in command]


def wait_for(true: Callable[[], object], patience_s: float = 20) -> None:
    deadline = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def bytes_sent(launcher: SshLauncher) -> list[int]:
    """Collects the sizes of what is sent of artifacts from now on."""
    sizes: list[int] = []
    ask = launcher._remote.ask

    def spy(command: str, *arguments: Any, **options: Any) -> Any:
        if command == "receive":
            payload = options["payload"]
            options["payload"] = lambda: (sizes.append(len(piece)) or piece for piece in payload())  # type: ignore[func-returns-value]
        return ask(command, *arguments, **options)

    launcher._remote.ask = spy  # type: ignore[method-assign]
    return sizes


def measured(launcher: SshLauncher, path: str) -> RoundResult:
    asked = request(path, "any", launcher.device.id).model_copy(
        update={"tests": [RandomTest(test="pp", tokens=16, depth=0), RandomTest(test="tg", tokens=4, depth=8)]}
    )
    return launcher.run(asked, quiet)
