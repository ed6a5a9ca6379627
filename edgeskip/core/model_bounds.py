"""Bounds on the numbers in files that others may have written: wide enough for every model there is, narrow enough that
nothing computed from them overflows, never ends or asks for all memory."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

MAX_CONTEXT = 1 << 26  # tokens; the longest there is have 10 million
MAX_SCALE = 1e6  # mean ‖y‖/‖x‖ of a sublayer; the largest measured, of first blocks, are some hundreds
MAX_TOTAL_SCALE = 1e12  # of a plan's scales together, within which float32 has room for weights and stream

Blocks = Annotated[int, Field(gt=0, le=10_000)]
Width = Annotated[int, Field(gt=0, le=1 << 20)]
VocabSize = Annotated[int, Field(gt=0, le=1 << 24)]
ContextLength = Annotated[int, Field(gt=0, le=MAX_CONTEXT)]
Count = Annotated[int, Field(ge=0, le=1 << 53)]  # what JSON readers of every language have exactly
Scale = Annotated[float, Field(ge=1 / MAX_SCALE, le=MAX_SCALE, allow_inf_nan=False)]
Cosine = Annotated[float, Field(ge=-1.001, le=1.001, allow_inf_nan=False)]  # means of float32 round
