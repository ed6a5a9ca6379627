"""Files and folders that appear whole or not at all. Oracle: the folder's listing before and after."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from pathlib import Path

import pytest

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import refuse_file, replace_file, sha256_of, staged_files, staged_folder


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


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(2)])
@pytest.mark.parametrize("kind", ["folder", "files"])
def test_folders_made_on_the_way_go_as_well(tmp_path: Path, error: BaseException, kind: str) -> None:
    target = tmp_path / "new" / "deep" / "out"

    def fill() -> None:
        if kind == "folder":
            with staged_folder(target, overwrite=False):
                raise error
        with staged_files([target], overwrite=False) as (staged,):
            staged.write_text("half")
            raise error

    with pytest.raises(type(error)):
        fill()
    assert names(tmp_path) == []


def test_a_folder_made_on_the_way_stays_where_someone_uses_it(tmp_path: Path) -> None:
    def fill() -> None:
        with staged_files([tmp_path / "new" / "deep" / "a"], overwrite=False):
            (tmp_path / "new" / "mine").write_text("mine")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fill()
    assert names(tmp_path / "new") == ["mine"]


def test_staged_files_appear_together_when_the_block_ends(tmp_path: Path) -> None:
    targets = [tmp_path / "new" / name for name in "ab"]
    with staged_files(targets, overwrite=False) as staged:
        assert [path.name for path in staged] == ["a", "b"]
        for path in staged:
            path.write_text(path.name * 3)
            path.chmod(0o600)
        (staged[0].parent / "scratch").write_text("of the work")
        assert not any(target.exists() for target in targets)
    assert names(tmp_path / "new") == ["a", "b"]
    assert [target.read_text() for target in targets] == ["aaa", "bbb"]
    assert {stat.S_IMODE(target.stat().st_mode) for target in targets} == {0o644}


def test_staged_files_refuse_what_exists(tmp_path: Path) -> None:
    """The second of two; a folder is refused whatever is asked for."""
    (tmp_path / "b").write_text("mine")
    (tmp_path / "folder").mkdir()
    for last, overwrite, told in (("b", False, "add --overwrite"), ("folder", True, "is a folder, not a file")):
        with (
            pytest.raises(EdgeSkipError, match=f"{last} .*{told}|{last} {told}"),
            staged_files([tmp_path / "a", tmp_path / last], overwrite=overwrite),
        ):
            pytest.fail("the block must not run")
    assert names(tmp_path) == ["b", "folder"]
    assert (tmp_path / "b").read_text() == "mine"


def test_staged_files_overwrite(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with staged_files([tmp_path / "a", tmp_path / "b"], overwrite=True) as staged:
        for path in staged:
            path.write_text("new")
        assert (tmp_path / "a").read_text() == "old"
    assert [(tmp_path / name).read_text() for name in names(tmp_path)] == ["new", "new"]


def write_two(folder: Path) -> None:
    with staged_files([folder / "a", folder / "b"], overwrite=True) as staged:
        for path in staged:
            path.write_text("new")


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.parametrize("there", ["", "a", "b", "ab"])
@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), KeyboardInterrupt()])
def test_both_files_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str, error: BaseException) -> None:
    """The second rename fails after the first."""
    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if target.name == "b":
            raise error
        return real(self, target)

    for name in there:
        (tmp_path / name).write_text("old")
    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(type(error)):
        write_two(tmp_path)
    assert contents(tmp_path) == dict.fromkeys(there, "old")


@pytest.mark.parametrize("there", ["", "ab"])
@pytest.mark.parametrize("last", ["a", "b"])
def test_a_ctrl_c_just_after_a_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str, last: str) -> None:
    """After the first: none. After the last both are there, and nothing is taken back."""
    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        real(self, target)
        if target.name == last:
            raise KeyboardInterrupt
        return target

    for name in there:
        (tmp_path / name).write_text("old")
    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        write_two(tmp_path)
    assert contents(tmp_path) == (dict.fromkeys(there, "old") if last == "a" else {"a": "new", "b": "new"})


def test_a_file_that_was_not_written(tmp_path: Path) -> None:
    with (
        pytest.raises(FileNotFoundError) as info,
        staged_files([tmp_path / "a", tmp_path / "b"], overwrite=True) as staged,
    ):
        staged[0].write_text("new")
    assert info.value.filename == str(tmp_path / "a")
    assert names(tmp_path) == []


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    """A write to an open file fails without a name; another program's error keeps its own."""
    with pytest.raises(OSError, match="No space") as info, staged_files([tmp_path / "a"], overwrite=False):
        raise OSError(28, "No space left on device")
    assert info.value.filename == str(tmp_path / "a")
    with pytest.raises(OSError, match="No such") as info, staged_files([tmp_path / "a"], overwrite=False):
        raise OSError(2, "No such file", "/elsewhere")
    assert info.value.filename == "/elsewhere"


def test_numpy_on_a_full_disk_names_the_file(tmp_path: Path) -> None:
    """Its error has no number and no name."""
    with pytest.raises(OSError, match="No space left") as info, staged_folder(tmp_path / "a", overwrite=False):
        raise OSError("8192 requested and 512 written")
    assert (info.value.errno, info.value.filename) == (28, str(tmp_path / "a"))


def test_messages_name_the_target_and_not_the_staging_folder(tmp_path: Path) -> None:
    """What an engine says of a file it was given is read when the temporary folder is gone."""
    with (
        pytest.raises(EdgeSkipError, match=rf"^{re.escape(str(tmp_path / 'out'))}/model\.onnx is too large: x$"),
        staged_folder(tmp_path / "out", overwrite=False) as staging,
    ):
        raise EdgeSkipError(f"{staging / 'model.onnx'} is too large: x")
    with (
        pytest.raises(EdgeSkipError, match=rf"^cannot open {re.escape(str(tmp_path / 'm.gguf'))}: x$"),
        staged_files([tmp_path / "m.gguf"], overwrite=False) as staged,
    ):
        raise EdgeSkipError(f"cannot open {staged[0].resolve()}: x")


def test_the_option_that_named_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.html").touch()
    with pytest.raises(EdgeSkipError, match=r"a\.html exists: choose another --report$"):
        refuse_file(tmp_path / "a.html", overwrite=False, option="--report", replaceable=False)
    with pytest.raises(EdgeSkipError, match=r"is a folder, not a file: choose another --json$"):
        refuse_file(tmp_path, overwrite=True, option="--json")
