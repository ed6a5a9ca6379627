"""The profile: one JSON file (`llama.json`) with what calibration measured and the plan chosen from it.

Vectors (per-sublayer mean residual streams) live in a `.safetensors` file beside it, a LoRA of the model in an
`.adapter.safetensors` file. Reading and writing only: measuring is `edgeskip.calibration`, choosing is
`edgeskip.planner`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgeskip.errors import EdgeSkipError
from edgeskip.exit_adapter import AdapterKind, ExitAdapter, is_adapter_array, narrowed, pack_adapters, read_adapters
from edgeskip.files import replace_file
from edgeskip.plan import Compensation
from edgeskip.sublayers import Sublayer, parse_sublayer, sublayers_of

PROFILE_VERSION = 1
Phase = Literal["prefill", "decode"]
_EXIT_MAP = re.compile(r"exit\.([1-9][0-9]*)\.map")
Method = Literal["adaskip", "early-exit", "skipdecode", "unified", "least-similar", "random", "explicit", "dense"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class AdapterRecord(_Record):
    """A LoRA that belongs to the model: each weight it names is W + scale·B·A (Hu et al. 2021, §4.1)."""

    file: str = Field(pattern=r"^[^/\\]+\.safetensors$", description="File name, in the profile's own folder")
    sha256: str
    base_fingerprint: str = Field(description="Fingerprint of the model without it; `fingerprint` is with it")


class ModelRecord(_Record):
    """Which model was calibrated."""

    source: str = Field(description="What the user named: a ready model's name, a hub id, a folder or a GGUF file")
    name: str = Field(description="Short name, used to name outputs")
    family: str = Field(description="Model family, e.g. llama, qwen2")
    fingerprint: str = Field(description="sha256 over the weight files; an export refuses other weights")
    num_blocks: int = Field(gt=0, description="M, transformer blocks; the model has 2M sublayers")
    hidden_size: int = Field(gt=0, description="Width of the residual stream, elements")
    vocab_size: int = Field(gt=0, description="Rows of the embedding")
    adapter: AdapterRecord | None = Field(default=None, description="LoRA to merge into the source's weights")


class CorpusFile(_Record):
    """One text the statistics come from."""

    name: str = Field(description="File name, or the name of a corpus that ships with EdgeSkip")
    sha256: str = Field(description="Hash of the file's bytes")


class CalibrationRecord(_Record):
    """How the statistics were taken."""

    corpus: list[CorpusFile]
    field: str | None = Field(default=None, description="Field read from .jsonl files")
    continued: bool = Field(default=False, description="The corpus is prompts, continued by the model itself")
    context: int = Field(gt=0, description="Tokens per window")
    seed: int
    dtype: str = Field(description="Floating-point type the model ran in")
    created: str = Field(description="UTC time, ISO 8601")
    versions: dict[str, str] = Field(description="Versions of edgeskip, python, torch, transformers …")


class PhaseStatistics(_Record):
    """Means over the tokens of one phase; x is the residual stream before the sublayer, y after it."""

    tokens: int = Field(gt=0, description="Tokens measured")
    similarity: float = Field(description="IO similarity: mean cosine(x, y) (AdaSkip eq. 2)")
    scale: float = Field(gt=0, description="mean ‖y‖/‖x‖ (AdaSkip eq. 3)")
    affine_scale: float = Field(
        gt=0,
        description="s of the affine compensation s·x + b, which keeps mean and variance of the stream: "
        "s² = var(y)/var(x) and b = mean_out − s·mean_in, moments weighted by 1/‖x‖²",
    )
    bias_share: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Share of b that is used: 1 − (variance of b between windows)/‖b‖²; None = not known, all of it",
    )
    error: float = Field(ge=0, description="mean ‖y − x‖²/‖x‖²: what skipping without compensation leaves out")
    affine_error: float = Field(ge=0, description="mean ‖y − s·x − b‖²/‖x‖²: what the whole affine fit leaves out")
    mean_square_in: float = Field(description="mean ‖x‖²")
    mean_square_out: float = Field(description="mean ‖y‖²")
    mean_dot: float = Field(description="mean x·y")


class SublayerStatistics(_Record):
    """What was measured of one sublayer."""

    name: str = Field(description="attn.N or ffn.N")
    prefill: PhaseStatistics = Field(description="Over the corpus' own text")
    decode: PhaseStatistics | None = Field(default=None, description="Over the model's own greedy continuations")


class ExitStatistics(_Record):
    """How well the model can exit after its first `layer` blocks, measured on text the map was not fitted to."""

    layer: int = Field(gt=0, description="E, blocks before the exit")
    tokens: int = Field(gt=0, description="Held-out tokens")
    plain_agreement: float = Field(ge=0, le=1, description="Share of them predicted as the full model, by its own head")
    ridge_agreement: float | None = Field(
        default=None, ge=0, le=1, description="The same through the calibrated map (vectors file: exit.E.map)"
    )
    adapter: AdapterKind | None = Field(
        default=None, description="Trained in place of the map: a map, or a block and a map (exit.E.adapter.*)"
    )
    adapter_agreement: float | None = Field(
        default=None, ge=0, le=1, description="Agreement through the adapter, on text held out of its training"
    )
    adapter_vocab: int | None = Field(
        default=None, gt=0, description="Tokens it was trained for, the most frequent; None = all"
    )


class SpeculationRecord(_Record):
    """The best setting that `edgeskip sweep` measured."""

    draft: Literal["early-exit"] = "early-exit"
    exit_layer: int = Field(gt=0)
    num_speculations: int = Field(ge=1)
    draft_vocab: int | None = Field(default=None, description="Tokens the draft head knows; None = all")
    target: str = Field(description="onnx or gguf")
    precision: str
    speedup: float = Field(gt=0, description="Tokens/s over plain decoding of the same artifact, same run")
    acceptance: float = Field(ge=0, le=1, description="Share of drafted tokens that were accepted")
    machine: str = Field(description="Processor and threads it was measured with")
    created: str


class PlanRecord(_Record):
    """The skip plan: names only; scales and biases follow from the statistics."""

    method: Method
    compensation: Compensation
    skip: list[str] = Field(description="Skipped sublayers in execution order")
    alpha: float | None = Field(default=None, description="Acceleration ratio α, where the plan was asked for by α")
    beta: float | None = Field(default=None, description="Least similarity among the skipped (decode threshold β)")
    seed: int | None = Field(default=None, description="Seed of a random plan")


class VectorsRecord(_Record):
    """The file beside the profile: `{prefill,decode}.mean_in` and `.mean_out`, float32 [2M, hidden_size], and more.

    These are means of x and y over tokens weighted by 1/‖x‖², as the affine compensation is. `exit.E.map`
    [hidden_size, hidden_size] is the map of exit layer E, float16 where that holds it exactly, else float32;
    `token_counts` int32 [vocab_size] says how often the corpus has each token. `exit.E.adapter.*` are the weights of
    a trained exit adapter (`edgeskip.exit_adapter`).
    """

    file: str = Field(pattern=r"^[^/\\]+\.safetensors$", description="File name, in the profile's own folder")
    sha256: str


class Profile(_Record):
    """An EdgeSkip profile."""

    format: Literal["edgeskip-profile"] = "edgeskip-profile"
    version: Literal[1] = 1
    model: ModelRecord
    calibration: CalibrationRecord
    sublayers: list[SublayerStatistics]
    vectors: VectorsRecord
    plan: PlanRecord | None = Field(default=None, description="None = dense")
    exits: list[ExitStatistics] = Field(default_factory=list, description="Early exits that were calibrated")
    speculation: SpeculationRecord | None = Field(default=None, description="None = no sweep yet")

    def statistics(self, sublayer: Sublayer) -> SublayerStatistics:
        return self.sublayers[sublayer.index]


@dataclass(frozen=True)
class Vectors:
    """Weighted mean residual stream before and after each sublayer, float32 [2M, hidden_size] per phase."""

    mean_in: dict[Phase, NDArray[np.float32]]
    mean_out: dict[Phase, NDArray[np.float32]]
    exit_maps: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    """Exit layer → A [hidden_size, hidden_size]: final normalised state ≈ A · RMS-normalised exit state (design §7)."""
    exit_adapters: dict[int, ExitAdapter] = field(default_factory=dict)
    """Exit layer → what `edgeskip train --method exit-adapter` trained for it."""
    token_counts: NDArray[np.int64] | None = None
    """How often the corpus has each token [vocab_size]; None where the profile was made before they were kept."""


def locate_profile(reference: str | Path) -> Path:
    """The profile a user named: a path, or the name of a profile that ships with EdgeSkip.

    EdgeSkipError where it is neither; a reference that looks like a path is never taken for a name.
    """
    from edgeskip.models.profiles import ready_profile

    path = Path(reference)
    if path.exists() or path.suffix == ".json" or len(path.parts) != 1:
        if path.is_dir():
            raise EdgeSkipError(f"{path} is a folder: name the profile, a .json file")
        return path
    return ready_profile(str(reference))


def read_profile(path: Path) -> Profile:
    """Reads and validates a profile; EdgeSkipError names the field that is wrong."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EdgeSkipError(f"no profile at {path}: make one with  edgeskip calibrate MODEL -o {path}") from None
    except (ValueError, RecursionError) as error:
        raise EdgeSkipError(f"{path} is not a profile (not JSON: {error}): calibrate again") from None
    if not isinstance(data, dict) or data.get("format") != "edgeskip-profile":
        raise EdgeSkipError(f"{path} is not an EdgeSkip profile: its 'format' is not 'edgeskip-profile'")
    if data.get("version") != PROFILE_VERSION:
        raise EdgeSkipError(
            f"{path} has profile version {data.get('version')!r}, this EdgeSkip reads {PROFILE_VERSION}: "
            "calibrate again or upgrade EdgeSkip"
        )
    try:
        profile = Profile.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise EdgeSkipError(f"{path}: field {field!r}: {first['msg']} (edgeskip schema prints the schema)") from None
    expected = [str(s) for s in sublayers_of(profile.model.num_blocks)]
    if [s.name for s in profile.sublayers] != expected:
        raise EdgeSkipError(f"{path}: 'sublayers' must list attn.0, ffn.0 … in order for {len(expected)} sublayers")
    for name in profile.plan.skip if profile.plan else []:
        parse_sublayer(name, profile.model.num_blocks)
    return profile


