"""The README keeps up with the code. Oracle: the files in the checkout and the options the verbs declare."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_python_example_uses_what_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs against a stand-in session that has the real one's signatures and no model."""
    import inspect

    import edgeskip

    example = next(block for language, block in BLOCKS if language == "python")
    called: list[str] = []

    def check(name: str) -> Callable[..., Any]:
        signature = inspect.signature(getattr(edgeskip.Session, name))

        def call(*arguments: Any, **options: Any) -> Any:
            signature.bind(None, *arguments, **options)
            called.append(name)
            return Answer() if name == "generate" else []

        return call

    class Answer:
        text = ""
        stats = type("Stats", (), {"decode_tokens_per_s": 0.0})

    class StandIn:
        label, cost = "lossy-skip", None
        generate, stream, logits, encode = map(staticmethod, map(check, ("generate", "stream", "logits", "encode")))

        def __enter__(self) -> StandIn:
            return self

        def __exit__(self, *exception: object) -> None:
            pass

    monkeypatch.setattr(edgeskip, "load", lambda folder: StandIn(), raising=False)
    exec(compile(example, "README.md", "exec"), {})
    assert called == ["generate", "stream", "encode", "logits"]
