"""The profile: one JSON file (`llama.json`) with what calibration measured and the plan chosen from it.

Vectors (per-sublayer mean residual streams) live in a `.safetensors` file beside it, a LoRA of the model in an
`.adapter.safetensors` file. Reading and writing only: measuring is `edgeskip.calibration`, choosing is
`edgeskip.planning.planner`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from edgeskip.core.bounds import MAX_CONTEXT, Blocks, ContextLength, Cosine, Scale, VocabSize, WholeNumber, Width
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.json_file import read_json
from edgeskip.core.locks import claim
from edgeskip.core.paths import named_path
from edgeskip.core.plan import Compensation
from edgeskip.core.plan_cost import PlanCost
from edgeskip.core.sublayers import Sublayer, parse_sublayer, sublayers_of
from edgeskip.profiles.exit_adapter import AdapterKind
from edgeskip.profiles.location import ModelLocation, relocated
from edgeskip.profiles.output import FORMAT, adapter_path, refuse_output, vectors_path, write_together

PROFILE_VERSION = 1
Phase = Literal["prefill", "decode"]
Method = Literal[
    "adaskip", "budget", "early-exit", "skipdecode", "unified", "least-similar", "random", "explicit", "dense"
]


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
    num_blocks: Blocks = Field(description="M, transformer blocks; the model has 2M sublayers")
    hidden_size: Width = Field(description="Width of the residual stream, elements")
    vocab_size: VocabSize = Field(description="Rows of the embedding")
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
    context: ContextLength = Field(description="Tokens per window")
    seed: int
    dtype: str = Field(description="Floating-point type the model ran in")
    created: str = Field(description="UTC time, ISO 8601")
    versions: dict[str, str] = Field(description="Versions of edgeskip, python, torch, transformers …")


class PhaseStatistics(_Record):
    """Means over the tokens of one phase; x is the residual stream before the sublayer, y after it."""

    tokens: WholeNumber = Field(gt=0, description="Tokens measured")
    similarity: Cosine = Field(description="IO similarity: mean cosine(x, y) (AdaSkip eq. 2)")
    scale: Scale = Field(description="mean ‖y‖/‖x‖ (AdaSkip eq. 3)")
    affine_scale: Scale = Field(
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

    layer: Blocks = Field(description="E, blocks before the exit")
    tokens: WholeNumber = Field(gt=0, description="Held-out tokens")
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
    exit_layer: Blocks
    num_speculations: int = Field(ge=1)
    draft_vocab: int | None = Field(default=None, description="Tokens the draft head knows; None = all")
    target: str = Field(description="onnx or gguf")
    precision: str
    speedup: float = Field(gt=0, description="Tokens/s over plain decoding of the same artifact, same run")
    acceptance: float = Field(ge=0, le=1, description="Share of drafted tokens that were accepted")
    machine: str = Field(description="Processor and threads it was measured with")
    created: str


class PlanRecord(_Record):
    """The skip plan. Scales and biases follow from the statistics, unless they were fitted to the plan itself."""

    method: Method
    compensation: Compensation
    skip: list[str] = Field(description="Skipped sublayers in execution order")
    alpha: float | None = Field(
        default=None, gt=0, le=1e6, description="Acceleration ratio α, where the plan was asked for by α"
    )
    beta: Cosine | None = Field(
        default=None, description="Decode threshold β: the planner's, else the least similarity among the skipped"
    )
    seed: int | None = Field(default=None, description="Seed of a random plan")
    scales: list[Scale] | None = Field(
        default=None,
        description="s of each skip, fitted on the stream that the skips before it leave (biases: the vectors file's "
        "`plan.bias` and `plan.map`); None = from the statistics",
    )
    window: int | None = Field(
        default=None, gt=0, le=MAX_CONTEXT, description="P, decoded tokens that online skipping watches"
    )
    decode_skip: list[str] = Field(
        default_factory=list,
        description="FFNs also skipped once P tokens are decoded, where the engine cannot choose them by request",
    )
    decode_scales: list[Scale] | None = Field(
        default=None, description="s of each of them, on the plan's stream; None = decoding's scale by the statistics"
    )
    cost: PlanCost | None = Field(default=None, description="Against the dense model; None = not measured yet")
    healed_from: str | None = Field(
        default=None, description="Fingerprint of the dense model that the profile's LoRA heals this plan towards"
    )


class ParetoPoint(_Record):
    """A plan that no other of the search beats in quality and predicted time, or in quality with as many skips.

    Quality is that of the skipped model on held-out text, times are predicted for the device of the search.
    """

    skip: list[str] = Field(description="Skipped sublayers in execution order")
    kl: float = Field(ge=0, description="mean KL(dense ‖ skipped) per token, nats")
    perplexity_ratio: float = Field(gt=0, description="Perplexity over the dense model's, same text")
    perplexity_error: float = Field(ge=0, description="Standard error of that, by how much windows of the text differ")
    top1_agreement: float = Field(ge=0, le=1, description="Share of tokens predicted as by the dense model")
    prefill_speedup: float = Field(gt=0, description="Predicted, dense time over skipped")
    decode_speedup: float = Field(gt=0, description="Predicted, dense time over skipped")


class ParetoFront(_Record):
    """What `edgeskip plan --method budget` found; `points` by rising KL, the dense model not among them."""

    points: list[ParetoPoint]
    compensation: Compensation
    objective: Literal["kl", "perplexity"] = Field(description="What the search kept low")
    corpus: list[CorpusFile]
    tokens: WholeNumber = Field(gt=0, description="Held-out tokens that the points' quality was measured on")
    perplexity: float = Field(gt=0, description="The dense model's on them")
    device: str = Field(description="What the times are of: a device profile's name, or the weights' bytes alone")
    context: int = Field(ge=0, le=MAX_CONTEXT, description="Tokens in the KV cache that decode times are of")
    settings: dict[str, object] = Field(description="What its losses depend on; fitting a point again needs the same")
    created: str = Field(description="UTC time, ISO 8601")


class VectorsRecord(_Record):
    """The file beside the profile: `{prefill,decode}.mean_in` and `.mean_out`, float32 [2M, hidden_size], and more.

    These are means of x and y over tokens weighted by 1/‖x‖², as the affine compensation is. `exit.E.map`
    [hidden_size, hidden_size] is the map of exit layer E, float16 if that holds it exactly, else float32;
    `token_counts` int32 [vocab_size] says how often the corpus has each token. `exit.E.adapter.*` are the weights of
    a trained exit adapter (`edgeskip.profiles.exit_adapter`). `plan.bias` float32 [skips, hidden_size] and
    `plan.map` [skips, hidden_size, hidden_size], float16 or float32, were fitted to the plan.
    """

    file: str = Field(pattern=r"^[^/\\]+\.safetensors$", description="File name, in the profile's own folder")
    sha256: str


@dataclass(frozen=True)
class SideFiles:
    """The binary files of a profile that is in memory, as bytes."""

    path: Path
    """Where the profile was read or written, absolute; if `saved` is false, where it would go by its name."""
    saved: bool
    vectors: bytes
    adapter: bytes | None = None
    """The file with the model's LoRA; None if it has none."""


