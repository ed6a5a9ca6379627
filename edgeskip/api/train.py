"""`edgeskip.train`: teach a model to exit early, an exit to predict, or a skipped model to do without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from edgeskip.api.argument_names import names_arguments
from edgeskip.api.calibrate import is_first_process
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.locks import claim
from edgeskip.core.progress import Progress, ProgressEvent, reporting_to, silent
from edgeskip.profiles.schema import Profile

if TYPE_CHECKING:
    from edgeskip.training.loop import Report

TrainMethod = Literal["layerskip", "exit-adapter", "heal"]
TRAIN_METHODS: tuple[TrainMethod, ...] = get_args(TrainMethod)
# Arguments of some methods only.
_METHODS = {
    "model": ("exit-adapter", "heal"),
    "exits": ("layerskip", "exit-adapter"),
    "lora": ("layerskip", "heal"),
    "lora_early": ("layerskip",),
    "lora_scaling": ("layerskip", "heal"),
    "p_max": ("layerskip",),
    "e_scale": ("layerskip",),
    "curriculum": ("layerskip",),
    "interval": ("layerskip",),
    "exit_weights": ("layerskip",),
    "adapter": ("exit-adapter",),
    "draft_vocab": ("exit-adapter",),
}


@dataclass(frozen=True)
class TrainingResult:
    """A finished training run.

    Attributes:
        path: Its folder: a Hugging Face or PEFT folder (layerskip), or one with a profile.
        method: How it was trained.
        profile: The profile in the folder; None for layerskip.
        record: What `train.json` in the folder says: model, data, settings, losses, and figures on held-out examples.
            Empty in the other processes of a launch.
        summary: The figures on held-out examples, in words.
    """

    path: Path
    method: TrainMethod
    profile: Profile | None
    record: Mapping[str, object]
    summary: str


@names_arguments
def train(
    start: str | Path | Profile,
    *,
    method: TrainMethod,
    output: str | Path,
    data: str | Path | Sequence[str | Path],
    model: str | Path | None = None,
    prompts: str | Path | Sequence[str | Path] | None = None,
    validation: str | Path | Sequence[str | Path] | None = None,
    exits: Sequence[int] | None = None,
    lora: int | None = None,
    lora_early: int | None = None,
    lora_scaling: float | None = None,
    p_max: float | None = None,
    e_scale: float | None = None,
    curriculum: Literal["rotational", "gradual"] | None = None,
    interval: int | None = None,
    exit_weights: Literal["paper", "equal"] | None = None,
    adapter: Literal["block", "map"] | None = None,
    draft_vocab: int | None = None,
    epochs: float | None = None,
    steps: int | None = None,
    batch_size: int = 16,
    learning_rate: float | None = None,
    warmup: int = 20,
    decay: Literal["cosine", "linear", "constant"] = "cosine",
    context: int | None = None,
    held_out: float | None = None,
    new_tokens: int | None = None,
    temperature: float | None = None,
    seed: int = 0,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    save_every: int = 50,
    overwrite: bool = False,
    progress: Progress = silent,
) -> TrainingResult:
    """Train what early exits or a skip plan need. Needs the extra `train`.

    A run that was interrupted goes on in its folder. Under `accelerate launch` or torchrun processes share the work.

    Args:
        start: layerskip: a model (name, folder, hub id or `.gguf`). exit-adapter, heal: a profile.
        method: `layerskip`: the whole model learns to exit early. `exit-adapter`: the model stays as it is, each exit
            gets a map or a block. `heal`: a LoRA wins back what the profile's skip plan lost.
        output: Folder of the run.
        data: What to learn from: `"self"` (what the model itself answers), `FILE`, `FILE#FIELD` or
            `FILE#PROMPT,RESPONSE`; text, `.jsonl`, `.tsv` or `.csv`.
        model: exit-adapter, heal: where the model is, if not where the profile says.
        prompts: self: `FILE` or `FILE#FIELD` with prompts; None = those that ship.
        validation: Files to measure on; None = a part held out of `data`.
        exits: Exit layers that learn; None = all, for layerskip.
        lora: Rank of a LoRA; None = all weights learn (layerskip), 16 (heal).
        lora_early: layerskip: its rank in the blocks before the deepest exit; None = the same.
        lora_scaling: Its scaling, alpha / rank; None = 2.
        p_max: layerskip: rate at which the last block is dropped; None = 0.1.
        e_scale: layerskip: scale of the exits' losses; None = 1.
        curriculum: layerskip: when exits learn; None = rotational.
        interval: layerskip: train every R-th exit at each step (rotational); None = 8, or 1 with `exits`.
        exit_weights: layerskip: weights of the exits' losses: `paper` (square of the depth) or `equal` (exits together
            as much as the last layer); None = paper.
        adapter: exit-adapter: `block` (one more transformer block for the draft) or `map` (a matrix); None = block.
        draft_vocab: exit-adapter: train for a draft head of this many tokens; None = all.
        epochs: Passes over the data; None = 1.
        steps: Steps in place of `epochs`.
        batch_size: Examples per step, of all processes together.
        learning_rate: The highest; None = 2e-4, or 1e-3 with a LoRA and for exit-adapter.
        warmup: Steps over which it rises.
        decay: How it falls.
        context: Most tokens of an example; None = 512, or what the model holds.
        held_out: Share of the examples that is measured on, not learned; None = 0.02.
        new_tokens: self: most tokens of an answer; None = 192.
        temperature: self: 0 = greedy, which None is.
        seed: Seed of everything that is drawn.
        dtype: `auto`: bfloat16 if the hardware computes in it.
        save_every: Steps between checkpoints: what a killed run loses at most.
        overwrite: Replace the run that the folder holds.
        progress: Gets the stages before the first step, then `steps` with losses and tokens per second.

    Returns:
        The run's folder, its profile if it has one, and its figures.

    Raises:
        EdgeSkipError: If an argument has no effect with the method, the data cannot be read, the folder holds something
            else, or a loss is not finite.

    Example:
        >>> result = edgeskip.train("profile.json", method="heal", data="corpus.txt", output="healed",
        ...                         steps=2, batch_size=2, context=32, lora=2)
        >>> result.profile.plan.skip
        ['ffn.1', 'ffn.2']
        >>> sorted(key for key in result.record["held_out"] if key.endswith("perplexity"))
        ['dense_perplexity', 'healed_perplexity', 'skipped_perplexity']
    """
    from edgeskip.training.config import ExitPolicy, LayerSkipConfig, LowRankConfig, OptimizerConfig, SelfDataConfig
    from edgeskip.training.data import Data
    from edgeskip.training.run_card import in_words

    if method not in TRAIN_METHODS:
        raise EdgeSkipError(f"--method {method} is unknown; choose from {', '.join(TRAIN_METHODS)}")
    sources, layers = _names(data), tuple(sorted(set(exits or ())))
    optional = {
        "model": model, "prompts": prompts, "validation": validation, "exits": exits, "lora": lora,
        "lora_early": lora_early, "lora_scaling": lora_scaling, "p_max": p_max, "e_scale": e_scale,
        "curriculum": curriculum, "interval": interval, "exit_weights": exit_weights, "adapter": adapter,
        "draft_vocab": draft_vocab, "epochs": epochs, "steps": steps, "held_out": held_out, "new_tokens": new_tokens,
        "temperature": temperature,
    }  # fmt: skip
    _refuse_needless(
        {name for name, value in optional.items() if value is not None},
        method,
        writes="self" in sources,
        rotates=curriculum in (None, "rotational"),
        learns=e_scale is None or e_scale > 0,
    )
    scaling = 2.0 if lora_scaling is None else lora_scaling
    low_rank = LowRankConfig(lora, scaling, lora_early, max(layers, default=0)) if lora is not None else None
    usual = 2e-4 if method == "layerskip" and lora is None else 1e-3
    policy = OptimizerConfig(
        usual if learning_rate is None else learning_rate, batch_size, 1.0 if epochs is None else epochs, steps, warmup,
        decay, seed=seed, save_every=save_every,
    )  # fmt: skip
    generation = SelfDataConfig(
        _names(prompts), 192 if new_tokens is None else new_tokens, temperature=temperature or 0.0
    )
    texts = Data(sources, context, _names(validation), 0.02 if held_out is None else held_out, generation, seed)
    folder = Path(output).expanduser()
    report = _Report(progress)
    with claim(*([folder] if is_first_process() else [])), reporting_to(progress):
        progress(ProgressEvent("loading the model"))
        if method == "layerskip":
            from edgeskip.models.source import open_model
            from edgeskip.training.train_layerskip import train_layerskip

            if isinstance(start, Profile):
                raise EdgeSkipError("layerskip trains a model, not a profile; name the model")
            recipe = LayerSkipConfig(
                0.1 if p_max is None else p_max, 1.0 if e_scale is None else e_scale, curriculum or "rotational",
                interval if interval is not None else 1 if layers else 8, layers, exit_weights or "paper",
            )  # fmt: skip
            card = train_layerskip(
                open_model(str(start)), texts, recipe, policy, low_rank, folder, dtype=dtype, overwrite=overwrite,
                progress=report.step, advance=report.advance,
            )  # fmt: skip
        else:
            from edgeskip.training.trained_profile import open_profile

            exit_policy = ExitPolicy(layers, adapter or "block", draft_vocab) if method == "exit-adapter" else None
            given = open_profile(start, None if model is None else str(model))
            if exit_policy is not None:
                from edgeskip.training.train_exits import train_exits

                card = train_exits(
                    given, texts, exit_policy, policy, folder, dtype=dtype,
                    overwrite=overwrite, progress=report.step, advance=report.advance,
                )  # fmt: skip
            else:
                from edgeskip.training.train_heal import train_heal

                card = train_heal(
                    given, texts, policy, low_rank or LowRankConfig(16, scaling), folder, dtype=dtype,
                    overwrite=overwrite, progress=report.step, advance=report.advance,
                )  # fmt: skip
    if card is None:
        return TrainingResult(folder, method, None, {}, "")
    profile = None if method == "layerskip" else Profile.load(given.path_in(folder))
    return TrainingResult(folder, method, profile, card, in_words(card))


class _Report:
    """Turns what training reports into events."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._losses = progress, dict[str, float]()

    def advance(self, stage: str, done: int, total: int) -> None:
        self._progress(ProgressEvent(stage, done, total))

    def step(self, report: Report) -> None:
        self._losses.update(report.losses)
        losses = " ".join(f"{name} {loss:.2f}" for name, loss in self._losses.items())
        detail = f"{report.tokens_per_second:,.0f} tokens/s, {losses}"
        self._progress(ProgressEvent("steps", report.step, report.steps, detail=detail))


