"""A SentencePiece-style BPE of a tokenizer.json (Llama 2, Mistral 7B) as llama.cpp's "llama" vocabulary: its scores,
and whether text gets a space put in front.

llama.cpp joins the neighbours whose piece scores best (src/llama-vocab.cpp, llm_tokenizer_spm); tokenizer.json lists
the joins in order instead. Order becomes score: the piece that is made k-th scores -k, as SentencePiece's own do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from edgeskip.core.errors import EdgeSkipError
from edgeskip.models.readers.gguf_tokenizer import SPACE

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def is_byte_piece(token: str) -> bool:
    """Return whether a piece stands for a byte: `<0x0A>`."""
    return _BYTE.fullmatch(token) is not None


def space_prefix(spec: Mapping[str, Any]) -> bool | None:
    """Return whether a tokenizer.json puts a space in front of the text; None if its text treatment is another one.

    A `Metaspace` that does so only at the very start ("first") counts: llama.cpp does it after every special token as
    well, and offers nothing in between.
    """
    normalizer, cut = spec.get("normalizer"), spec.get("pre_tokenizer")
    steps = [] if normalizer is None else normalizer.get("normalizers", [normalizer])
    kinds = [step.get("type") for step in steps]
    if kinds in (["Prepend", "Replace"], ["Replace"]) and cut is None:
        *prepend, replace = steps
        spaces = replace.get("pattern") == {"String": " "} and replace.get("content") == SPACE
        return bool(prepend) if spaces and all(step.get("prepend") == SPACE for step in prepend) else None
    if not kinds and cut is not None and cut.get("type") == "Metaspace" and cut.get("replacement") == SPACE:
        if cut.get("split", True) and any(SPACE in piece[1:] for piece in spec["model"]["vocab"]):
            return None  # it cuts where llama.cpp would join
        scheme = cut.get("prepend_scheme", "always" if cut.get("add_prefix_space", True) else "never")
        return bool(scheme != "never")
    return None


def piece_scores(tokens: Sequence[str], merges: Sequence[str], file: str) -> list[float]:
    """Return a score for every token.

    Raises:
        EdgeSkipError: If a byte piece is missing: llama.cpp spells the unknown with them.
    """
    missing = {f"<0x{byte:02X}>" for byte in range(256)} - set(tokens)
    if missing:
        raise EdgeSkipError(
            f"{file} has no piece {min(missing)}: llama.cpp needs one for each of the 256 bytes; export to ONNX instead"
        )
    order: dict[str, int] = {}
    for merge in merges:
        order.setdefault(merge.replace(" ", "", 1), len(order))
    # What no merge makes comes last, should llama.cpp ever see a way to make it.
    return [-float(order.get(token, len(order))) for token in tokens]
