"""What a generation gives back: frozen records, units in the names."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from typing import Any, Literal, get_args

from edgeskip.core.plan import Label
from edgeskip.runtime.engines.interface import EngineName
from edgeskip.runtime.online import OnlineStats
from edgeskip.runtime.speculation.statistics import SpeculationStats

FinishReason = Literal["eos", "stop", "length", "interrupted"]
Strategy = Literal["plain", "speculative", "draft-only", "online"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)


@dataclass(frozen=True)
class Stats:
    """Times and sizes of one generation. Time the caller spends between pieces of a stream is not counted."""

    prompt_tokens: int
    generated_tokens: int
    load_s: float  # opening the artifact, once per session
    ttft_s: float  # from the request to its first token, tokenizing included
    prefill_s: float  # running the prompt
    prefill_tokens_per_s: float
    decode_s: float  # from the first token to the end
    decode_tokens_per_s: float  # decode steps per second; 0 where there was none
    python_share: float  # part of decode_s spent outside the inference runtime
    threads: int
    peak_rss_bytes: int | None  # of the process so far; None where the platform does not tell
    speculation: SpeculationStats | None = None  # None unless the strategy is speculative
    online: OnlineStats | None = None  # None unless the strategy is online


@dataclass(frozen=True)
class Generation:
    """A finished (or interrupted) generation."""

    text: str
    tokens: tuple[int, ...]  # without the end token; a stop string's tokens are included
    finish_reason: FinishReason
    label: Label
    strategy: Strategy
    engine: EngineName
    provider: str
    stats: Stats
    drafted: tuple[bool, ...] = ()  # of each token: whether it came from a draft (that was accepted, or not verified)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dataclasses.asdict(self) | {"tokens": list(self.tokens), "drafted": list(self.drafted)}


def peak_rss_bytes() -> int | None:
    """Most physical memory this process has held, in bytes."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
