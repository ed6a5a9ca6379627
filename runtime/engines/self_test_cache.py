"""Results of self-tests, kept until the tested files change: a look-up costs a `stat` of each file.

Hashes decide; sizes and times only save reading the files again. A damaged record counts as none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgeskip.core.files import replace_file, sha256_of
from edgeskip.core.paths import cache_folder

Failures = dict[str, str]
"""What went wrong, by case; {} = nothing did."""


@dataclass(frozen=True)
class SelfTestSubject:
    """What is tested: `files`, and `about`, all else that the result depends on (versions, processor)."""

    name: str
    files: tuple[Path, ...]
    about: str

    def recall(self) -> Failures | None:
        """Return what was found the last time; None if it was never tested, or has changed since."""
        path = self._path()
        try:
            note = json.loads(path.read_text(encoding="utf-8"))
            stats, digest, answer = note["stats"], note["sha256"], note["answer"]
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return None
        texts = isinstance(answer, dict) and all(isinstance(text, str) for text in answer.values())
        if not texts or not isinstance(digest, str):
            return None
        try:
            if stats != self._stats():
                if digest != self._digest():
                    return None
                self.remember(answer)
        except OSError:
            return None
        return Failures(answer)

    def remember(self, answer: Failures) -> None:
        """Keep the answer; without a cache folder that can be written, the next process tests again."""
        with suppress(OSError):
            note = {"stats": self._stats(), "sha256": self._digest(), "answer": answer}
            replace_file(self._path(), json.dumps(note).encode())

    def _path(self) -> Path:
        key = hashlib.sha256("\0".join([self.about, *map(str, self.files)]).encode()).hexdigest()[:24]
        return cache_folder() / "self-tests" / f"{self.name}-{key}.json"

    def _stats(self) -> list[list[int]]:
        found = [path.stat() for path in self.files]
        return [[stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns] for stat in found]

    def _digest(self) -> str:
        return hashlib.sha256("".join(sha256_of(path) for path in self.files).encode()).hexdigest()


def files_in(folder: Path, patterns: Sequence[str]) -> tuple[Path, ...]:
    """Return the files of `folder` that match one of the patterns, sorted."""
    return tuple(sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}))
