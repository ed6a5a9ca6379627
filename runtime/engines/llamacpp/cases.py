"""What llama.cpp's self-test runs: every weight type that an export writes, in the ways that a model uses it."""

from __future__ import annotations

# Name → ggml_type (ggml.h) and the relative error (norm of the difference / norm) that the type may cause in a product
# with normal weights and inputs: twice what was measured for blocks, more for floats, which some processors round more.
TYPES = {
    "f32": (0, 1e-3), "f16": (1, 0.02), "bf16": (30, 0.02), "q8_0": (8, 0.03), "q5_1": (7, 0.08), "q5_0": (6, 0.09),
    "q4_1": (3, 0.16), "q4_0": (2, 0.18), "q2_K": (10, 0.65), "q3_K": (11, 0.32), "q4_K": (12, 0.15),
    "q5_K": (13, 0.08), "q6_K": (14, 0.04), "iq4_nl": (20, 0.16), "iq4_xs": (23, 0.16),
}  # fmt: skip
ONE_ROW, SEVERAL_ROWS = 1, 37  # a decode step; a prompt, larger than any kernel's tile and no multiple of one
MOST_MODEL_ERROR = 0.02  # of a whole model in float16; the caches round too
CASES = [f"{name}/{way}" for name in TYPES for way in ("lookup", ONE_ROW, SEVERAL_ROWS)] + [
    f"{name}/{rows}" for name in ("attention", "model") for rows in (ONE_ROW, SEVERAL_ROWS)
]
