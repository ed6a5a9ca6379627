"""What a plan costs against the dense model: quality lost on held-out text, and the speed-up predicted. Data only.

A profile's plan carries such a record (the plan on the torch model), and so does every artifact (the artifact itself).
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from edgeskip.core.plan import Plan


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DenseComparison(_Record):
    """How far something is from the dense model in float32, over text that nothing was calibrated on or fitted to."""

    text: str = Field(description="Name of the text")
    sha256: str = Field(description="Hash of the text's bytes")
    tokens: int = Field(gt=0, description="Tokens predicted")
    window: int = Field(gt=1, description="Tokens of a window; windows follow each other, each starts afresh")
    perplexity: float = Field(gt=0)
    dense_perplexity: float = Field(gt=0, description="The dense model's, same tokens")
    kl_divergence: float = Field(ge=0, description="mean KL(dense ‖ this) per token, nats")
    top1_agreement: float = Field(ge=0, le=1, description="Share of tokens whose likeliest is the dense model's")

    @property
    def perplexity_change(self) -> float:
        """A share: 0.08 = 8 % higher than the dense model's."""
        return self.perplexity / self.dense_perplexity - 1


class SpeedPrediction(_Record):
    """Predicted, not measured: dense time over skipped."""

    prefill: float = Field(gt=0)
    decode: float = Field(gt=0)
    basis: str = Field(description="A device profile's name, or what else the times are of")


class PlanCost(_Record):
    """What a plan costs, as far as it was measured."""

    digest: str = Field(description="Of the plan that was measured; another one has another cost")
    plan: DenseComparison | None = Field(default=None, description="The plan on the torch model, in float32")
    artifact: DenseComparison | None = Field(
        default=None, description="The artifact itself, what its precision costs included; never in a profile"
    )
    speedup: SpeedPrediction | None = None


def plan_digest(fingerprint: str, plan: Plan) -> str:
    """Return what identifies one plan of one model: its skips, what replaces them and with which scales."""
    skips = [[str(skip.sublayer), skip.scale] for skip in plan.skips]
    data = json.dumps([fingerprint, plan.compensation if skips else "none", skips])
    return hashlib.sha256(data.encode()).hexdigest()[:16]


def cost_of(cost: PlanCost | None, fingerprint: str, plan: Plan) -> PlanCost | None:
    """`cost` if it is that of `plan`; None if the plan was changed since, or nothing was measured."""
    return cost if cost is not None and cost.digest == plan_digest(fingerprint, plan) else None


def quality_line(found: DenseComparison) -> str:
    """Return a comparison in words."""
    return (
        f"perplexity {found.dense_perplexity:.2f} → {_perplexity(found.perplexity)} ({change(found)}), top-1 "
        f"{found.top1_agreement:.1%} of dense, KL {found.kl_divergence:.3g} nats, on {found.tokens:,} held-out tokens "
        f"of {found.text}"
    )


def speed_line(found: SpeedPrediction) -> str:
    """Return a prediction in words."""
    return f"predicted speed-up: prefill {found.prefill:.2f}×, decode {found.decode:.2f}× ({found.basis})"


def cost_facts(cost: PlanCost | None) -> dict[str, str]:
    """Return rows for a table of facts; {} if nothing is known."""
    if cost is None:
        return {}
    found = {
        "against dense": quality_line(cost.artifact) if cost.artifact else None,
        "plan against dense": f"{quality_line(cost.plan)} (in float32, on the torch model)" if cost.plan else None,
        "speed": speed_line(cost.speedup) if cost.speedup else None,
    }
    return {name: line for name, line in found.items() if line is not None}


def short_cost(cost: PlanCost | None) -> str | None:
    """Return a clause for a summary line; None if nothing was measured. Of an artifact, else of its plan alone."""
    found = cost and (cost.artifact or cost.plan)
    if not found:
        return None
    return f"perplexity {change(found)}, top-1 {found.top1_agreement:.0%} of dense"


def change(found: DenseComparison) -> str:
    """Return the change of perplexity: +7.9 %, or a factor once a percentage says little."""
    share = found.perplexity_change
    return f"{share * 100:+.1f} %" if share < 10 else f"× {share + 1:,.3g}"


def _perplexity(value: float) -> str:
    return f"{value:.2f}" if value < 10_000 else f"{value:.3g}"
