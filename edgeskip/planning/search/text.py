"""The windows of a search: a corpus cut and shared out between fitting, comparing and reporting."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeskip.calibration.corpus import Corpus, check_ids, cut, ids_of, start_tokens
from edgeskip.core.errors import EdgeSkipError

if TYPE_CHECKING:
    from edgeskip.models.source import ModelSource
    from edgeskip.planning.search.policy import SearchPolicy

Windows = list[list[int]]


@dataclass(frozen=True)
class SearchText:
    """Token ids of windows of one length, drawn from all over the corpus; no window has two uses."""

    fit: Windows
    compare: Windows
    report: Windows


def search_text(source: ModelSource, corpus: Corpus, policy: SearchPolicy) -> SearchText:
    """Return the windows that `policy` asks for.

    Raises:
        EdgeSkipError: If the corpus has too few tokens.
    """
    if corpus.continued:
        raise EdgeSkipError("--corpus self is for calibrate; a search needs text: name files or leave --corpus out")
    tokenizer = source.encoder()
    positions = source.decoder.config.max_positions
    if policy.context > positions:
        raise EdgeSkipError(f"--window-tokens {policy.context} is longer than the model's {positions} positions")
    counts = policy.windows
    wanted = sum(counts)
    ids = ids_of(corpus, tokenizer)
    check_ids(ids, source.decoder.config.vocab_size, tokenizer)
    found = cut(ids, start_tokens(tokenizer), context=policy.context, tokens=wanted * policy.context, seed=policy.seed)
    if len(found) < wanted:
        raise EdgeSkipError(
            f"the corpus has {len(ids)} tokens and the search needs {wanted} windows of {policy.context}: add text "
            "(--corpus), or give fewer --tokens or --window-tokens"
        )
    random.Random(policy.seed).shuffle(found)
    fit, compare = counts[0], counts[0] + counts[1]
    return SearchText(found[:fit], found[fit:compare], found[compare:])