class Profile(_Record):
    """What calibration measured of a model, and the plan that was chosen from it: the recipe for an export.

    A profile is a value: nothing changes one, `edgeskip.plan` returns another. It is one JSON file (`llama.json`) with
    a `.safetensors` file beside it, and those two (three, if the model has a LoRA) travel together: `load` reads them
    all, `save` writes them all.

    Example:
        >>> profile = edgeskip.Profile.load("profile.json")
        >>> profile.plan.skip, profile.model.num_blocks
        (['ffn.1', 'ffn.2'], 4)
        >>> most_similar = max(profile.sublayers, key=lambda sublayer: sublayer.prefill.similarity)
        >>> 0 < most_similar.prefill.similarity <= 1
        True
    """

    format: Literal["edgeskip-profile"] = FORMAT
    version: Literal[1] = 1
    model: ModelRecord
    model_location: ModelLocation | None = Field(
        default=None, description="Where its folder or file is; None = `model.source` is a name, or nothing is known"
    )
    calibration: CalibrationRecord
    sublayers: list[SublayerStatistics]
    vectors: VectorsRecord
    plan: PlanRecord | None = Field(default=None, description="None = dense")
    exits: list[ExitStatistics] = Field(default_factory=list, description="Early exits that were calibrated")
    speculation: SpeculationRecord | None = Field(default=None, description="None = no sweep yet")
    front: ParetoFront | None = Field(default=None, description="None = no search yet")
    _files: SideFiles | None = PrivateAttr(default=None)

    @classmethod
    def load(cls, reference: str | Path) -> Profile:
        """Read a profile with the files beside it.

        Args:
            reference: Path of the `.json` file, or the name of a preset.

        Returns:
            The profile; its `path` says where it was read.

        Raises:
            EdgeSkipError: If there is none, or one of its files is missing, damaged or of another profile.

        Example:
            >>> edgeskip.Profile.load("profile.json").path.name
            'profile.json'
        """
        path = locate_profile(reference)
        profile = read_profile(path)
        files = SideFiles(path.absolute(), True, read_vectors_file(profile, path), read_adapter(profile, path))
        return profile.with_files(files)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Profile:
        """Write the profile and the files beside it.

        Args:
            path: Where the `.json` file goes; the others get its name with their own endings.
            overwrite: Replace a profile that is there.

        Returns:
            The profile as it is there: the same, with `path` set.

        Raises:
            EdgeSkipError: If something else than a profile is there, or a profile and `overwrite` is false.

        Example:
            >>> edgeskip.plan("profile.json", skip_sublayers=0).save("dense.json").path.name
            'dense.json'
        """
        target, files = Path(path).expanduser(), self._side_files()
        refuse_output(target, overwrite=overwrite)
        with claim(target):
            moved = self.moved(files.path, target)
            write_profile(moved, target, files.vectors, files.adapter, overwrite=overwrite)
        return moved.with_files(replace(files, path=target.absolute(), saved=True))

    @property
    def path(self) -> Path | None:
        """Where the profile is saved, absolute; None if it is in memory only."""
        return self._files.path if self._files is not None and self._files.saved else None

    def statistics(self, sublayer: Sublayer) -> SublayerStatistics:
        """Return what was measured of one sublayer.

        Args:
            sublayer: The sublayer, of this model.
        """
        return self.sublayers[sublayer.index]

    def with_files(self, files: SideFiles) -> Profile:
        """Return the profile carrying its binary `files`, so that nothing has to be read from the disk again."""
        profile = self.model_copy()
        profile._files = files
        return profile

    def moved(self, old: Path, new: Path) -> Profile:
        """Return the profile of `old` as it must be written to `new`: with the names of the files beside that, and its
        model's location relative to it."""
        location = self.model_location and relocated(self.model.source, self.model_location, old, new)
        vectors = self.vectors.model_copy(update={"file": vectors_path(new).name})
        changed = {"model_location": location, "model": model_at(self.model, new), "vectors": vectors}
        return self.model_copy(update=changed)

    def working_path(self) -> Path:
        """Return where the profile is, or would be by its name: what the location of its model is relative to."""
        return self._side_files().path

    def _side_files(self) -> SideFiles:
        if self._files is None:
            raise EdgeSkipError("the profile has lost the files beside it: read it with Profile.load")
        return self._files

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Profile) and self.__dict__ == other.__dict__  # the hashes of the files are part of it

    def __repr__(self) -> str:
        skipped = len(self.plan.skip) if self.plan else 0
        plan = f"{self.plan.method} skips {skipped}" if self.plan and skipped else "dense"
        where = "not saved" if self.path is None else str(self.path)
        return f"<Profile {self.model.name}: {len(self.sublayers)} sublayers, {plan}; {where}>"

    __str__ = __repr__


