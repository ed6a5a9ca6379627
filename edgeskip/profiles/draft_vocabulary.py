"""Which tokens a draft's head knows: the most frequent of a corpus (FR-Spec, arXiv 2502.14856 §3). Policy only:
counting is `edgeskip.calibration`, trimming a head is `edgeskip.exporters.draft`.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from edgeskip.core.errors import EdgeSkipError


def draft_vocabulary(token_counts: NDArray[np.int64], size: int, always: Collection[int] = ()) -> NDArray[np.int64]:
    """Return the `size` most frequent tokens, among them every id of `always` (end tokens): int64 [size], ascending.

    `token_counts` [vocab_size] says how often a corpus has each token (`Vectors.token_counts`). Of tokens that are
    equally frequent, such as those the corpus does not have, the lower id is taken: merges of a BPE vocabulary are
    numbered roughly in the order of their frequency. Raises EdgeSkipError if `size` is not in 1 … vocab_size or too
    small for `always`, or if an id of `always` is none of the vocabulary.
    """
    vocab_size = len(token_counts)
    if not 1 <= size <= vocab_size:
        raise EdgeSkipError(f"a draft vocabulary of {size} tokens is impossible: choose 1 … {vocab_size}")
    kept = np.unique(np.fromiter(always, np.int64, len(always)))
    if len(kept) and not 0 <= kept[0] <= kept[-1] < vocab_size:
        raise EdgeSkipError(f"token {kept[0] if kept[0] < 0 else kept[-1]} is not one of the model's {vocab_size}")
    if len(kept) > size:
        raise EdgeSkipError(f"a draft vocabulary of {size} tokens has no room for {len(kept)} end tokens: choose more")
    rank = token_counts.astype(np.int64)
    rank[kept] = np.iinfo(np.int64).max
    return np.sort(np.argsort(-rank, kind="stable")[:size])


def coverage(token_counts: NDArray[np.int64], vocabulary: NDArray[np.int64]) -> float:
    """Share of the counted tokens that are in `vocabulary` (ids, each once), 0 … 1; 0 if none was counted."""
    total = int(token_counts.sum())
    return int(token_counts[vocabulary].sum()) / total if total else 0.0
