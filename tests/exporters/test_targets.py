"""What --target, --precision and --draft ask for. Oracle: by hand, one line for each combination."""

from __future__ import annotations

import pytest

from edgeskip.errors import EdgeSkipError
from edgeskip.exporters.targets import Targets, exit_layer_of, targets_of

ONNX, GGUF, BOTH = Targets(True, False), Targets(False, True), Targets(True, True)


@pytest.mark.parametrize(
    ("target", "precision", "expected"),
    [
        ("onnx", None, Targets(True, False, "fp32", None)),
        ("gguf", None, Targets(False, True, "fp32", None)),
        ("onnx,gguf", None, Targets(True, True, "fp32", None)),
        ("GGUF , onnx", None, Targets(True, True, "fp32", None)),
        ("onnx", "f16", Targets(True, False, "fp16", None)),
        ("onnx", "INT4", Targets(True, False, "int4", None)),
        ("gguf", "Q4_K_M", Targets(False, True, "fp32", "q4_k_m")),
        ("gguf", "keep", Targets(False, True, "fp32", "keep")),
        ("onnx,gguf", "int4,q4_0", Targets(True, True, "int4", "q4_0")),
        ("gguf,onnx", "q4_0, int4", Targets(True, True, "int4", "q4_0")),  # in the order of the targets
        ("onnx,gguf,gguf", "int4,q4_0", Targets(True, True, "int4", "q4_0")),  # once is enough
        ("onnx,gguf", "f32", Targets(True, True, "fp32", "f32")),
        ("onnx,gguf", "fp16", Targets(True, True, "fp16", "fp16")),
        ("onnx,gguf", "f16,f32", Targets(True, True, "fp16", "f32")),
        ("onnx", "fp8", Targets(True, False, "fp8", None)),  # refused later, by the target that does not know it
    ],
)
def test_what_is_asked_for(target: str, precision: str | None, expected: Targets) -> None:
    assert targets_of(target, precision) == expected


@pytest.mark.parametrize(
    ("target", "precision", "told"),
    [
        ("tflite", None, "--target tflite is unknown: choose onnx, gguf or onnx,gguf"),
        ("onnx,tflite", None, "--target tflite is unknown"),
        ("", None, "--target  is unknown"),
        ("onnx,", None, "--target onnx, is unknown"),
        ("onnx", "fp32,f16", "--precision fp32,f16 does not fit --target onnx: give one for each target"),
        ("gguf", "q8_0,q4_0", "does not fit --target gguf"),
        ("onnx,gguf", "int4", "--precision int4 does not fit --target onnx,gguf"),
        ("onnx,gguf", "q4_0", "does not fit"),
        ("onnx,gguf", "int4,q4_0,f16", "does not fit"),
        ("gguf,gguf", "q8_0,q4_0", "does not fit"),
    ],
)
def test_what_cannot_be(target: str, precision: str | None, told: str) -> None:
    with pytest.raises(EdgeSkipError) as info:
        targets_of(target, precision)
    assert told in str(info.value)


def test_an_early_exit() -> None:
    assert exit_layer_of("early-exit", 8, GGUF) == 8
    for targets in (ONNX, GGUF, BOTH):
        assert exit_layer_of(None, None, targets) is None


@pytest.mark.parametrize(
    ("draft", "exit_layer", "targets", "told"),
    [
        ("early", 2, GGUF, "--draft early is unknown: choose early-exit"),
        ("", None, GGUF, "is unknown"),
        ("early-exit", None, GGUF, "needs both"),
        (None, 2, GGUF, "needs both"),
        (None, 0, GGUF, "needs both"),
        ("early-exit", 2, ONNX, "for --target gguf alone"),
        ("early-exit", 2, BOTH, "for --target gguf alone"),
    ],
)
def test_an_early_exit_that_cannot_be(draft: str | None, exit_layer: int | None, targets: Targets, told: str) -> None:
    with pytest.raises(EdgeSkipError, match=told):
        exit_layer_of(draft, exit_layer, targets)