def read_vectors(profile: Profile, path: Path) -> Vectors:
    """The vectors beside the profile at `path`, checked against the hash and shapes the profile states.

    A profile made before exits were calibrated has neither maps nor token counts. EdgeSkipError for a file that is
    missing or another one, an array of another shape, and an exit of the profile without its map.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    file = path.parent / profile.vectors.file
    data = _read_beside(file, path)
    if hashlib.sha256(data).hexdigest() != profile.vectors.sha256:
        raise EdgeSkipError(f"{file} does not match the sha256 in {path.name}: copy both files together or recalibrate")
    try:
        arrays = load(data)
    except SafetensorError as error:
        raise EdgeSkipError(f"{file} is not a safetensors file ({error}): calibrate again") from None
    for name, array in arrays.items():
        if is_adapter_array(name) and array.dtype in (np.float16, np.float32):
            continue
        dtypes, shape = _expected(name, profile.model)
        if array.dtype not in dtypes or array.shape != shape:
            raise EdgeSkipError(
                f"{file}: {name} is {array.dtype}{list(array.shape)}, "
                f"expected {dtypes[-1].__name__}{list(shape)}: calibrate again"
            )
    phases: tuple[Phase, ...] = ("prefill", "decode")
    maps = {
        int(match[1]): array.astype(np.float32)
        for name, array in arrays.items()
        if (match := _EXIT_MAP.fullmatch(name))
    }
    try:
        adapters = read_adapters(arrays, profile.model.hidden_size)
    except EdgeSkipError as error:
        raise EdgeSkipError(f"{file}: {error}: train again") from None
    for exit in profile.exits:
        if exit.ridge_agreement is not None and exit.layer not in maps:
            raise EdgeSkipError(f"{file} has no map for exit layer {exit.layer} of {path.name}: calibrate again")
        if exit.adapter != (adapters[exit.layer].kind if exit.layer in adapters else None):
            raise EdgeSkipError(f"{file} has another adapter for exit layer {exit.layer} than {path.name}: train again")
    counts = arrays.get("token_counts")
    return Vectors(
        mean_in={p: arrays[f"{p}.mean_in"] for p in phases if f"{p}.mean_in" in arrays},
        mean_out={p: arrays[f"{p}.mean_out"] for p in phases if f"{p}.mean_out" in arrays},
        exit_maps=dict(sorted(maps.items())),
        exit_adapters=adapters,
        token_counts=None if counts is None else counts.astype(np.int64),
    )


def _expected(name: str, model: ModelRecord) -> tuple[tuple[type[np.generic], ...], tuple[int, ...]]:
    """Types and shape of an array of the vectors file."""
    if _EXIT_MAP.fullmatch(name):
        return (np.float16, np.float32), (model.hidden_size, model.hidden_size)
    if name == "token_counts":
        return (np.int32,), (model.vocab_size,)
    return (np.float32,), (2 * model.num_blocks, model.hidden_size)


def read_adapter(profile: Profile, path: Path) -> bytes | None:
    """The file with the LoRA beside the profile at `path`, checked against the hash; None where it has none.

    EdgeSkipError where it is missing or another one. What is in it is `edgeskip.exporters.families.lora`'s.
    """
    record = profile.model.adapter
    if record is None:
        return None
    file = path.parent / record.file
    data = _read_beside(file, path)
    if hashlib.sha256(data).hexdigest() != record.sha256:
        raise EdgeSkipError(f"{file} does not match the sha256 in {path.name}: copy both files together or train again")
    return data


def _read_beside(file: Path, path: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise EdgeSkipError(f"{file} is missing: it belongs beside {path.name}; copy both files together") from None


def vectors_path(path: Path) -> Path:
    """Where the vectors file of a profile written to `path` goes."""
    return path.with_suffix(".safetensors")


def adapter_path(path: Path) -> Path:
    """Where the LoRA of a profile written to `path` goes."""
    return path.with_suffix(".adapter.safetensors")


def model_at(record: ModelRecord, path: Path) -> ModelRecord:
    """`record` as the profile at `path` must carry it: its LoRA, if any, is in the file of that profile."""
    if record.adapter is None:
        return record
    return record.model_copy(update={"adapter": record.adapter.model_copy(update={"file": adapter_path(path).name})})


def refuse_output(path: Path, *, overwrite: bool) -> None:
    """EdgeSkipError where a profile must not or cannot be written to `path`; call it before the work, not after.

    A `.safetensors` file beside `path` that does not belong to the profile there, a model's weights perhaps, is never
    replaced.
    """
    if path.suffix != ".json":
        raise EdgeSkipError(f"{path} does not end in .json: name the profile, e.g.  -o {path.stem or 'llama'}.json")
    if path.exists() and not overwrite:
        raise EdgeSkipError(f"{path} exists: choose another -o or add --overwrite")
    for beside in (vectors_path(path), adapter_path(path)):
        if beside.exists() and not _names(path, beside):
            raise EdgeSkipError(f"{beside} exists and belongs to no profile: choose another -o")
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        raise EdgeSkipError(f"cannot write to {folder}: check its permissions or choose another -o")


def pack_vectors(vectors: Vectors, path: Path) -> tuple[VectorsRecord, bytes]:
    """The vectors file of the profile at `path`: the record the profile must carry, and the file's bytes."""
    from safetensors.numpy import save

    arrays: dict[str, NDArray[Any]] = {}
    for phase, array in vectors.mean_in.items():
        arrays[f"{phase}.mean_in"] = np.ascontiguousarray(array, dtype=np.float32)
        arrays[f"{phase}.mean_out"] = np.ascontiguousarray(vectors.mean_out[phase], dtype=np.float32)
    for layer, exit_map in vectors.exit_maps.items():
        arrays[f"exit.{layer}.map"] = narrowed(exit_map)
    arrays |= pack_adapters(vectors.exit_adapters)
    if vectors.token_counts is not None:
        arrays["token_counts"] = vectors.token_counts.astype(np.int32)
    data = save(arrays)
    return VectorsRecord(file=vectors_path(path).name, sha256=hashlib.sha256(data).hexdigest()), data


