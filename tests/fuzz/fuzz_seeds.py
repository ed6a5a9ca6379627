"""Good files to damage: artifacts, profiles and logs of tiny models, made as the project makes them."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import edgeskip  # before the folders below are on the path: tests/edgeskip is there too

assert edgeskip.__file__
for _folder in ("..", "../edgeskip", "../edgeskip/bench", "../edgeskip/evaluation", "../runtime"):
    sys.path.append(str((Path(__file__).parent / _folder).resolve()))

TEXT = "The quick brown fox reads tokens, skips what it does not need, and says so. " * 30
SKIP = "attn.1,ffn.2"


def cli(*arguments: str | Path) -> None:
    """The command in this process, as its entry point runs it, errors raised."""
    from edgeskip.cli.main import app

    code = app([str(argument) for argument in arguments], standalone_mode=False, prog_name="edgeskip")
    if code:
        raise SystemExit(code)


def checkpoint(folder: Path) -> Path:
    from tiny_models import tiny_checkpoint

    return tiny_checkpoint("llama", folder)


def profile(folder: Path, *, exits: bool = False, lora: bool = False, skip: tuple[str, ...] = ()) -> Path:
    """`folder/hf`, a model, and `folder/tiny.json`, a profile of it, with its files beside it."""
    from random_profiles import random_profile

    from edgeskip.models.source import open_model
    from edgeskip.profiles.schema import ExitStatistics, write_profile
    from edgeskip.profiles.vectors import pack_vectors

    hf = checkpoint(folder / "hf")
    path = folder / "tiny.json"
    reference = str(hf)
    if lora:
        from tiny_lora import tiny_peft_folder

        reference = str(tiny_peft_folder(hf, folder / "peft"))
    source = open_model(reference)
    found, vectors = random_profile(source, path, skip=skip)
    if exits:
        import numpy as np
        from exit_adapters import random_adapter

        statistics = [
            ExitStatistics(layer=2, tokens=99, plain_agreement=0.25, ridge_agreement=0.5),
            ExitStatistics(layer=3, tokens=99, plain_agreement=0.25, adapter="map", adapter_agreement=0.5),
        ]
        vectors = replace(
            vectors, exit_maps={2: np.eye(64, dtype=np.float32)}, exit_adapters={3: random_adapter(source, "map")},
            token_counts=np.arange(320),
        )  # fmt: skip
        record, packed = pack_vectors(vectors, path)
        found = found.model_copy(update={"exits": statistics, "vectors": record})
        write_profile(found, path, packed, source.stored_lora)
    _relative(path, folder)
    return path


def _relative(path: Path, folder: Path) -> None:
    """Copies of the folder find the model in themselves: readers run in it."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if Path(content["model"]["source"]).is_absolute():
        content["model"]["source"] = str(Path(content["model"]["source"]).relative_to(folder))
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")


def artifact(folder: Path, kind: str = "whole", precision: str = "fp32") -> None:
    """An artifact folder right in `folder`: `whole`, `exits` with a trimmed vocabulary, `skip-plan` or `online`."""
    import shutil
    import tempfile

    import numpy as np
    from exports import export_onnx
    from random_profiles import random_profile

    from edgeskip.exporters.onnx.formats import weight_format
    from edgeskip.exporters.options import DraftRequest, ExportPolicy
    from edgeskip.models.source import open_model
    from edgeskip.profiles.schema import ExitStatistics

    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        source = open_model(str(checkpoint(work / "hf")))
        skip = ("attn.1", "ffn.2") if kind in ("skip-plan", "whole") else ()
        found, vectors = random_profile(source, work / "p.json", skip=skip)
        if kind == "exits":
            exits = [ExitStatistics(layer=n, tokens=99, plain_agreement=0.25, ridge_agreement=0.5) for n in (1, 3)]
            maps = {n: np.eye(64, dtype=np.float32) for n in (1, 3)}
            vectors = replace(vectors, exit_maps=maps, token_counts=np.arange(320))
            found = found.model_copy(update={"exits": exits})
        draft = {
            "exits": DraftRequest("early-exit", (1, 3), 64), "skip-plan": DraftRequest("skip-plan"),
        }.get(kind)  # fmt: skip
        policy = ExportPolicy(check=False)
        export_onnx(source, found, vectors, weight_format(precision), work / "out", draft=draft, policy=policy)
        shutil.copytree(work / "out", folder, dirs_exist_ok=True)


def sign(random: Random, folder: Path) -> None:
    """The manifest names the files as they now are, more often than not: damage behind a hash is met too."""
    from edgeskip.core.files import sha256_of

    path = folder / "edgeskip.json"
    if random.random() < 0.25:
        return
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        files = content["files"]
        for name in files:
            if Path(name).name == name and (folder / name).is_file():
                files[name] = sha256_of(folder / name)
        path.write_text(json.dumps(content), encoding="utf-8")
    except (ValueError, LookupError, TypeError, OSError, RecursionError):
        pass


def sign_profile(random: Random, folder: Path) -> None:
    """The same of the files beside a profile."""
    from edgeskip.core.files import sha256_of

    path = folder / "tiny.json"
    if random.random() < 0.25:
        return
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        for record in (content["vectors"], content["model"].get("adapter") or {}):
            if "file" in record and (folder / record["file"]).is_file():
                record["sha256"] = sha256_of(folder / record["file"])
        path.write_text(json.dumps(content), encoding="utf-8")
    except (ValueError, LookupError, TypeError, AttributeError, OSError, RecursionError):
        pass
