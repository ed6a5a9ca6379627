"""Somebody who opens the page in a browser and presses its buttons, by Chrome's DevTools protocol."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp

from edgeskip.bench.devices.web.browser import NO_GPU, Browser


class Visitor:
    """A browser with the page open, from the constructor to `close`."""

    def __init__(self, program: str, profile: Path, url: str) -> None:
        profile.mkdir(exist_ok=True)
        (profile / "DevToolsActivePort").unlink(missing_ok=True)
        self._browser = Browser(program, profile, url, flags=(*NO_GPU, "--remote-debugging-port=0"))
        self._port_file = profile / "DevToolsActivePort"

    def wait_for(self, condition: str, patience_s: float = 60) -> None:
        """Until the JavaScript expression holds."""
        end = time.monotonic() + patience_s
        while not self.value(f"Boolean({condition})"):
            assert time.monotonic() < end, self.value("document.body?.innerText")
            time.sleep(0.2)

    def value(self, expression: str) -> Any:
        """What it is in the page; None while there is no page yet."""
        return asyncio.run(self._evaluate(expression))

    def close(self) -> None:
        self._browser.close()

    def __enter__(self) -> Visitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _evaluate(self, expression: str) -> Any:
        if not self._port_file.exists():
            return None
        port = self._port_file.read_text(encoding="utf-8").split("\n")[0]
        async with aiohttp.ClientSession() as client:
            async with client.get(f"http://127.0.0.1:{port}/json") as response:
                pages = [one for one in await response.json() if one["type"] == "page"]
            if not pages:
                return None
            async with client.ws_connect(pages[0]["webSocketDebuggerUrl"]) as socket:
                parameters = {"expression": expression, "returnByValue": True}
                await socket.send_json({"id": 1, "method": "Runtime.evaluate", "params": parameters})
                while True:
                    answer = await socket.receive_json(timeout=30)
                    if answer.get("id") == 1:
                        # An error where the page is just being loaded.
                        return answer.get("result", {}).get("result", {}).get("value")
