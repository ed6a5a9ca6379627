"""What a generation returns: frozen records, with units in the names."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from typing import Literal, get_args

from edgeskip.core.plan import Label
from edgeskip.runtime.engines.interface import EngineName

FinishReason = Literal["eos", "stop", "length", "interrupted"]
"""Why an answer ended: an end token, a stop text, `max_tokens` or a full context, or the caller closed the stream."""
Strategy = Literal["plain", "speculative", "draft-only", "online"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)


@dataclass(frozen=True)
class SpeculationStats:
    """What speculation did in one generation. A round is a draft and its verification; all other steps are plain.

    Attributes:
        rounds: Number of rounds.
        plain_steps: Decode steps without a draft.
        drafted: Tokens proposed.
        accepted: Proposed tokens that the whole model agreed to.
        acceptance_rate: accepted / drafted; 0 if nothing was drafted.
        acceptance_per_position: Share accepted of the i-th tokens that rounds proposed.
        mean_accepted_length: Accepted tokens per round; each round gives one token more.
        drafts: Drafter → (rounds, drafted, accepted).
        draft_s: Seconds spent drafting.
        verify_s: Seconds spent verifying.
        plain_s: Seconds spent in plain steps.
        overhead_s: Seconds of decoding that are none of the three: acceptance, sampling, text, choosing the drafter.
        plain_tokens_per_s: Speed of plain decoding of this artifact, measured by this generation's plain steps or, if
            there are few, by earlier ones, corrected for how the device's speed has changed since.
        speedup: Decode tokens/s over `plain_tokens_per_s`; 0 if nothing was decoded.
    """

    rounds: int
    plain_steps: int
    drafted: int
    accepted: int
    acceptance_rate: float
    acceptance_per_position: tuple[float, ...]
    mean_accepted_length: float
    drafts: dict[str, tuple[int, int, int]]
    draft_s: float
    verify_s: float
    plain_s: float
    overhead_s: float
    plain_tokens_per_s: float
    speedup: float


@dataclass(frozen=True)
class OnlineStats:
    """What online skipping did in one generation.

    Steps are decode steps: one fewer than tokens, because the prompt gives the first token.

    Attributes:
        window: Steps P that were to be watched.
        threshold: Similarity β from which an FFN is left out; None if the export chose the FFNs.
        watched_steps: Steps with every FFN running.
        gated_steps: Steps without the FFNs in `gated`.
        gated: Names of the FFNs left out, in execution order.
        similarity: For every FFN with a gate, its mean cosine similarity over the watched steps; empty if there were
            none.
        scale: For every FFN with a gate, the mean norm ratio that replaces it if it is left out.
    """

    window: int
    threshold: float | None
    watched_steps: int
    gated_steps: int
    gated: tuple[str, ...]
    similarity: dict[str, float]
    scale: dict[str, float]


@dataclass(frozen=True)
class GenerationStats:
    """Times and sizes of one generation. Time that the caller spends between pieces of a stream does not count.

    Attributes:
        prompt_tokens: Tokens of the prompt.
        generated_tokens: Tokens of the answer.
        load_s: Seconds to open the artifact, once per session.
        ttft_s: Seconds from the request to its first token, tokenization included.
        prefill_s: Seconds to run the prompt.
        prefill_tokens_per_s: Prompt tokens per second.
        decode_s: Seconds from the first token to the end.
        decode_tokens_per_s: Decode steps per second; 0 if there were none.
        python_share: Share of `decode_s` spent outside the inference runtime, 0 to 1.
        threads: Threads used.
        peak_rss_bytes: Most physical memory of the process so far; None if the platform does not report it.
        speculation: What speculation did; None unless the strategy is `speculative`.
        online: What online skipping did; None unless the strategy is `online`.
    """

    prompt_tokens: int
    generated_tokens: int
    load_s: float
    ttft_s: float
    prefill_s: float
    prefill_tokens_per_s: float
    decode_s: float
    decode_tokens_per_s: float
    python_share: float
    threads: int
    peak_rss_bytes: int | None
    speculation: SpeculationStats | None = None
    online: OnlineStats | None = None


@dataclass(frozen=True)
class Generation:
    """A finished or interrupted answer.

    Attributes:
        text: The answer, without the stop text.
        tokens: Its token ids, without the end token; the tokens of a stop text are included.
        finish_reason: Why it ended.
        label: What the output must be called: `dense`, `verified`, `lossy-skip` or `draft-only`.
        strategy: How it was decoded.
        engine: `onnxruntime` or `llama.cpp`.
        provider: The processor that ran it.
        stats: Times and sizes.
        drafted: For each token, whether it came from a draft (that was accepted, or never verified).

    Example:
        >>> with edgeskip.load("artifact", threads=1) as session:
        ...     generation = session.generate("Once upon a time", max_tokens=8)
        >>> generation.stats.generated_tokens, generation.finish_reason
        (8, 'length')
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason
    label: Label
    strategy: Strategy
    engine: EngineName
    provider: str
    stats: GenerationStats
    drafted: tuple[bool, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """Return the same as plain data, which `json.dumps` writes."""
        return dataclasses.asdict(self) | {"tokens": list(self.tokens), "drafted": list(self.drafted)}


def peak_rss_bytes() -> int | None:
    """Return the most physical memory that this process has held, in bytes; None if the platform does not report it."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
