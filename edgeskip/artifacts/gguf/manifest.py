"""The manifest of a GGUF file: the same facts as an artifact folder's edgeskip.json, as `edgeskip.*` metadata strings.

Plain facts are plain strings, so that any GGUF viewer shows them; records are JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgeskip.artifacts.gguf.seal import SEAL_KEY
from edgeskip.artifacts.gguf.text_rules import TextRules
from edgeskip.artifacts.manifest import ExitHead, PlanSummary, VerificationRecord
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.plan import Label
from edgeskip.core.plan_cost import PlanCost
from edgeskip.profiles.schema import ModelRecord

PREFIX = "edgeskip."
VERIFICATION_KEY = PREFIX + "verification"
DRAFT_VERIFICATION_KEY = PREFIX + "draft_verification"
COST_KEY = PREFIX + "cost"
_ROOM = {VERIFICATION_KEY: 1024, DRAFT_VERIFICATION_KEY: 1024, COST_KEY: 2048}  # bytes
Part = Literal["whole", "first", "rest"]


class GgufManifest(BaseModel):
    """What the file is, what it came from, what was checked.

    `part`: `first` holds blocks 0 … exit_layer-1 with the head (a draft model of its own), `rest` the blocks after
    them, `partner` is the name of the other half's file, beside it. A whole file may name another, its `draft`,
    or `decode`, which skips more FFNs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")

    format: Literal["edgeskip-gguf-1"] = "edgeskip-gguf-1"
    label: Label
    part: Part = "whole"
    exit_layer: int | None = None
    partner: str | None = None
    draft: str | None = Field(default=None, description="whole: the file beside it whose model may draft for this one")
    head: ExitHead | None = Field(
        default=None, description="first: how it drafts (see the ONNX manifest); block: its last block is the adapter's"
    )
    agreement: float | None = Field(
        default=None, description="first: share of held-out tokens that the head predicts as the full model"
    )
    decode: str | None = Field(
        default=None, description="whole: the file beside it that takes over, with this one's KV cache, while decoding"
    )
    decode_plan: PlanSummary | None = Field(default=None, description="whole with `decode`: what that file skips")
    window: int | None = Field(default=None, gt=0, description="whole with `decode`: P, tokens decoded before that")
    draft_head: str | None = Field(
        default=None, description="first: the file beside it with the head over part of the vocabulary that drafts"
    )
    draft_head_sha256: str | None = None
    text: TextRules | None = Field(default=None, description="what llama.cpp has no key for in tokenizing")
    notes: tuple[str, ...] = Field(default=(), description="where other programs than EdgeSkip do otherwise")
    precision: str
    model: ModelRecord
    plan: PlanSummary
    inputs: dict[str, str]
    versions: dict[str, str]
    created: str
    verification: VerificationRecord | None = Field(default=None, description="of a pair: of both halves together")
    draft_verification: VerificationRecord | None = Field(default=None, description="first: of the draft alone")
    cost: PlanCost | None = Field(
        default=None, description="What it loses against the dense model; of a pair: both halves together"
    )

    @property
    def decode_skipped(self) -> tuple[str, ...]:
        """What the file that takes over while decoding also leaves out, in execution order."""
        return tuple(name for name in (self.decode_plan.skip if self.decode_plan else ()) if name not in self.plan.skip)

    @property
    def pair_label(self) -> Label:
        """The label of what both halves give together; of a whole file, its own."""
        if self.part == "whole":
            return self.label
        return "lossy-skip" if self.plan.skip else "dense"

    def to_metadata(self) -> dict[str, str]:
        """Key -> string, in the order of the fields; fields that are None are left out.

        The verifications and the cost are padded with spaces: they are known only once the file is written, and then
        take their place. A first half has room for its own.
        """
        late = {"verification", "draft_verification", "cost"}
        fields = self.model_dump(mode="json", exclude_none=True, exclude=late)
        if not self.notes:
            del fields["notes"]
        keys = {PREFIX + name: _as_text(value) for name, value in fields.items()}
        records: dict[str, BaseModel | None] = {VERIFICATION_KEY: self.verification, COST_KEY: self.cost}
        if self.part == "first":
            records[DRAFT_VERIFICATION_KEY] = self.draft_verification
        for key, record in records.items():
            keys[key] = json.dumps(record and record.model_dump(mode="json")).ljust(_ROOM[key])
        return keys


def read_gguf_manifest(metadata: Mapping[str, Any], file: str) -> GgufManifest | None:
    """Return the manifest in a GGUF's metadata; None if EdgeSkip did not write the file.

    Raises EdgeSkipError if the keys are there but do not make a manifest.
    """
    fields: dict[str, Any] = {
        key.removeprefix(PREFIX): value for key, value in metadata.items() if key.startswith(PREFIX) and key != SEAL_KEY
    }
    if not fields:
        return None
    try:
        records = ("verification", "draft_verification", "cost")
        for name in ("model", "plan", "decode_plan", "text", "notes", "inputs", "versions", *records):
            if name in fields:
                fields[name] = json.loads(fields[name])
        return GgufManifest.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise EdgeSkipError(f"{file}: its key edgeskip.{field} is damaged: {first['msg']}: export again") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise EdgeSkipError(f"{file}: its edgeskip.* keys are damaged ({error}): export again") from None


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
