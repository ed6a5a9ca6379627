"""A server with one tiny artifact and two rounds for every phone, for the tests of serving."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

from edgeskip.bench.devices.web.artifact import WebArtifact
from edgeskip.bench.devices.web.serve import DeviceRecord, PhoneHandler
from edgeskip.bench.devices.web.server import WebServer
from edgeskip.bench.runner.request import BenchPrompt, RoundRequest
from edgeskip.bench.schema import BenchCell, Device, ExecutionInfo, PromptResult, RoundResult

LIB = {"a.mjs": b"export default 1;", "b.wasm": b"\0asm"}


class Bench:
    """A server with one request for each phone, and what it was handed."""

    def __init__(self, artifact: WebArtifact) -> None:
        self.artifact = artifact
        self.kept: list[DeviceRecord] = []
        self.phones = PhoneHandler(self.requests_for, self.kept.append, lambda line: None)
        self.server = WebServer(self.phones, {str(artifact.path): artifact}, LIB)
        self.server.start()

    def requests_for(self, device: Device) -> list[RoundRequest]:
        cell = BenchCell(target="t", device=device.id, provider="web", threads=2, strategy="plain")
        prompts = [BenchPrompt(name="p", text="The quick fox")]
        return [
            RoundRequest(path=str(self.artifact.path), cell=cell, round=n, tests=[], prompts=prompts, max_tokens=4)
            for n in range(2)
        ]

    def ask(self, execute: Callable[[aiohttp.ClientSession], Awaitable[Any]]) -> Any:
        async def run() -> Any:
            async with aiohttp.ClientSession(self.server.url()) as client:
                return await asyncio.wait_for(execute(client), 30)

        return asyncio.run(run())

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        async def execute(client: aiohttp.ClientSession) -> tuple[int, dict[str, str], bytes]:
            async with client.get(path, headers=headers) as response:
                return response.status, dict(response.headers), await response.read()

        result: tuple[int, dict[str, str], bytes] = self.ask(execute)
        return result

    def post(self, path: str, body: bytes | str | dict[str, Any]) -> tuple[int, str]:
        async def execute(client: aiohttp.ClientSession) -> tuple[int, str]:
            data = json.dumps(body) if isinstance(body, dict) else body
            async with client.post(path, data=data) as response:
                return response.status, (await response.text()).strip()

        result: tuple[int, str] = self.ask(execute)
        return result

    def register(self, name: str = "A phone") -> str:
        device = {"kind": "device", "id": "new", "type": "browser", "name": name, "facts": {"cores": 8}}
        status, text = self.post("device", device)
        assert status == 200
        return str(json.loads(text)["id"])


def sample_of(device: str, number: int = 0, **changes: Any) -> dict[str, Any]:
    cell = BenchCell(target="t", device=device, provider="web", threads=2, strategy="plain")
    ran = ExecutionInfo(engine="onnxruntime-web", version="1", provider="web", threads=2)
    answers = [
        PromptResult(
            prompt=name, prompt_tokens=1, prefill_s=0.1, ttft_s=0.1, gaps_s=[], tokens=[1], finish_reason="length"
        )
        for name in ["p"]
    ]
    sample = RoundResult(cell=cell, round=number, created="now", ran=ran, load_s=0.5, answers=answers)
    return {**json.loads(sample.model_dump_json()), **changes}
