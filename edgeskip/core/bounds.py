"""Types of numbers and names in files, with bounds that no machine comes near: arithmetic on what a file says stays
finite, and what no program of ours wrote is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Kind = TypeVar("Kind", bound=DataclassInstance)
else:
    Kind = TypeVar("Kind")

# Wide enough for every model there is, narrow enough that nothing computed from them overflows or takes all memory.
MAX_CONTEXT = 1 << 26  # tokens; the longest there is have 10 million
MAX_SCALE = 1e6  # mean ‖y‖/‖x‖ of a sublayer; the largest measured, of first blocks, are some hundreds
MAX_TOTAL_SCALE = 1e12  # of a plan's scales together, within which float32 has room for weights and stream

Blocks = Annotated[int, Field(gt=0, le=10_000)]
Width = Annotated[int, Field(gt=0, le=1 << 20)]
VocabSize = Annotated[int, Field(gt=0, le=1 << 24)]
ContextLength = Annotated[int, Field(gt=0, le=MAX_CONTEXT)]
WholeNumber = Annotated[int, Field(ge=0, le=1 << 53)]  # what JSON readers of every language have exactly
Scale = Annotated[float, Field(ge=1 / MAX_SCALE, le=MAX_SCALE, allow_inf_nan=False)]
Cosine = Annotated[float, Field(ge=-1.001, le=1.001, allow_inf_nan=False)]  # means of float32 round

SHORTEST_S = 1e-9
"""No clock here counts anything shorter: a time below was not measured, and would spoil every ratio it gets into."""


def _measured(seconds: float) -> float:
    if 0 < seconds < SHORTEST_S:
        raise ValueError(f"a time below {SHORTEST_S:g} s was not measured")
    return seconds


Seconds = Annotated[float, Field(ge=0, le=1e8, allow_inf_nan=False), AfterValidator(_measured)]
Tokens = Annotated[int, Field(ge=0, le=10_000_000)]
Count = Annotated[int, Field(ge=0, le=1_000_000_000_000)]
Bytes = Annotated[int, Field(ge=0, le=1 << 60)]
Threads = Annotated[int, Field(ge=0, le=1_000_000)]
Round = Annotated[int, Field(ge=0, le=1_000_000)]
# Of their own: pydantic takes the bound of the type, not that of a Field(ge=1) beside it.
SomeTokens = Annotated[int, Field(ge=1, le=10_000_000)]
SomeThreads = Annotated[int, Field(ge=1, le=1_000_000)]
SomeRounds = Annotated[int, Field(ge=1, le=1_000_000)]
Amount = Annotated[float, Field(ge=0, le=1e18, allow_inf_nan=False)]
"""Bytes, operations or joules."""
Speed = Annotated[float, Field(ge=1e-9, le=1e12, allow_inf_nan=False)]
"""Tokens per second."""
Reading = Annotated[float, Field(ge=-1e12, le=1e12, allow_inf_nan=False)]
"""Of an instrument, or a score."""
Name = Annotated[str, Field(max_length=1000)]


def first_problem(error: ValidationError) -> str:
    """Return where the first value is that does not fit, and why, in one line."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part)[:80] for part in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"]


def dataclass_from(kind: type[Kind], value: Any) -> Kind:
    """Return the dataclass `kind` made of the JSON object `value`, its types and bounds checked.

    Raises:
        ValueError: If a field is missing, unknown, or not of its type or within its bounds. One line.
    """
    if not isinstance(value, Mapping):
        raise ValueError("not an object")
    unknown = [str(name) for name in value if name not in {field.name for field in fields(kind)}]
    if unknown:
        raise ValueError(f"unknown field {unknown[0][:80]!r}")
    try:
        return TypeAdapter(kind).validate_python(dict(value))
    except ValidationError as error:
        raise ValueError(first_problem(error)) from None
