"""Precisions by name and the type each tensor gets. Oracles: the gguf package's enumerations, and what llama.cpp's own
quantizer names its files, written down by hand."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
import pytest

from edgeskip.artifacts.gguf.header import GgufHeader, GgufTensor
from edgeskip.core.errors import EdgeSkipError
from edgeskip.exporters.gguf.formats import PRECISIONS, GgufFormat, gguf_format
from edgeskip.models.decoder import QuantizedBlocks, Tensor

# llama.h's llama_ftype, by hand.
FILE_TYPES = {
    **{"f32": 0, "f16": 1, "bf16": 32, "q8_0": 7, "q5_1": 9, "q5_0": 8, "q4_1": 3, "q4_0": 2},
    **{"q2_k": 10, "q3_k_s": 11, "q3_k_m": 12, "q3_k_l": 13, "q4_k_s": 14, "q4_k_m": 15, "q5_k_s": 16, "q5_k_m": 17},
    **{"q6_k": 18, "iq4_nl": 25, "iq4_xs": 30},
}


def tensor(*shape: int, kind: str | None = None) -> Tensor:
    blocks = QuantizedBlocks(kind, lambda: np.zeros((1, 1), np.uint8)) if kind else None
    return Tensor("w", shape, lambda: np.zeros(shape, np.float32), blocks)


def header(kinds: dict[str, int], **metadata: Any) -> GgufHeader:
    """`kinds`: ggml type -> bytes of the one matrix of that type; a large vector of F32 besides."""
    tensors = {
        kind: GgufTensor(kind, (8, 256), gguf.GGMLQuantizationType[kind], 0, size) for kind, size in kinds.items()
    }
    vector = GgufTensor("v", (9999,), gguf.GGMLQuantizationType.F32, 0, 9999 * 4)
    return GgufHeader(
        {key.replace("_", ".", 1): value for key, value in metadata.items()}, {}, {**tensors, "v": vector}
    )


def test_every_name_that_is_offered() -> None:
    assert {"keep", *FILE_TYPES} == set(PRECISIONS)
    for name, file_type in FILE_TYPES.items():
        form = gguf_format(name, None)
        assert (form.name, form.file_type) == (name.upper(), file_type)
        assert form == gguf_format(name.upper(), None) == gguf_format(name, header({"Q4_1": 9}))
        assert form.by_llamacpp == name.startswith(("q2", "q3", "q4", "q5", "q6", "iq"))
        assert form.kind == ("F16" if form.by_llamacpp else name.upper())


@pytest.mark.parametrize(
    ("alias", "name"), [("fp32", "F32"), ("FP16", "F16"), ("q3_k", "Q3_K_M"), ("q4_K", "Q4_K_M"), ("q5_k", "Q5_K_M")]
)
def test_aliases(alias: str, name: str) -> None:
    assert gguf_format(alias, None).name == name


@pytest.mark.parametrize("name", ["q4", "int4", "iq2_xxs", "q8_k", "", "guessed", "all", "f64", "q4_k_m "])
def test_unknown_names(name: str) -> None:
    """Those that llama.cpp makes only with an importance matrix are not offered."""
    with pytest.raises(EdgeSkipError, match=r"is unknown for gguf: choose one of keep, f32, f16, bf16, q8_0,.*iq4_xs$"):
        gguf_format(name, None)


def test_keep_of_what_is_no_gguf() -> None:
    with pytest.raises(EdgeSkipError, match="keep keeps the blocks of a GGUF, and this model is not one: choose f16"):
        gguf_format("keep", None)


@pytest.mark.parametrize(
    ("stated", "name"), [(0, "F32"), (1, "F16"), (3, "Q4_1"), (15, "Q4_K_M"), (19, "IQ2_XXS"), (38, "MXFP4_MOE")]
)
def test_keep_says_what_the_file_says(stated: int, name: str) -> None:
    form = gguf_format("keep", header({"Q8_0": 9}, general_file_type=stated))
    assert form == GgufFormat(name, None, stated)


@pytest.mark.parametrize("stated", [None, 1024, 99, -1, "Q4_1", [3], 4.5])
def test_keep_looks_where_the_file_does_not_say(stated: Any) -> None:
    """1024 is llama.cpp's own "guessed". The type of most bytes of matrices, vectors aside."""
    keys = {} if stated is None else {"general_file_type": stated}
    assert gguf_format("keep", header({"Q8_0": 99, "Q4_1": 200, "F16": 150}, **keys)) == GgufFormat("Q4_1", None, 3)


@pytest.mark.parametrize(
    ("kind", "file_type"), [("F32", 0), ("F16", 1), ("Q4_K", 14), ("Q6_K", 18), ("Q2_K", 10), ("IQ4_XS", 30)]
)
def test_the_file_type_of_the_kind_that_was_found(kind: str, file_type: int) -> None:
    """A file of K-quants must not be called one of F32."""
    assert gguf_format("keep", header({kind: 9})) == GgufFormat(kind, None, file_type)


def test_a_kind_without_a_file_type_is_guessed() -> None:
    assert gguf_format("keep", header({"MXFP4": 9})) == GgufFormat("MXFP4", None, int(gguf.LlamaFileType.GUESSED))


@pytest.mark.parametrize("name", [*FILE_TYPES, "keep"])
def test_vectors_are_f32(name: str) -> None:
    form = gguf_format(name, header({"F16": 9}))
    assert form.kind_of(tensor(64, kind="F16")) == "F32"


def test_rows_that_are_no_whole_blocks() -> None:
    """48 columns: F16; the number of rows does not matter."""
    assert gguf_format("q8_0", None).kind_of(tensor(64, 48)) == "F16"
    assert gguf_format("q8_0", None).kind_of(tensor(7, 96)) == "Q8_0"
    for floats in ("f32", "f16", "bf16"):
        assert gguf_format(floats, None).kind_of(tensor(64, 48)) == floats.upper()
    assert gguf_format("q4_k_m", None).kind_of(tensor(64, 256)) == "F16"  # before llama.cpp quantizes it


def test_keep_gives_each_its_own() -> None:
    """A stub, which the model never had, is F16."""
    form = gguf_format("keep", header({"Q4_1": 9}))
    for kind in ("Q4_1", "Q6_K", "F32", "IQ1_M"):
        assert form.kind_of(tensor(64, 256, kind=kind)) == kind
    assert form.kind_of(tensor(32, 64)) == "F16"
