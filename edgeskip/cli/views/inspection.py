"""What `edgeskip inspect` was given and the facts about it, as plain data; `inspect_tables` prints them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgeskip.artifacts.location import artifact_at
from edgeskip.artifacts.manifest import Manifest, read_manifest
from edgeskip.artifacts.path_errors import MANIFEST_NAME
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import sha256_of
from edgeskip.core.paths import named_path
from edgeskip.core.plan_cost import PlanCost, cost_of
from edgeskip.planning.planner import resolve
from edgeskip.profiles.schema import Profile, locate_profile, read_adapter, read_profile
from edgeskip.profiles.vectors import read_vectors

if TYPE_CHECKING:
    from edgeskip.artifacts.gguf.inspection import GgufReport

FileState = Literal["ok", "not checked", "damaged", "missing", "not listed"]


@dataclass(frozen=True)
class ArtifactFile:
    """One file of an artifact folder; `state` compares its sha256 with the manifest's."""

    name: str
    size_bytes: int
    state: FileState


@dataclass(frozen=True)
class LoraSummary:
    """The LoRA beside a profile; `ranks`: those that occur, ascending."""

    file: str
    size_bytes: int
    ranks: tuple[int, ...]
    num_layers: int  # linear layers that it changes
    num_parameters: int


@dataclass(frozen=True)
class ProfileReport:
    """A profile and whether the files beside it are the ones it names; `problem` is a line for the user."""

    path: Path
    profile: Profile
    problem: str | None
    lora: LoraSummary | None = None
    cost: PlanCost | None = None  # of the plan as it is now

    def as_json(self) -> dict[str, Any]:
        plan = self.profile.plan
        return {
            "kind": "profile",
            "path": str(self.path),
            "label": "lossy-skip" if plan and plan.skip else "dense",
            "problem": self.problem,
            "lora": asdict(self.lora) if self.lora else None,
            "cost": self.cost.model_dump(mode="json") if self.cost else None,
            **self.profile.model_dump(mode="json"),
        }


@dataclass(frozen=True)
class ArtifactReport:
    """An artifact's manifest and the state of its files; `problem` is a line for the user."""

    path: Path
    manifest: Manifest
    files: tuple[ArtifactFile, ...]
    problem: str | None

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    def as_json(self) -> dict[str, Any]:
        return {
            "kind": "artifact",
            "path": str(self.path),
            "size_bytes": self.size_bytes,
            "problem": self.problem,
            **self.manifest.model_dump(mode="json"),
            "files": [
                {
                    "name": file.name,
                    "size_bytes": file.size_bytes,
                    "state": file.state,
                    "sha256": self.manifest.files.get(file.name),
                }
                for file in self.files
            ],
        }


def inspect_path(reference: str, *, verify: bool = True) -> ProfileReport | ArtifactReport | GgufReport:
    """Return the facts about an artifact folder, a .gguf file, a profile or a preset.

    Args:
        reference: Its path, or the preset's name.
        verify: Read every file of an artifact to compare its sha256.

    Raises:
        EdgeSkipError: If `reference` is none of these, is damaged, or its JSON is not valid. Files of an artifact that
            are damaged or missing are reported instead.
    """
    path = named_path(reference)
    if path.is_dir():
        path = artifact_at(path)
    if path.is_dir():
        return _inspect_artifact(path, verify=verify)
    if path.name == MANIFEST_NAME and path.is_file():
        return _inspect_artifact(path.parent, verify=verify)
    if path.suffix.lower() == ".gguf":
        from edgeskip.artifacts.gguf.inspection import inspect_gguf

        return inspect_gguf(path)
    path = locate_profile(reference)
    profile = read_profile(path)
    try:
        plan = resolve(profile, read_vectors(profile, path))
        lora = _lora_of(profile, path)
    except EdgeSkipError as error:
        return ProfileReport(path, profile, str(error))
    recorded = profile.plan.cost if profile.plan else None
    return ProfileReport(path, profile, None, lora, cost_of(recorded, profile.model.fingerprint, plan))


def _lora_of(profile: Profile, path: Path) -> LoraSummary | None:
    from edgeskip.models.readers.lora import unpack_lora

    data, record = read_adapter(profile, path), profile.model.adapter
    if data is None or record is None:
        return None
    lora = unpack_lora(data, str(path.parent / record.file))
    return LoraSummary(record.file, len(data), lora.ranks, len(lora.weights), lora.num_parameters)


def _inspect_artifact(folder: Path, *, verify: bool) -> ArtifactReport:
    manifest = read_manifest(folder)
    files: list[ArtifactFile] = []
    for name, digest in manifest.files.items():
        if Path(name).name != name:
            raise EdgeSkipError(
                f"{folder / MANIFEST_NAME} names {name!r}, outside its folder; do not use this artifact"
            )
        file = folder / name
        if not file.is_file():
            files.append(ArtifactFile(name, 0, "missing"))
            continue
        state: FileState = "not checked"
        if verify:
            state = "ok" if sha256_of(file) == digest else "damaged"
        files.append(ArtifactFile(name, file.stat().st_size, state))
    files += [
        ArtifactFile(file.name, file.stat().st_size, "not listed")
        for file in sorted(folder.iterdir())
        if file.name not in manifest.files and file.name != MANIFEST_NAME
    ]
    bad = [f"{file.name} ({file.state})" for file in files if file.state in {"damaged", "missing"}]
    problem = f"{folder} is not what was exported ({', '.join(bad)}); export or copy it again" if bad else None
    return ArtifactReport(folder, manifest, tuple(files), problem)
