"""What an artifact's remaining weights and floating-point operations predict for its time, against the dense one's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeskip.bench import model_cost as counted


@dataclass(frozen=True)
class Work:
    """Bytes read and floating-point operations done, for one decode step and for one prefill."""

    decode_bytes: float
    decode_flops: float
    prefill_flops: float


def work_of(path: Path, *, prompt_tokens: int, new_tokens: int) -> Work:
    """Of an artifact folder or a GGUF file, by `edgeskip.bench.model_cost`.

    Decode: at the mean position of the new tokens. Prefill: over the prompt's positions, causally, with the head on the
    last one only.
    """
    found = counted.model_cost_of(path)
    positions = prompt_tokens + new_tokens / 2
    return Work(
        decode_bytes=found.weight_bytes + found.kv_bytes_per_token * positions,
        decode_flops=found.matmul_flops + found.head_flops + found.attention_flops * positions,
        prefill_flops=found.matmul_flops * prompt_tokens
        + found.head_flops
        + found.attention_flops * prompt_tokens * (prompt_tokens + 1) / 2,
    )


@dataclass(frozen=True)
class Prediction:
    """Predicted time over the dense artifact's; decode is bound by bytes or by operations, so by the larger ratio."""

    decode_bytes_ratio: float
    decode_flops_ratio: float
    prefill_flops_ratio: float

    @property
    def decode(self) -> float:
        return max(self.decode_bytes_ratio, self.decode_flops_ratio)


def prediction(skipped: Work, dense: Work) -> Prediction:
    return Prediction(
        skipped.decode_bytes / dense.decode_bytes,
        skipped.decode_flops / dense.decode_flops,
        skipped.prefill_flops / dense.prefill_flops,
    )
