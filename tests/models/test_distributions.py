"""What the two wheels hold. Oracle: the archives that setuptools builds from this checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edgeskip.core.errors import EdgeSkipError
from edgeskip.profiles import presets as profiles

CHECKOUT = Path(__file__).parents[2]
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
BASE_BYTES = 3_000_000  # "the base install is the runtime alone"
PRESETS_BYTES = 48_000_000  # of all presets together; see CONTRIBUTING, "Presets"


def built(source: Path, folder: Path) -> zipfile.ZipFile:
    """The wheel of a copy of `source`, so that the checkout stays as it is."""
    copy = folder / "copy"
    ignored = shutil.ignore_patterns(".*", "build", "dist", "demo", "*.egg-info", "__pycache__", "tests", "docs")
    shutil.copytree(source, copy, ignore=ignored)
    command = [sys.executable, "-c", BUILD, str(folder)]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=True)
    return zipfile.ZipFile(folder / done.stdout.splitlines()[-1])


def test_the_base_wheel_is_light_and_the_presets_wheel_has_them_all(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "presets").mkdir()
    with (
        built(CHECKOUT, tmp_path / "base") as base,
        built(CHECKOUT / "models/presets", tmp_path / "presets") as presets,
    ):
        assert base.filename is not None
        assert Path(base.filename).stat().st_size <= BASE_BYTES
        held = base.namelist()
        assert "edgeskip/profiles/presets.py" in held
        assert "edgeskip/bench/devices/web/page/index.html" in held
        assert not [name for name in held if name.endswith(".safetensors")]
        here = {path.name for path in (CHECKOUT / "models/presets").glob("smollm2*")}
        assert here == {Path(name).name for name in presets.namelist() if "smollm2" in name}
        assert sum(entry.file_size for entry in presets.infolist()) <= PRESETS_BYTES


def test_the_presets_of_a_checkout_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert profiles.presets_folder() == CHECKOUT / "models/presets"


def test_an_install_without_a_checkout_finds_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the folder that an installed edgeskip_presets has."""
    package = tmp_path / "site" / "edgeskip_presets"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "some-model.json").write_text("{}")
    monkeypatch.setattr(profiles, "_checkout_presets", lambda: None)
    assert profiles.ready_profiles() == {}
    with pytest.raises(EdgeSkipError, match=r"not installed: pip install 'edgeskip\[presets\]'"):
        profiles.ready_profile("some-model")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert profiles.ready_profile("some-model") == package / "some-model.json"
    with pytest.raises(EdgeSkipError, match="ships with some-model"):
        profiles.ready_profile("other")
