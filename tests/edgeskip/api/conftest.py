"""A folder with a tiny model and a text, which the tests of the Python API work in."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_models import tiny_checkpoint

TEXT = "The quick brown fox jumps over the lazy dog. Foxes do not read; models read tokens and write tokens. "


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`model` and `corpus.txt`, in the current folder while a module's tests run."""
    folder, before = tmp_path_factory.mktemp("home"), Path.cwd()
    tiny_checkpoint("llama", folder / "model")
    (folder / "corpus.txt").write_text(TEXT * 60, encoding="utf-8")
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.fixture
def work(home: Path) -> Iterator[Path]:
    """An empty folder beside the model."""
    folder = home / "work"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)