def _names(given: str | Path | Sequence[str | Path] | None) -> tuple[str, ...]:
    if given is None:
        return ()
    return (str(given),) if isinstance(given, str | Path) else tuple(map(str, given))


def _refuse_needless(given: set[str], method: TrainMethod, *, writes: bool, rotates: bool, learns: bool) -> None:
    """Raise EdgeSkipError for the first of the arguments `given` that would have no effect.

    `writes`: the model writes data itself; `rotates`: the curriculum is rotational; `learns`: exits have a loss.
    """
    reasons = {
        name: f"it is for --method {' and '.join(methods)}"
        for name, methods in _METHODS.items()
        if method not in methods
    }
    if not writes:
        reasons |= dict.fromkeys(("prompts", "new_tokens", "temperature"), "it is for --data self")
    if method == "layerskip" and "lora" not in given:
        reasons |= dict.fromkeys(("lora_early", "lora_scaling"), "it is for --lora")
    if not rotates:
        reasons.setdefault("interval", "it is for --curriculum rotational")
    if not learns:
        for name in ("curriculum", "interval", "exit_weights"):
            reasons.setdefault(name, "--e-scale 0 trains no exit")
    if "steps" in given:
        reasons["epochs"] = "--steps replaces it"
    if "validation" in given:
        reasons["held_out"] = "--validation is measured on"
    for name, reason in reasons.items():
        if name in given:
            option = f"--{name.replace('_', '-')}"
            raise EdgeSkipError(f"{option} has no effect with --method {method}: {reason}; leave it out")
