"""The manifest of a GGUF file: the same facts as an artifact folder's edgeskip.json, as `edgeskip.*` metadata strings.

Plain facts are plain strings, so that any GGUF viewer shows them; records are JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from edgeskip.errors import EdgeSkipError
from edgeskip.manifest import PlanSummary, VerificationRecord
from edgeskip.plan import Label
from edgeskip.profile import ModelRecord

PREFIX = "edgeskip."
VERIFICATION_KEY = PREFIX + "verification"
_VERIFICATION_ROOM = 1024  # bytes
Part = Literal["whole", "first", "rest"]


class GgufManifest(BaseModel):
    """What the file is, what it came from, what was checked.

    `part`: `first` holds blocks 0 … exit_layer-1 with the head (a draft model of its own), `rest` the blocks after
    them, `partner` is the name of the other half's file, beside it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")

    format: Literal["edgeskip-gguf-1"] = "edgeskip-gguf-1"
    label: Label
    part: Part = "whole"
    exit_layer: int | None = None
    partner: str | None = None
    precision: str
    model: ModelRecord
    plan: PlanSummary
    inputs: dict[str, str]
    versions: dict[str, str]
    created: str
    verification: VerificationRecord | None = None

    @property
    def pair_label(self) -> Label:
        """The label of what both halves give together; of a whole file, its own."""
        if self.part == "whole":
            return self.label
        return "lossy-skip" if self.plan.skip else "dense"

    def to_metadata(self) -> dict[str, str]:
        """Key -> string, in the order of the fields; fields that are None are left out.

        The verification is padded with spaces: it is known only once the file is written, and then takes their place.
        """
        fields = self.model_dump(mode="json", exclude_none=True, exclude={"verification"})
        verification = json.dumps(self.verification and self.verification.model_dump(mode="json"))
        keys = {PREFIX + name: _as_text(value) for name, value in fields.items()}
        return keys | {VERIFICATION_KEY: verification.ljust(_VERIFICATION_ROOM)}


def read_gguf_manifest(metadata: Mapping[str, Any], file: str) -> GgufManifest | None:
    """The manifest in a GGUF's metadata; None where EdgeSkip did not write the file.

    EdgeSkipError where the keys are there but do not make a manifest.
    """
    fields: dict[str, Any] = {
        key.removeprefix(PREFIX): value for key, value in metadata.items() if key.startswith(PREFIX)
    }
    if not fields:
        return None
    try:
        for name in ("model", "plan", "inputs", "versions", "verification"):
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
