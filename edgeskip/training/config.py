"""What a training run is asked to do: frozen settings, checked here, known to every part of training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from edgeskip.core.errors import EdgeSkipError
from edgeskip.profiles.exit_adapter import AdapterKind
from edgeskip.training.schedules import Curriculum, Weighting

Method = Literal["layerskip", "exit-adapter", "heal"]
METHODS: tuple[Method, ...] = get_args(Method)
Decay = Literal["linear", "cosine", "constant"]


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW over `steps` steps (or `epochs` passes over the data, where `steps` is None) of `batch_size` examples.

    The learning rate rises linearly for `warmup` steps and then falls as `decay` says. The gradient's norm is clipped
    to `clip`. `save_every`: steps between checkpoints; a killed run loses at most those.
    """

    learning_rate: float
    batch_size: int = 16
    epochs: float = 1.0
    steps: int | None = None
    warmup: int = 20
    decay: Decay = "cosine"
    weight_decay: float = 0.0
    clip: float = 1.0
    seed: int = 0
    save_every: int = 50

    def __post_init__(self) -> None:
        checks = {
            "--learning-rate": 0 < self.learning_rate < math.inf,
            "--batch-size": self.batch_size >= 1,
            "--epochs": 0 < self.epochs < math.inf,
            "--steps": self.steps is None or self.steps >= 1,
            "--warmup": self.warmup >= 0,
            "--save-every": self.save_every >= 1,
        }
        for option, holds in checks.items():
            if not holds:
                zero = " or 0" if option == "--warmup" else ""
                raise EdgeSkipError(f"{option} must be a positive number{zero}")
        if self.decay not in get_args(Decay):
            raise EdgeSkipError(f"--decay {self.decay} is unknown: choose {', '.join(get_args(Decay))}")

    def steps_for(self, per_epoch: int) -> int:
        """Return how many steps that is, where an epoch has `per_epoch`; at least one."""
        return self.steps or max(1, round(self.epochs * per_epoch))

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate of `step`, counted from 0, of `steps`."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(steps - self.warmup, 1)
        factor = {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1.0}[self.decay]
        return self.learning_rate * factor


@dataclass(frozen=True)
class SelfDataConfig:
    """How the model writes its own examples: `new_tokens` at most after each prompt, `batch` prompts at once
    (None: as many as their keys and values leave room for).

    `prompts`: files of them (`FILE#FIELD`), () = those that ship with EdgeSkip. `temperature` 0 = greedy.
    """

    prompts: tuple[str, ...] = ()
    new_tokens: int = 192
    batch: int | None = None
    temperature: float = 0.0

    def __post_init__(self) -> None:
        if self.new_tokens < 1 or self.batch == 0 or not 0 <= self.temperature < math.inf:
            raise EdgeSkipError("--new-tokens must be positive and --temperature must not be negative")


@dataclass(frozen=True)
class LowRankConfig:
    """A low-rank update of every linear layer of the blocks: W + scaling·B·A (Hu et al. 2021, whose α is scaling·rank).

    `early_rank`: that of the first `early_blocks` blocks, None = the same. An exit asks most of the blocks before it,
    so a given size does more there.
    """

    rank: int
    scaling: float = 2.0
    early_rank: int | None = None
    early_blocks: int = 0

    def __post_init__(self) -> None:
        if self.rank < 1 or not 0 < self.scaling < math.inf or (self.early_rank is not None and self.early_rank < 1):
            raise EdgeSkipError("--lora, --lora-early and --lora-scaling must be positive numbers")
        if self.early_rank is not None and self.early_blocks < 1:
            raise EdgeSkipError("--lora-early is the rank of the blocks before the deepest exit: name it with --exits")

    def rank_of(self, block: int) -> int:
        """Return the rank in block number `block`."""
        return self.rank if self.early_rank is None or block >= self.early_blocks else self.early_rank


@dataclass(frozen=True)
class LayerSkipConfig:
    """LayerSkip's: `p_max` of layer dropout, `e_scale` and `curriculum` of the early-exit loss.

    `interval` is R of the rotational curriculum. `exits`: exit layers that learn, () = every block's.
    `weighting` of the exits' losses: `edgeskip.training.schedules.exit_weights`.
    """

    p_max: float = 0.1
    e_scale: float = 1.0
    curriculum: Curriculum = "rotational"
    interval: int = 8
    exits: tuple[int, ...] = ()
    weighting: Weighting = "paper"

    def __post_init__(self) -> None:
        if not 0 <= self.p_max < 1:
            raise EdgeSkipError(f"--p-max {self.p_max} is not a rate: choose 0 … below 1")
        if not 0 <= self.e_scale < math.inf:
            raise EdgeSkipError(
                f"--e-scale {self.e_scale} is out of range; 0 trains no exits, 1 is the paper's largest"
            )
        if self.curriculum not in get_args(Curriculum):
            raise EdgeSkipError(f"--curriculum {self.curriculum} is unknown: choose {', '.join(get_args(Curriculum))}")
        if self.weighting not in get_args(Weighting):
            raise EdgeSkipError(f"--exit-weights {self.weighting} is unknown: choose {', '.join(get_args(Weighting))}")
        if self.weighting == "paper" and self.exits == (1,):
            raise EdgeSkipError("--exits 1 has weight 0 in the paper's formula: add --exit-weights equal")
        if self.interval < 1:
            raise EdgeSkipError("--interval must be positive")


@dataclass(frozen=True)
class ExitPolicy:
    """Which exits get an adapter of what `kind`.

    `vocabulary`: tokens that the draft's head will know, None = all. `go_on`: start from the profile's trained adapter
    of that kind, else its calibrated map, else the model's own norm; False = from the norm.
    """

    layers: tuple[int, ...]
    kind: AdapterKind = "block"
    vocabulary: int | None = None
    go_on: bool = True

    def __post_init__(self) -> None:
        if not self.layers:
            raise EdgeSkipError("--exits is missing: name the exit layers to train, as in --exits 4,8")
        if self.kind not in get_args(AdapterKind):
            raise EdgeSkipError(f"--adapter {self.kind} is unknown: choose {' or '.join(get_args(AdapterKind))}")
        if self.vocabulary is not None and self.vocabulary < 1:
            raise EdgeSkipError("--draft-vocab must be positive")
