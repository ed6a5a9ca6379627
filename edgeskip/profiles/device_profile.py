"""`phone.json`: what each sublayer of one model costs on one device, and what a plan's steps will therefore take.

Data and arithmetic only; `edgeskip.profiling.measure` measures it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import replace_file
from edgeskip.core.json_file import read_json
from edgeskip.core.sublayers import Sublayer, sublayers_of
from edgeskip.profiles.schema import ModelRecord, Profile

DEVICE_PROFILE_VERSION = 1
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DeviceRecord(_Record):
    """The machine; memory in bytes, None if it does not say."""

    system: str
    processor: str
    logical_cores: int
    usable_cores: int
    simd: list[str]
    memory_bytes: int | None
    gpus: list[str]


class StepCost(_Record):
    """Seconds of a dense step, in parts that add up to it."""

    base_s: Seconds = Field(description="What no plan removes: embedding, final norm, head, overhead of the step")
    sublayer_s: list[Seconds] = Field(description="[2M] in order attn.0, ffn.0, attn.1 …")

    @property
    def total_s(self) -> float:
        return self.base_s + sum(self.sublayer_s)


class PrefillCost(StepCost):
    """Running a prompt on the empty model."""

    tokens: int = Field(gt=1, description="Tokens of the prompt")


class DecodeCost(StepCost):
    """Decoding one token."""

    context: int = Field(ge=0, description="Tokens in the KV cache before it")


class DeviceProfile(_Record):
    """Times of a dense artifact on one device; lower quartiles of repeats."""

    format: Literal["edgeskip-device-profile"] = "edgeskip-device-profile"
    version: Literal[1] = 1
    name: str = Field(description="Processor, engine, threads and precision, for people")
    model: ModelRecord
    device: DeviceRecord
    engine: Literal["onnxruntime", "llama.cpp"]
    provider: str
    threads: int = Field(ge=1)
    precision: str
    prefill: PrefillCost
    decode: list[DecodeCost] = Field(min_length=1, description="By rising context")
    one_row: Literal["after-last-attention", "last"] = Field(
        description="FFNs of a prefill that compute the last position only: those after the last attention kept "
        "(our ONNX graphs), or the last sublayer of all (llama.cpp)"
    )
    rounds: int = Field(ge=1, description="Rounds of repeats that the times are from")
    created: str = Field(description="UTC time, ISO 8601")
    versions: dict[str, str]

    def prefill_s(self, skip: Collection[Sublayer]) -> float:
        """Predicted seconds of the prompt of `prefill.tokens` tokens where the sublayers of `skip` are gone.

        Measured is the dense model, of whose last block part computes one position only. Whatever is last under the
        plan takes its place, at its price.
        """
        cost = self.prefill
        kept = [sublayer for sublayer in sublayers_of(self.model.num_blocks) if sublayer not in skip]
        last_attention = max((s.index for s in kept if s.kind == "attn"), default=-1)
        end = kept[-1].index if kept else -1
        total = cost.base_s
        for sublayer in kept:
            index, measured = sublayer.index, sublayer.index
            if sublayer.kind == "attn" and index == last_attention:
                measured = len(cost.sublayer_s) - 2
            elif sublayer.kind == "ffn" and (
                index == end or (self.one_row == "after-last-attention" and index > last_attention)
            ):
                measured = len(cost.sublayer_s) - 1
            total += cost.sublayer_s[measured]
        return total

    def decode_s(self, skip: Collection[Sublayer], context: int) -> float:
        """Predicted seconds of a token behind `context` others where the sublayers of `skip` are gone.

        Linear between the contexts measured, and beyond the last two of them; before the first as at the first.
        """
        times = [
            cost.base_s + sum(cost.sublayer_s) - sum(cost.sublayer_s[sublayer.index] for sublayer in set(skip))
            for cost in self.decode
        ]
        contexts = [cost.context for cost in self.decode]
        if len(times) == 1 or context <= contexts[0]:
            return times[0]
        right = min(bisect_right(contexts, context), len(contexts) - 1)
        share = (context - contexts[right - 1]) / (contexts[right] - contexts[right - 1])
        return times[right - 1] + share * (times[right] - times[right - 1])

    def speedups(self, skip: Collection[Sublayer], context: int) -> tuple[float, float]:
        """(prefill, decode) of the plan: predicted dense time over skipped."""
        return self.prefill_s(()) / self.prefill_s(skip), self.decode_s((), context) / self.decode_s(skip, context)

    def check_model(self, profile: Profile) -> None:
        """Raise EdgeSkipError if `profile` is of another model.

        The fingerprint is not compared: the same shape takes the same time, whatever the weights say.
        """
        ours, theirs = ((m.family, m.num_blocks, m.hidden_size, m.vocab_size) for m in (self.model, profile.model))
        if ours != theirs:
            raise EdgeSkipError(
                f"the device profile is of {self.model.name}, the profile of {profile.model.name}: run  edgeskip "
                "profile-device  on a dense artifact of the same model"
            )


def read_device_profile(path: Path) -> DeviceProfile:
    """Read and validate a device profile; EdgeSkipError names what is wrong."""
    again = "run  edgeskip profile-device  again"
    try:
        data = read_json(path, "not a device profile", again)
    except FileNotFoundError:
        raise EdgeSkipError(
            f"no device profile at {path}: make one with  edgeskip profile-device ARTIFACT -o {path}"
        ) from None
    if not isinstance(data, dict) or data.get("format") != "edgeskip-device-profile":
        raise EdgeSkipError(f"{path} is not a device profile: its 'format' is not 'edgeskip-device-profile'")
    if data.get("version") != DEVICE_PROFILE_VERSION:
        raise EdgeSkipError(
            f"{path} has device profile version {data.get('version')!r}, this EdgeSkip reads "
            f"{DEVICE_PROFILE_VERSION}: {again} or upgrade EdgeSkip"
        )
    try:
        profile = DeviceProfile.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise EdgeSkipError(f"{path}: field {field!r}: {first['msg']}: {again}") from None
    contexts = [cost.context for cost in profile.decode]
    if contexts != sorted(set(contexts)):
        raise EdgeSkipError(f"{path}: 'decode' must list each context once, rising: {again}")
    count = 2 * profile.model.num_blocks
    if any(len(cost.sublayer_s) != count for cost in (profile.prefill, *profile.decode)):
        raise EdgeSkipError(f"{path}: 'sublayer_s' must have {count} numbers: {again}")
    return profile


def write_device_profile(profile: DeviceProfile, path: Path, *, overwrite: bool = True) -> None:
    """Replace the file at `path` in one step; raises EdgeSkipError if one is there and `overwrite` is false."""
    replace_file(path, (profile.model_dump_json(indent=1) + "\n").encode("utf-8"), overwrite=overwrite)
