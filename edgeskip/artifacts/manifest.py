"""`edgeskip.json`, the manifest of an artifact folder: what it is, what it came from, what was checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from edgeskip.artifacts.path_errors import MANIFEST_NAME, not_an_artifact
from edgeskip.core.bounds import MAX_CONTEXT, Blocks, ContextLength, VocabSize, Width
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.json_file import read_json
from edgeskip.core.plan import Compensation, Label
from edgeskip.core.plan_cost import PlanCost
from edgeskip.profiles.schema import ModelRecord

Precision = Literal["fp32", "fp16", "int4"]


class _Record(BaseModel):
    # A failed check that was kept may have measured NaN, which JSON has no number for.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


def _sized(quantisation: dict[str, str | int | bool]) -> dict[str, str | int | bool]:
    size = quantisation.get("block_size", 32)
    if not (type(size) is int and 0 < size <= 1 << 16):
        raise ValueError(f"a block cannot have {size} weights")
    return quantisation


Quantisation = Annotated[dict[str, str | int | bool], AfterValidator(_sized)]


class GraphRecord(_Record):
    """What an engine must know to run `model.onnx`."""

    file: str = Field(default="model.onnx", pattern=r"^[^/\\]+$")
    precision: Precision
    kv_dtype: Literal["float32", "float16"]
    logits_dtype: Literal["float32", "float16"]
    num_kv_layers: int = Field(ge=0, le=10_000, description="Kept attention sublayers = past_key_values.0 … N-1")
    num_kv_heads: Width
    head_dim: Width
    vocab_size: VocabSize
    context_length: ContextLength = Field(description="Most positions the rotary tables cover, tokens")
    quantisation: Quantisation = Field(
        default_factory=dict,
        description="int4: method, block_size, symmetric, head_bits, accuracy_level",
    )


class PlanSummary(_Record):
    """What was skipped and what replaced it."""

    method: str
    compensation: Compensation
    skip: list[str]
    num_blocks: Blocks


ExitHead = Literal["plain", "ridge", "map", "block"]


class ExitRecord(_Record):
    """One early exit of the artifact: the graph that runs the blocks before it (after the exit before) and its head."""

    layer: Blocks = Field(description="E, the model's blocks the draft runs")
    file: str = Field(pattern=r"^[^/\\]+$", description="draft.onnx, or draft-E.onnx for a deeper one")
    num_kv_layers: int = Field(ge=0, le=10_000, description="Kept attention sublayers of this graph alone")
    head: ExitHead = Field(
        description="plain: the model's own norm and head; ridge: the calibrated map first; map: a trained one; "
        "block: a trained block and map, whose cache is the last of this graph's"
    )
    agreement: float | None = Field(
        default=None,
        description="Share of tokens it predicts as the full model: of calibration's held-out ones, with the whole "
        "vocabulary; not calibrated: of the check's text, with the artifact's own",
    )


class DraftRecord(_Record):
    """How the artifact drafts for itself, and what verifies."""

    kind: Literal["early-exit", "skip-plan"]
    exits: list[ExitRecord] = Field(default_factory=list, description="early-exit: shallow first")
    verify: str | None = Field(default=None, description="early-exit: the graph of the blocks after the last exit")
    verify_kv_layers: int = Field(default=0, ge=0, le=10_000, description="early-exit: its kept attention sublayers")
    plan: PlanSummary | None = Field(default=None, description="skip-plan: what the draft skips")
    agreement: float | None = Field(
        default=None, description="skip-plan: share of the check's tokens it predicts as the full model"
    )
    vocabulary: str | None = Field(
        default=None, description="File with the token ids int32 [V'] of the draft head's rows; None = all tokens"
    )


class OnlineRecord(_Record):
    """How the artifact skips FFNs online: those that hardly change the stream in an answer's first tokens."""

    window: int = Field(
        gt=0, le=MAX_CONTEXT, description="P, decoded tokens of an answer that are watched before anything is skipped"
    )
    threshold: float = Field(ge=-1, le=1, description="β: an FFN at least this similar over the window is skipped")
    ffns: list[str] = Field(min_length=1, description="FFNs with a gate, in execution order: ffn_skip 0 … G-1")


class VerificationRecord(_Record):
    """What the check after export measured against the torch model under the same plan."""

    passed: bool
    reference: str = Field(description="e.g. 'transformers 5.1 LlamaForCausalLM, same plan by hooks, float32'")
    tokens: int
    max_abs_logit_difference: float
    kl_divergence: float = Field(description="mean KL(torch ‖ artifact) per token, nats")
    widened_kl_divergence: float | None = Field(
        default=None, description="the same of a GGUF's own blocks as F16: without llama.cpp's 8-bit activations"
    )
    top1_agreement: float = Field(description="share of tokens whose argmax agrees")
    bound: str = Field(description="the bound that decided `passed`, in words")


class Manifest(_Record):
    """The manifest of an artifact."""

    format: Literal["edgeskip-artifact"] = "edgeskip-artifact"
    version: Literal[1] = 1
    target: Literal["onnx"] = "onnx"
    label: Label
    model: ModelRecord
    graph: GraphRecord
    plan: PlanSummary
    draft: DraftRecord | None = Field(default=None, description="None = nothing to speculate with but n-grams")
    online: OnlineRecord | None = Field(default=None, description="None = no gates: nothing is skipped online")
    inputs: dict[str, str] = Field(description="fingerprints of what the artifact was made from")
    files: dict[str, str] = Field(description="sha256 of every other file in the folder")
    versions: dict[str, str]
    created: str
    verification: VerificationRecord | None = Field(description="None = exported with the check switched off")
    cost: PlanCost | None = Field(
        default=None,
        description="What it loses against the dense model; with a draft, what verified text loses",
    )


def read_manifest(folder: Path) -> Manifest:
    """Read and validate `folder/edgeskip.json`; EdgeSkipError says what is wrong with it."""
    path = folder / MANIFEST_NAME
    if not folder.is_dir():
        raise EdgeSkipError(f"{folder} is not an artifact folder: make one with  edgeskip export")
    try:
        data = read_json(path, "damaged", "export again")
    except FileNotFoundError:
        raise not_an_artifact(folder) from None
    try:
        return Manifest.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise EdgeSkipError(f"{path} is damaged: field {field!r}: {first['msg']}: export again") from None
