"""What a generation gives back: frozen records, units in the names."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from typing import Literal, get_args

from edgeskip.core.plan import Label
from edgeskip.runtime.engines.interface import EngineName

FinishReason = Literal["eos", "stop", "length", "interrupted"]
Strategy = Literal["plain", "speculative", "draft-only", "online"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)


@dataclass(frozen=True)
class SpeculationStats:
    """Counts and times of one generation. A round is a draft and its verification; other steps are plain."""

    rounds: int
    plain_steps: int
    drafted: int  # tokens proposed
    accepted: int  # of them, those the whole model agreed to
    acceptance_rate: float  # accepted / drafted; 0 where nothing was drafted
    acceptance_per_position: tuple[float, ...]  # share accepted of the i-th tokens proposed
    mean_accepted_length: float  # accepted tokens per round; each round gives one token more
    drafts: dict[str, tuple[int, int, int]]  # drafter → (rounds, drafted, accepted)
    draft_s: float
    verify_s: float
    plain_s: float  # in plain steps
    overhead_s: float  # decode_s that is none of the three: acceptance, sampling, text, choice of the drafter
    # Of plain decoding of this artifact, measured: by this generation's plain steps, or where these are few by steps
    # before it, corrected by how fast the device has been since.
    plain_tokens_per_s: float
    speedup: float  # decode tokens/s over that; 0 where nothing was decoded


@dataclass(frozen=True)
class OnlineStats:
    """What was watched and left out. Steps are decode steps: one fewer than tokens, the prompt gives the first."""

    window: int  # P
    threshold: float | None  # β; None where an export chose what is left out
    watched_steps: int
    gated_steps: int  # run without the FFNs in `gated`
    gated: tuple[str, ...]  # FFNs left out, in execution order
    similarity: dict[str, float]  # of every FFN with a gate, mean over the watched steps; empty where there were none
    scale: dict[str, float]  # mean norm ratio, by which the stream is multiplied in place of an FFN that is left out


@dataclass(frozen=True)
class GenerationStats:
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
    stats: GenerationStats
    drafted: tuple[bool, ...] = ()  # of each token: whether it came from a draft (that was accepted, or not verified)

    def as_dict(self) -> dict[str, object]:
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