def locate_profile(reference: str | Path) -> Path:
    """Return the profile a user named: a path, or the name of a profile that ships with EdgeSkip.

    Raises EdgeSkipError if it is neither; a reference that looks like a path is never taken for a name.
    """
    from edgeskip.profiles.presets import ready_profile

    path = named_path(reference)
    if path.exists() or path.suffix == ".json" or len(path.parts) != 1:
        if path.is_dir():
            raise EdgeSkipError(f"{path} is a folder: name the profile, a .json file")
        return path
    return ready_profile(str(reference))


def read_profile(path: Path) -> Profile:
    """Read and validate a profile; EdgeSkipError names the field that is wrong."""
    try:
        data = read_json(path, "not a profile", "calibrate again", finite=False)  # NaN is refused by name of its field
    except FileNotFoundError:
        raise EdgeSkipError(f"no profile at {path}: make one with  edgeskip calibrate MODEL -o {path}") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise EdgeSkipError(f"{path} is not an EdgeSkip profile: its 'format' is not {FORMAT!r}")
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
    _check_plans(profile, path)
    return profile


def _check_plans(profile: Profile, path: Path) -> None:
    """EdgeSkipError for a plan with a sublayer that the model does not have, or as many scales as not skips."""
    num_blocks = profile.model.num_blocks
    plans: list[PlanRecord | ParetoPoint] = [profile.plan] if profile.plan else []
    plans += profile.front.points if profile.front else []
    for plan in plans:
        for name in plan.skip:
            parse_sublayer(name, num_blocks)
        if isinstance(plan, PlanRecord) and plan.scales is not None and len(plan.scales) != len(plan.skip):
            raise EdgeSkipError(f"{path}: {len(plan.scales)} scales for {len(plan.skip)} skips: plan again")
    if profile.plan and profile.plan.decode_scales is not None:
        given, named = len(profile.plan.decode_scales), len(profile.plan.decode_skip)
        if given != named:
            raise EdgeSkipError(f"{path}: {given} scales for a decode set of {named}: plan again")
    for name in profile.plan.decode_skip if profile.plan else []:
        if parse_sublayer(name, num_blocks).kind != "ffn":
            raise EdgeSkipError(f"{path}: decode_skip {name} is not an FFN; decoding can skip FFNs only")


