"""The fenced blocks of the documents that a reader may copy, and what stands above those that no test runs."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
        *(path for folder in ("docs", "models", "examples") for path in (ROOT / folder).glob("**/*.md")),
    ]
)
_BLOCK = re.compile(r"(?:^<!-- not run: (?P<reason>.+?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
_HEADING = re.compile(r"^## (.+)$", re.M)
RUNNABLE = ("sh", "python")


@dataclass(frozen=True)
class Block:
    """A fenced block; `reason` says why no test runs it, None if one must."""

    document: str
    line: int
    section: str
    language: str
    text: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"

    @property
    def commands(self) -> list[list[str]]:
        """The `edgeskip` commands of a shell block, in words."""
        lines = self.text.replace("\\\n", " ").splitlines() if self.language == "sh" else []
        return [shlex.split(re.sub(r"\s#.*", "", line)) for line in lines if line.startswith("edgeskip ")]


def blocks_of(path: Path) -> list[Block]:
    """Every block of a document, in order."""
    source = path.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(source):
        headings = [heading[1] for heading in _HEADING.finditer(source, 0, match.start())]
        found.append(
            Block(
                document=path.relative_to(ROOT).as_posix(),
                line=source.count("\n", 0, match.start("language")) + 1,
                section=headings[-1] if headings else "",
                language=match["language"],
                text=match["text"],
                reason=match["reason"],
            )
        )
    return found


def every_block() -> list[Block]:
    return [block for path in DOCUMENTS for block in blocks_of(path)]


def to_run(document: str) -> list[Block]:
    """The blocks of a document that a reader can run anywhere, in order."""
    return [block for block in blocks_of(ROOT / document) if block.language in RUNNABLE and block.reason is None]
