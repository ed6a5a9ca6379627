"""Files and folders that appear whole or not at all. Oracle: the folder's listing before and after."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest

from edgeskip.errors import EdgeSkipError
from edgeskip.files import replace_file, sha256_of, staged_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_sha256(tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    (tmp_path / "a").write_bytes(content)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_replace_file_makes_folders_and_leaves_only_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    replace_file(path, b"one")
    replace_file(path, b"two")
    assert path.read_bytes() == b"two"
    assert names(path.parent) == ["a.json"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_replace_file_that_fails_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    replace_file(path, b"old")

    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space") as info:
        replace_file(path, b"new")
    assert info.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.json"]


def test_staged_folder_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out"
    with staged_folder(target, overwrite=False) as folder:
        (folder / "a").write_text("a")
        assert not target.exists()
    assert names(target.parent) == ["out"]
    assert names(target) == ["a"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(2)])
def test_staged_folder_that_fails_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    def fill() -> None:
        with staged_folder(tmp_path / "out", overwrite=False) as folder:
            (folder / "half").write_text("half")
            raise error

    with pytest.raises(type(error)):
        fill()
    assert names(tmp_path) == []


def test_staged_folder_refuses_what_exists(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "mine").write_text("mine")
    with pytest.raises(EdgeSkipError, match="--overwrite"), staged_folder(target, overwrite=False):
        pytest.fail("the block must not run")
    assert names(target) == ["mine"]
    assert names(tmp_path) == ["out"]


def test_staged_folder_never_replaces_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(EdgeSkipError, match="is a file"), staged_folder(tmp_path / "out", overwrite=True):
        pytest.fail("the block must not run")
    assert (tmp_path / "out").read_text() == "mine"


def test_staged_folder_overwrites_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("old")
    with staged_folder(target, overwrite=True) as folder:
        (folder / "new").write_text("new")
        assert names(target) == ["old"]
    assert names(target) == ["new"]
    assert names(tmp_path) == ["out"]


def test_staged_folder_that_fails_to_overwrite_keeps_the_old(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(ValueError, match="no"), staged_folder(target, overwrite=True):
        raise ValueError("no")
    assert names(target) == ["old"]
    assert names(tmp_path) == ["out"]


def test_staged_folder_that_cannot_take_the_place_puts_the_old_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of two renames fails."""
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("old")
    real = Path.rename

    def rename(self: Path, to: Path) -> Path:
        if (self / "new").exists():
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, to)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(PermissionError), staged_folder(target, overwrite=True) as folder:
        (folder / "new").write_text("new")
    assert names(target) == ["old"]
    assert names(tmp_path) == ["out"]
