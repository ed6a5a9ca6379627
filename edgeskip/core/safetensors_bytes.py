"""Arrays from the bytes of a safetensors file that is not believed."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from edgeskip.core.json_file import parse_json


def read_arrays(data: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return what a safetensors file holds.

    Args:
        data: The whole file; the arrays share its memory and cannot be written to.

    Returns:
        The arrays by name, and the file's metadata, which the format keeps as text.

    Raises:
        ValueError: If it is not such a file, or has arrays of a type that numpy does not have, such as BF16. One line.

    Source: the format's description in the safetensors library's README.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = load(data)
    except SafetensorError as error:
        raise ValueError(str(error)) from None
    except KeyError as error:  # how its table of numpy's types says it
        raise ValueError(f"an array is of type {error.args[0]}, which numpy does not have") from None
    header = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return arrays, header.get("__metadata__") or {}
