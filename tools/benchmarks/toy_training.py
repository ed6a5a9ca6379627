"""The LayerSkip recipe on a toy: one small model trained from scratch with the recipe and without it, compared.

    python tools/benchmarks/toy_training.py                     6 blocks, 1200 steps of each
    python tools/benchmarks/toy_training.py --steps 40          a glimpse

Makes a figure of docs/results/training.md. Both start from the same random weights and see the same bytes of TEXT in
the same order, through edgeskip.training's own objective and loop; its end is held out. Perplexity is per byte, of the
exit at half the depth and of the last block, both through the model's one norm and head. Exit code 1 if a bound is
missed.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from harness.command import DATA, JsonFile, main
from harness.processes import show_progress
from harness.results import Results, Spread, Table, Target

from edgeskip.core.errors import EdgeSkipError

if TYPE_CHECKING:
    from torch import Tensor

    from edgeskip.training.config import LayerSkipConfig
    from edgeskip.training.examples import Example

BLOCKS, EXIT = 6, 3
WINDOW = 128  # bytes of an example
HELD_OUT = 64  # windows from the end of the text
LAST_WITHIN = 1.05  # the last block's perplexity, of that without the recipe
EXIT_BELOW = 0.5  # the exit's


@dataclass(frozen=True)
class Result:
    """Perplexities per byte of one trained model, and the seconds its training took."""

    name: str
    exit_perplexity: float
    last_perplexity: float
    seconds: float


def toy_training(
    text: Annotated[Path, typer.Option(help="UTF-8 text, 200 kB at least.")] = DATA / "state_union_1945-2006.txt",
    steps: Annotated[int, typer.Option(help="Of 16 windows of 128 bytes.")] = 1200,
    hidden: Annotated[int, typer.Option(help="Width of the residual stream, a multiple of 32.")] = 64,
    p_max: Annotated[float, typer.Option(help="The recipe's layer dropout.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of weights, order and dropout.")] = 0,
    json_file: JsonFile = None,
) -> None:
    """Train a toy with the recipe and without, and compare what its exit has learned."""
    from edgeskip.training.config import LayerSkipConfig

    learned, held_out = windows_of(text)
    setting = {"steps": steps, "hidden": hidden, "seed": seed}
    without = trained("without", LayerSkipConfig(p_max=0.0, e_scale=0.0), learned, held_out, **setting)
    recipe = trained("with", LayerSkipConfig(p_max=p_max, e_scale=1.0, interval=2), learned, held_out, **setting)
    results = Results(
        name="toy_training",
        setting={**setting, "p_max": p_max, "text": text.name},
        tables=[table_of(without, recipe)],
        targets=targets_of(without, recipe),
        data=[without, recipe],
    )
    results.publish(json_file)
    if not results.met:
        raise typer.Exit(1)


def windows_of(text: Path) -> tuple[list[Example], list[Example]]:
    """Return the text's bytes as examples to learn from, and those of its end."""
    from edgeskip.training.examples import Example

    try:
        data = text.read_bytes()
    except OSError as error:
        raise EdgeSkipError(f"cannot read {text}: {error.strerror}") from None
    found = [data[at : at + WINDOW] for at in range(0, len(data) - WINDOW + 1, WINDOW)]
    if len(found) < 4 * HELD_OUT:
        raise EdgeSkipError(f"{text} is too short: give {4 * HELD_OUT * WINDOW // 1000 + 1} kB at least")
    examples = [Example(tuple(window[:1]), tuple(window[1:])) for window in found]
    return examples[:-HELD_OUT], examples[-HELD_OUT:]


def trained(
    name: str, recipe: LayerSkipConfig, learned: Sequence[Example], held_out: Sequence[Example], *, steps: int,
    hidden: int, seed: int,
) -> Result:  # fmt: skip
    """Train a new toy with `recipe` and measure it."""
    from edgeskip.training.batches import Batches
    from edgeskip.training.config import OptimizerConfig
    from edgeskip.training.evaluation import measure_exits
    from edgeskip.training.layerskip import LayerSkip
    from edgeskip.training.loop import Report, accelerator_for, train

    def progress(report: Report) -> None:
        if report.step % 50 == 0:
            losses = "  ".join(f"{part} {loss:.2f}" for part, loss in report.losses.items())
            show_progress(f"{name} {report.step}/{steps}  {losses}")

    model = toy(hidden, seed)
    policy = OptimizerConfig(3e-3, 16, steps=steps, warmup=min(20, steps // 4), seed=seed, save_every=steps)
    batches: Batches[Example] = Batches(learned, policy.batch_size, seed, collate)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        objective = LayerSkip(model, recipe, steps, seed=seed)
        train(accelerator_for("float32"), objective, batches.batch, steps, policy, Path(folder), {}, progress=progress)
    seconds = time.perf_counter() - began
    found = measure_exits(model.eval(), held_out, [EXIT], collate)
    return Result(name, math.exp(found["exits"][EXIT]["loss"]), math.exp(found["loss"]), seconds)


def toy(hidden: int, seed: int) -> Any:
    """Return a random Llama over bytes, float32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=256, rms_norm_eps=1e-5, hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=BLOCKS,
        num_attention_heads=hidden // 32, num_key_value_heads=hidden // 32, max_position_embeddings=WINDOW,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(seed)
    return LlamaForCausalLM(config).float()


def collate(examples: Sequence[Example]) -> dict[str, Tensor]:
    """Windows of one length: nothing is padding."""
    import torch

    ids = torch.tensor([example.ids for example in examples])
    labels = ids.clone()
    labels[:, 0] = -100
    return {"input_ids": ids, "labels": labels}


def targets_of(without: Result, recipe: Result) -> list[Target]:
    """Return what the recipe should do."""
    exits = Spread.of([recipe.exit_perplexity / without.exit_perplexity])
    last = Spread.of([recipe.last_perplexity / without.last_perplexity])
    text = "perplexity of {}, with the recipe over without"
    return [
        Target(text.format("the exit"), EXIT_BELOW, exits, at_least=False),
        Target(text.format("the last block"), LAST_WITHIN, last, at_least=False),
    ]


def table_of(without: Result, recipe: Result) -> Table:
    """Return a row for each model."""
    rows = [
        [one.name, f"{one.exit_perplexity:.2f}", f"{one.last_perplexity:.2f}", f"{one.seconds:.0f}"]
        for one in (without, recipe)
    ]
    return Table("A toy with and without the recipe", ["recipe", f"exit {EXIT} of {BLOCKS}", "last block", "s"], rows)


if __name__ == "__main__":
    main(toy_training)