def write_profile(
    profile: Profile, path: Path, packed_vectors: bytes | None = None, packed_adapter: bytes | None = None
) -> None:
    """Replaces the profile at `path` in one step, after the files beside it whose bytes are given.

    When writing the profile fails or is interrupted, those files are put back as they were. The LoRA of a profile
    that was there before goes where the new one has none.
    """
    data = (profile.model_dump_json(indent=2, exclude_none=True) + "\n").encode("utf-8")
    beside: dict[Path, bytes] = {}
    if packed_vectors is not None:
        beside[path.parent / profile.vectors.file] = packed_vectors
    if packed_adapter is not None and profile.model.adapter is not None:
        beside[path.parent / profile.model.adapter.file] = packed_adapter
    before = {file: file.read_bytes() if file.exists() else None for file in beside}
    left_over = profile.model.adapter is None and _names(path, adapter_path(path))
    try:
        for file, content in beside.items():
            replace_file(file, content)
        replace_file(path, data)
    except BaseException:
        for file, old in before.items():
            if old is not None:
                replace_file(file, old)
            else:
                file.unlink(missing_ok=True)
        raise
    if left_over:
        adapter_path(path).unlink(missing_ok=True)


def _names(path: Path, beside: Path) -> bool:
    """Whether there is a profile at `path` that names the file `beside` it."""
    return path.is_file() and f'"{beside.name}"' in path.read_text("utf-8", errors="replace")
