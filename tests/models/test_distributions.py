"""What the distributions contain. Oracle: the files of this checkout, and PyPI's rules for metadata (`packaging`)."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.metadata import Metadata

from edgeskip.core.errors import EdgeSkipError
from edgeskip.profiles import presets as profiles

CHECKOUT = Path(__file__).parents[2]
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"
BASE_BYTES = 3_000_000  # "the base install is the runtime alone"
PRESETS_BYTES = 48_000_000  # of all presets together; see CONTRIBUTING, "Presets"
# Where the packages' folders are in the checkout → where they are installed.
FOLDERS = {
    "edgeskip": "edgeskip",
    "exporters": "edgeskip/exporters",
    "runtime": "edgeskip/runtime",
    "models": "edgeskip/models",
}
NOT_INSTALLED = ("models/presets/",)  # a distribution of its own
PYTHONS = ("3.11", "3.12", "3.13", "3.14")


def package_files() -> dict[str, str]:
    """Each file that belongs into the wheel: its path in the checkout → its path in the wheel."""
    found = {}
    for folder, package in FOLDERS.items():
        for path in (CHECKOUT / folder).rglob("*"):
            name = path.relative_to(CHECKOUT).as_posix()
            linked = any(parent.is_symlink() for parent in [path, *path.parents])
            if path.is_file() and not linked and "__pycache__" not in name and not name.startswith(NOT_INSTALLED):
                found[name] = package + name.removeprefix(folder)
    return found


def build(kind: str, source: Path, folder: Path) -> Path:
    """Build the "wheel" or "sdist" of a copy of `source`, so that the checkout stays as it is."""
    copy = folder / "copy"
    ignored = shutil.ignore_patterns(".*", "build", "dist", "demo", "*.egg-info", "__pycache__", "node_modules")
    shutil.copytree(source, copy, ignore=ignored, symlinks=True)
    command = [sys.executable, "-c", BUILD, f"build_{kind}", str(folder)]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=True)
    return folder / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    with zipfile.ZipFile(build("wheel", CHECKOUT, tmp_path_factory.mktemp("wheel"))) as archive:
        yield archive


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", CHECKOUT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def presets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    with zipfile.ZipFile(build("wheel", CHECKOUT / "models/presets", tmp_path_factory.mktemp("presets"))) as archive:
        yield archive


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    expected = set(package_files().values())
    assert sorted(held - expected) == []
    assert sorted(expected - held) == []
    for needed in ("py.typed", "bench/devices/web/page/index.html", "bench/report/page.css", "calibration/text.txt"):
        assert f"edgeskip/{needed}" in held
    assert wheel.filename is not None
    assert Path(wheel.filename).stat().st_size <= BASE_BYTES


def test_the_sdist_holds_the_packages_and_what_builds_them(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames() if archive.getmember(name).isreg()}
    made = {"PKG-INFO", "setup.cfg"} | {name for name in held if name.startswith("edgeskip.egg-info/")}
    assert held - made == package_files().keys() | {"pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"}


def test_the_wheel_of_the_sdist_is_that_of_the_checkout(sdist: Path, wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (tmp_path / "out").mkdir()
    source = tmp_path / sdist.name.removesuffix(".tar.gz")
    with zipfile.ZipFile(build("wheel", source, tmp_path / "out")) as other:
        assert sorted(other.namelist()) == sorted(wheel.namelist())


def test_the_metadata_is_what_an_index_accepts(wheel: zipfile.ZipFile, presets: zipfile.ZipFile) -> None:
    for archive in (wheel, presets):
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Metadata.from_email(archive.read(name), validate=True)
        assert metadata.description
        assert metadata.description_content_type == "text/markdown"
        assert metadata.license_expression == "Apache-2.0"
        assert metadata.project_urls
        assert all(url.startswith("https://github.com/edgeskip/") for url in metadata.project_urls.values())
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = Metadata.from_email(wheel.read(name), validate=True)
    versions = [line.rpartition(" ")[2] for line in metadata.classifiers or () if " :: 3." in line]
    assert tuple(versions) == PYTHONS
    assert metadata.requires_python is not None
    assert all(version in metadata.requires_python for version in PYTHONS)
    assert "3.10" not in metadata.requires_python


def test_ci_tests_every_python_that_the_metadata_names() -> None:
    workflow = (CHECKOUT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    listed = ", ".join(f'"{version}"' for version in PYTHONS)
    assert f"python: [{listed}]" in workflow


def test_the_presets_wheel_has_every_preset(presets: zipfile.ZipFile) -> None:
    here = {path.name for path in (CHECKOUT / "models/presets").glob("smollm2*")}
    assert here == {Path(name).name for name in presets.namelist() if "smollm2" in name}
    assert sum(entry.file_size for entry in presets.infolist()) <= PRESETS_BYTES


def test_the_presets_of_a_checkout_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert profiles.presets_folder().resolve() == CHECKOUT / "models/presets"  # edgeskip/models is a link


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
