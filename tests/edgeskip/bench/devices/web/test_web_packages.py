"""The pinned npm packages, with archives made here. Oracle: sha512 by hashlib, contents by hand."""

from __future__ import annotations

import base64
import hashlib
import io
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from edgeskip.bench.devices.web import packages
from edgeskip.bench.devices.web.packages import HASH_WASM, PACKAGES, TOKENIZERS, WebPackage, read_package, web_packages
from edgeskip.core.errors import EdgeSkipError


def archive(members: dict[str, bytes], *, link: str | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
        if link is not None:
            entry = tarfile.TarInfo(link)
            entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(entry)
    return out.getvalue()


def pinned(data: bytes, files: tuple[str, ...] = ("dist/a.mjs",)) -> WebPackage:
    return WebPackage("made-up", "1.0.0", base64.b64encode(hashlib.sha512(data).digest()).decode(), files)


def test_only_the_files_wanted_are_read(tmp_path: Path) -> None:
    data = archive({"package/dist/a.mjs": b"good", "package/../../evil": b"bad", "/abs": b"bad", "a.mjs": b"other"})
    package = pinned(data)
    (tmp_path / package.archive).write_bytes(data)
    assert read_package(package, tmp_path / package.archive) == {"a.mjs": b"good"}
    assert [path.name for path in tmp_path.iterdir()] == ["made-up-1.0.0.tgz"]


def test_another_byte_is_another_package(tmp_path: Path) -> None:
    data = archive({"package/dist/a.mjs": b"good"})
    package = pinned(data)
    path = tmp_path / package.archive
    path.write_bytes(data + b"\0")
    with pytest.raises(EdgeSkipError, match=r"is not made-up 1\.0\.0 \(its sha512 differs\): delete it"):
        read_package(package, path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"no archive at all", "is damaged"),
        (archive({"package/dist/b.mjs": b""}), r"has no a\.mjs"),
        (archive({}, link="package/dist/a.mjs"), r"has no a\.mjs"),  # a link is not read
        (archive({"package/dist/a.mjs": bytes(10_000)})[:-20], "is damaged|has no"),
    ],
    ids=["garbage", "missing", "link", "cut"],
)
def test_an_archive_that_holds_something_else(tmp_path: Path, data: bytes, message: str) -> None:
    package = pinned(data)
    path = tmp_path / package.archive
    path.write_bytes(data)
    with pytest.raises(EdgeSkipError, match=message):
        read_package(package, path)


def test_a_folder_without_the_archives_says_what_to_put_there(tmp_path: Path) -> None:
    with pytest.raises(EdgeSkipError, match=r"onnxruntime-web-1\.30\.0\.tgz cannot be read: put there what  npm pack"):
        web_packages(tmp_path)


def test_archives_are_named_as_npm_names_them() -> None:
    assert TOKENIZERS.archive == "huggingface-tokenizers-0.2.0.tgz"
    assert HASH_WASM.archive == "hash-wasm-4.13.0.tgz"
    assert len({Path(file).name for package in PACKAGES for file in package.files}) == 8  # one table by base name


def test_without_npm_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESKIP_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EdgeSkipError, match=r"there is no npm .* --web-packages"):
        packages._cached(HASH_WASM)


def fake_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "npm"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("EDGESKIP_CACHE", str(tmp_path / "cache"))


def test_npm_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = archive({"package/dist/a.mjs": b"good"})
    package = pinned(data)
    (tmp_path / "made.tgz").write_bytes(data)
    calls = tmp_path / "calls"
    fake_npm(
        tmp_path,
        monkeypatch,
        f'echo "$@" >> {calls}; while [ $# -gt 1 ]; do shift; done; cp {tmp_path}/made.tgz "$1/x.tgz"',
    )
    path = packages._cached(package)
    assert packages._cached(package) == path
    assert path.read_bytes() == data
    assert calls.read_text().splitlines()[0].startswith("pack made-up@1.0.0 ")
    assert len(calls.read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo npm error code ENOTFOUND >&2; exit 1", r"npm cannot fetch made-up@1\.0\.0 \(npm error code ENOTFOUND\)"),
        ("exit 0", "made no archive"),
        ('while [ $# -gt 1 ]; do shift; done; echo other > "$1/x.tgz"', "sha512 differs"),
        ("sleep 20", "took over 1 s"),
    ],
    ids=["network", "nothing", "another", "hangs"],
)
def test_an_npm_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str) -> None:
    fake_npm(tmp_path, monkeypatch, script)
    monkeypatch.setattr(packages, "NPM_TIMEOUT_S", 1.0)
    package = replace(HASH_WASM, name="made-up", version="1.0.0")
    with pytest.raises(EdgeSkipError, match=message):
        packages._cached(package)
    assert not list((tmp_path / "cache").rglob("*.tgz"))


def test_the_pins_are_those_of_the_registry() -> None:
    """Oracle: what `npm view` says of the pinned versions, where there is a registry."""
    try:
        for package in PACKAGES:
            spec = f"{package.name}@{package.version}"
            done = subprocess.run(
                ["npm", "view", spec, "dist.integrity"], capture_output=True, text=True, timeout=60, check=True
            )
            assert done.stdout.strip() == f"sha512-{package.sha512}"
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"npm cannot be asked: {error}")
