"""The families that are supported. Adding one is one file and one line here."""

from __future__ import annotations

from edgeskip.core.errors import EdgeSkipError
from edgeskip.models.families.family import Family
from edgeskip.models.families.llama import LLAMA
from edgeskip.models.families.mistral import MISTRAL
from edgeskip.models.families.qwen2 import QWEN2
from edgeskip.models.families.qwen3 import QWEN3
from edgeskip.models.families.smollm3 import SMOLLM3

FAMILIES: dict[str, Family] = {family.name: family for family in (LLAMA, MISTRAL, QWEN2, QWEN3, SMOLLM3)}


def family_named(name: str, file: str) -> Family:
    """Return the family of config.json's `model_type`; EdgeSkipError that lists the supported ones."""
    if name not in FAMILIES:
        raise EdgeSkipError(f"{file}: model family {name!r} is not supported; supported are {', '.join(FAMILIES)}")
    return FAMILIES[name]


def family_of_gguf(architecture: str, file: str) -> Family:
    """Return the family of a GGUF's `general.architecture`; EdgeSkipError that lists the supported ones."""
    known = {family.gguf_architecture: family for family in FAMILIES.values() if family.gguf_architecture}
    if architecture not in known:
        raise EdgeSkipError(
            f"{file}: GGUF architecture {architecture!r} is not supported; supported are {', '.join(known)}"
        )
    return known[architecture]
