"""Who may write to a run's folder. Oracle: the folder's listing and bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeskip.core.errors import EdgeSkipError
from edgeskip.training.run_folder import close_folder, open_folder

SETTINGS = {"model": "m", "optimisation": {"seed": 0}, "data": [1]}


def listing(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_new_folder_and_the_same_run_again(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "run"
    open_folder(folder, SETTINGS, overwrite=False)
    (folder / "losses.csv").write_text("kept")
    open_folder(folder, SETTINGS, overwrite=False)
    assert listing(folder) == {"run.json": (json.dumps(SETTINGS, indent=2) + "\n").encode(), "losses.csv": b"kept"}


def test_another_run(tmp_path: Path) -> None:
    open_folder(tmp_path, SETTINGS, overwrite=False)
    before = listing(tmp_path)
    with pytest.raises(EdgeSkipError, match="another data, more:"):
        open_folder(tmp_path, SETTINGS | {"data": [2], "more": 1}, overwrite=False)
    assert listing(tmp_path) == before
    open_folder(tmp_path, SETTINGS | {"data": [2]}, overwrite=True)
    assert json.loads((tmp_path / "run.json").read_text())["data"] == [2]


def test_a_finished_run(tmp_path: Path) -> None:
    open_folder(tmp_path, SETTINGS, overwrite=False)
    (tmp_path / "checkpoint.safetensors").write_text("state")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "top.npy").write_text("large")
    (tmp_path / "result").write_text("kept")
    close_folder(tmp_path, {"settings": SETTINGS})
    assert set(listing(tmp_path)) == {"train.json", "result"}
    before = listing(tmp_path)
    with pytest.raises(EdgeSkipError, match="finished run"):
        open_folder(tmp_path, SETTINGS, overwrite=False)
    assert listing(tmp_path) == before
    open_folder(tmp_path, SETTINGS, overwrite=True)
    assert set(listing(tmp_path)) == {"run.json"}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["letter.txt", "run.json", "train.json"])
def test_a_folder_of_something_else(tmp_path: Path, overwrite: bool, name: str) -> None:
    """Also where a file has the name of one of ours."""
    (tmp_path / name).write_text('{"scripts": {}}')
    with pytest.raises(EdgeSkipError, match="not a run of edgeskip train"):
        open_folder(tmp_path, SETTINGS, overwrite=overwrite)
    assert listing(tmp_path) == {name: b'{"scripts": {}}'}


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(EdgeSkipError, match="is a file"):
        open_folder(tmp_path / "file", SETTINGS, overwrite=True)


@pytest.mark.parametrize("given", ["result.json", "."])
def test_what_is_trained_is_not_removed(tmp_path: Path, given: str) -> None:
    folder = tmp_path / "run"
    open_folder(folder, SETTINGS, overwrite=False)
    (folder / "result.json").write_text("{}")
    close_folder(folder, {"settings": SETTINGS})
    before = listing(folder)
    with pytest.raises(EdgeSkipError, match="holds what is to be trained"):
        open_folder(folder, SETTINGS, overwrite=True, inputs=[tmp_path, folder / given])
    assert listing(folder) == before
