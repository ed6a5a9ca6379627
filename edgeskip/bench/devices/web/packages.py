"""The npm packages that the page runs on: which ones, fetched once, checked, and the switch patched into them.

npm itself fetches them, from wherever it is set up to; a folder of .tgz files does as well.
"""

from __future__ import annotations

import base64
import hashlib
import io
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from edgeskip.core.child_exit import how_it_ended
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import replace_file

NPM_TIMEOUT_S = 600.0
_MOST_BYTES = 1 << 28  # of one unpacked file


@dataclass(frozen=True)
class WebPackage:
    """One package of the registry, pinned: another byte is another package."""

    name: str
    version: str
    sha512: str  # base64, npm's `dist.integrity` without its prefix
    files: tuple[str, ...]  # that the page needs, below the package's root

    @property
    def archive(self) -> str:
        """What `npm pack` calls it."""
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"


ONNXRUNTIME_WEB = WebPackage(
    "onnxruntime-web",
    "1.30.0",
    "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
    (
        "dist/ort.wasm.min.mjs",
        "dist/ort-wasm-simd-threaded.mjs",
        "dist/ort-wasm-simd-threaded.wasm",
        "dist/ort.webgpu.min.mjs",
        "dist/ort-wasm-simd-threaded.asyncify.mjs",
        "dist/ort-wasm-simd-threaded.asyncify.wasm",
    ),
)
TOKENIZERS = WebPackage(
    "@huggingface/tokenizers",
    "0.2.0",
    "LidMHe1FpcSYH4vcSjXooda34pC0M8m1gmDOv7SQi6Iv+ib1zX7J3sHBCC9/3FPCkn2k1b55FneVqMRxrr99pg==",
    ("dist/tokenizers.min.mjs",),
)
HASH_WASM = WebPackage(
    "hash-wasm",
    "4.13.0",
    "GrWl7wsV46fKIXQZB5ebskLZLAmKL6d9RS0fspCxDeQyjoNu1AfTJTMLPOJyfzaQm0ldFiwFN21/w+sE/kgEFQ==",
    ("dist/index.esm.min.js",),
)
PACKAGES = (ONNXRUNTIME_WEB, TOKENIZERS, HASH_WASM)


@cache
def web_packages(folder: Path | None = None) -> Mapping[str, bytes]:
    """Return every file the page needs by its base name.

    From `folder`, which holds the .tgz files; else from the user's cache, where npm puts them the first time.
    Raises EdgeSkipError if they cannot be had or are not what was pinned.
    """
    found: dict[str, bytes] = {}
    for package in PACKAGES:
        path = (folder / package.archive) if folder is not None else _cached(package)
        found |= read_package(package, path)
    return found


def read_package(package: WebPackage, path: Path) -> dict[str, bytes]:
    """Return the wanted files of one archive by base name, after checking its integrity."""
    try:
        data = path.read_bytes()
    except OSError:
        raise EdgeSkipError(
            f"{path} cannot be read: put there what  npm pack {package.name}@{package.version}  makes"
        ) from None
    if not is_intact(package, data):
        raise EdgeSkipError(
            f"{path} is not {package.name} {package.version} (its sha512 differs): delete it and fetch it again"
        )
    return _extract(package, data, path)


def is_intact(package: WebPackage, data: bytes) -> bool:
    """Return whether `data` is the archive that was pinned."""
    return base64.b64encode(hashlib.sha512(data).digest()).decode() == package.sha512


def _extract(package: WebPackage, data: bytes, path: Path) -> dict[str, bytes]:
    """Read members by their exact names into memory: no member of an archive is ever written anywhere."""
    wanted = {f"package/{name}": Path(name).name for name in package.files}
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
            for member in archive:
                if member.name in wanted and member.isreg() and member.size <= _MOST_BYTES:
                    file = archive.extractfile(member)
                    if file is not None:
                        found[wanted[member.name]] = file.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise EdgeSkipError(f"{path} is damaged ({error}): delete it and fetch it again") from None
    missing = sorted(set(wanted.values()) - found.keys())
    if missing:
        raise EdgeSkipError(f"{path} has no {', '.join(missing)}: delete it and fetch it again")
    return found


def _cached(package: WebPackage) -> Path:
    from filelock import FileLock, Timeout

    from edgeskip.models.fetch import cache_folder

    folder = cache_folder() / "bench" / "web-packages"
    path = folder / package.archive
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(folder / ".lock", timeout=NPM_TIMEOUT_S):
                if not path.exists():
                    _fetch(package, path)
        except Timeout:
            raise EdgeSkipError(f"another process has been fetching into {folder} for too long: end it") from None
    return path


def _fetch(package: WebPackage, path: Path) -> None:
    spec = f"{package.name}@{package.version}"
    npm = shutil.which("npm")
    if npm is None:
        raise EdgeSkipError(
            f"the page needs {spec}, and there is no npm to fetch it: install Node.js, or run  npm pack {spec}  on "
            "another machine and give the folder of the .tgz files with  --web-packages"
        )
    with tempfile.TemporaryDirectory() as folder:
        _run_npm([npm, "pack", spec, "--ignore-scripts", "--silent", "--pack-destination", folder], folder, spec)
        made = list(Path(folder).glob("*.tgz"))
        if len(made) != 1:
            raise EdgeSkipError(f"npm pack {spec} made no archive: run it by hand and use  --web-packages")
        data = made[0].read_bytes()
    if not is_intact(package, data):
        raise EdgeSkipError(f"what npm fetched is not {spec} (its sha512 differs): check the registry npm is set up to")
    replace_file(path, data)


def _run_npm(command: Sequence[str], folder: str, spec: str) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=NPM_TIMEOUT_S, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise EdgeSkipError(f"npm pack {spec} took over {NPM_TIMEOUT_S:.0f} s: check the network") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line.lower()] or done.stderr.splitlines()
        reason = lines[0].strip() if lines else f"it {how_it_ended(done.returncode)}"
        raise EdgeSkipError(f"npm cannot fetch {spec} ({reason[:200]}): check the network, or use  --web-packages")


WASM_SWITCH = "ORT_GQA_DISABLE_FLASH_ATTENTION"
"""Environment variable that ONNX Runtime reads whenever it opens a model: 1 = no tiles.

GroupQueryAttention works on tiles that fit the L2 cache when there is more than one new token. WebAssembly knows no L2
cache, so a tile is one token by one there, and attention takes nine times as long as without tiles (onnxruntime 1.30;
its issues 29613 and 33196): more than half of the time of a prompt of 512 tokens.
"""
_ENVIRONMENT = b'PATH:"/",'  # in the list of what Emscripten's getenv knows; once in each file of the pinned package


def patch_environment(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the page's files by base name, the switch written into onnxruntime's scripts: nothing asks for it there.

    Raises:
        EdgeSkipError: If a script has no place for it.
    """
    found = dict(files)
    for name, data in files.items():
        if name.startswith("ort-wasm-") and name.endswith(".mjs"):
            if data.count(_ENVIRONMENT) != 1:
                raise EdgeSkipError(f"{name} is not of the onnxruntime-web that EdgeSkip pins: it has no environment")
            found[name] = data.replace(_ENVIRONMENT, _ENVIRONMENT + f'{WASM_SWITCH}:"1",'.encode())
    return found
