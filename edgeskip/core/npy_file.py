"""A .npy file whose header is not believed: type, shape and length are checked before anything is allocated or read."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeskip.core.errors import EdgeSkipError


def read_npy(path: Path, kinds: str, *, dimensions: int = 1) -> NDArray[Any]:
    """Return the array in the file at `path`; no pickle is ever read.

    Args:
        path: The file.
        kinds: Kinds of numpy's types (`dtype.kind`) that it may have: "iu" for integers.
        dimensions: How many dimensions it must have.

    Raises:
        ValueError: If it is not such an array, or holds less or more than its header says. One line.
        OSError: If it cannot be read.
    """
    with path.open("rb") as file:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                major, _ = np.lib.format.read_magic(file)
                read_header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
                shape, fortran_order, dtype = read_header(file)
        except OSError:
            raise
        except Exception:  # numpy evaluates the header as Python: TokenError, SyntaxError, TypeError, RecursionError …
            raise ValueError("its header is none of a .npy file") from None
        if not all(type(size) is int and size >= 0 for size in shape):
            raise ValueError("its header is none of a .npy file")
        if dtype.kind not in kinds or len(shape) != dimensions:
            raise ValueError(f"it holds {str(dtype)[:40]} in {len(shape)} dimensions")
        left = path.stat().st_size - file.tell()
        if math.prod(shape) * dtype.itemsize != left:
            raise ValueError(f"it holds {left} bytes, its header says {math.prod(shape) * dtype.itemsize}")
        array: NDArray[Any] = np.frombuffer(file.read(left), dtype)
    return array.reshape(shape, order="F" if fortran_order else "C")


def read_token_ids(path: Path, vocab_size: int) -> NDArray[np.int64]:
    """Return the token ids int64 [V'] in the file at `path`, each of a vocabulary of `vocab_size` and at most once.

    Raises:
        EdgeSkipError: If it holds anything else, or nothing.
    """
    try:
        ids = read_npy(path, "iu")
    except (OSError, ValueError) as error:
        raise EdgeSkipError(
            f"{path} is damaged (not a list of this model's token ids: {error}): export again"
        ) from None
    if not len(ids) or ids.min() < 0 or ids.max() >= vocab_size:
        raise EdgeSkipError(f"{path} is damaged (not a list of this model's token ids): export again")
    if len(np.unique(ids)) < len(ids):
        raise EdgeSkipError(f"{path} is damaged (it has a token twice): export again")
    return ids.astype(np.int64)