def read_vectors_file(profile: Profile, path: Path) -> bytes:
    """Return the bytes of the vectors file: those that the profile carries, else those beside it at `path`.

    Raises:
        EdgeSkipError: if the file is missing, or not the one that the profile was written with.
    """
    carried = profile._files
    if carried is not None and hashlib.sha256(carried.vectors).hexdigest() == profile.vectors.sha256:
        return carried.vectors
    return _checked(path.parent / profile.vectors.file, profile.vectors.sha256, path, "recalibrate")


def read_adapter(profile: Profile, path: Path) -> bytes | None:
    """Return the bytes of the file with the LoRA, as `read_vectors_file` does; None if the profile has none.

    What is in it is for `edgeskip.models.readers.lora` to say.

    Raises:
        EdgeSkipError: if the file is missing, or not the one that the profile was written with.
    """
    record = profile.model.adapter
    if record is None:
        return None
    carried = profile._files.adapter if profile._files is not None else None
    if carried is not None and hashlib.sha256(carried).hexdigest() == record.sha256:
        return carried
    return _checked(path.parent / record.file, record.sha256, path, "train again")


def _checked(file: Path, sha256: str, path: Path, fix: str) -> bytes:
    data = read_beside(file, path)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise EdgeSkipError(f"{file} does not match the sha256 in {path.name}: copy both files together or {fix}")
    return data


def read_beside(file: Path, path: Path) -> bytes:
    """Return the bytes of a file that belongs beside the profile at `path`; raises EdgeSkipError if it is missing."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise EdgeSkipError(f"{file} is missing: it belongs beside {path.name}; copy both files together") from None


def model_at(record: ModelRecord, path: Path) -> ModelRecord:
    """`record` as the profile at `path` must carry it: its LoRA, if any, is in the file of that profile."""
    if record.adapter is None:
        return record
    return record.model_copy(update={"adapter": record.adapter.model_copy(update={"file": adapter_path(path).name})})


def write_profile(
    profile: Profile,
    path: Path,
    packed_vectors: bytes | None = None,
    packed_adapter: bytes | None = None,
    *,
    overwrite: bool = True,
) -> None:
    """Replace the profile at `path` in one step, after the files beside it whose bytes are given.

    Raises EdgeSkipError if a profile is there and `overwrite` is false, however lately it came.

    When writing the profile fails or is interrupted, those files are put back as they were. The LoRA of a profile
    that was there before goes where the new one has none.
    """
    data = (profile.model_dump_json(indent=2, exclude_none=True) + "\n").encode("utf-8")
    adapter = profile.model.adapter
    beside: dict[Path, bytes] = {}
    if packed_vectors is not None:
        beside[path.parent / profile.vectors.file] = packed_vectors
    if packed_adapter is not None and adapter is not None:
        beside[path.parent / adapter.file] = packed_adapter
    write_together(path, data, beside, overwrite=overwrite, has_adapter=adapter is not None)
