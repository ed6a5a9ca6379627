"""The LayerSkip recipe on a toy: one small model trained from scratch with the recipe and without it, compared.

    python tools/benchmarks/toy_training.py                     6 blocks, 1200 steps of each
    python tools/benchmarks/toy_training.py --steps 40          a glimpse

Both start from the same random weights and see the same bytes of TEXT in the same order, through edgeskip.training's
own objective and loop; its end is held out. Perplexity is per byte, of the exit at half the depth and of the last
block, both through the model's one norm and head. Ends with exit code 1 where a target is missed.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import replace_file

if TYPE_CHECKING:
    from torch import Tensor

    from edgeskip.training.config import LayerSkipConfig
    from edgeskip.training.examples import Example

DATA = Path(os.environ.get("EDGESKIP_DATA") or Path(__file__).parents[3] / "shared" / "data")
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


def train_toy(
    text: Annotated[Path, typer.Option(help="UTF-8 text, 200 kB at least.")] = DATA / "state_union_1945-2006.txt",
    steps: Annotated[int, typer.Option(help="Of 16 windows of 128 bytes.")] = 1200,
    hidden: Annotated[int, typer.Option(help="Width of the residual stream, a multiple of 32.")] = 64,
    p_max: Annotated[float, typer.Option(help="The recipe's layer dropout.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of weights, order and dropout.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")] = None,
) -> None:
    """Train a toy with the recipe and without, and compare what its exit has learned."""
    from edgeskip.training.config import LayerSkipConfig

    learned, held_out = windows_of(text)
    recipes = {
        "without": LayerSkipConfig(p_max=0.0, e_scale=0.0),
        "with": LayerSkipConfig(p_max=p_max, e_scale=1.0, interval=2),
    }
    results = [
        trained(name, recipe, learned, held_out, steps=steps, hidden=hidden, seed=seed)
        for name, recipe in recipes.items()
    ]
    print(as_markdown(results))
    if json_file is not None:
        figures = {"steps": steps, "hidden": hidden, "p_max": p_max, "seed": seed, "text": text.name}
        figures |= {"results": [asdict(result) for result in results]}
        replace_file(json_file, (json.dumps(figures, indent=2) + "\n").encode())
    if missed := targets_missed(*results):
        print(f"missed: {'; '.join(missed)}", file=sys.stderr)
        raise typer.Exit(1)


def windows_of(text: Path) -> tuple[list[Example], list[Example]]:
    """The text's bytes as examples to learn from, and those of its end."""
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
    name: str,
    recipe: LayerSkipConfig,
    learned: Sequence[Example],
    held_out: Sequence[Example],
    *,
    steps: int,
    hidden: int,
    seed: int,
) -> Result:
    """Trains a new toy with `recipe` and measures it."""
    from edgeskip.training.batches import Batches
    from edgeskip.training.config import OptimizerConfig
    from edgeskip.training.evaluation import measure_exits
    from edgeskip.training.layerskip import LayerSkip
    from edgeskip.training.loop import Report, accelerator_for, train

    def progress(report: Report) -> None:
        if report.step % 50 == 0:
            losses = "  ".join(f"{part} {loss:.2f}" for part, loss in report.losses.items())
            print(f"{name} {report.step}/{steps}  {losses}", file=sys.stderr)

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
    """A random Llama over bytes, float32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=256,
        rms_norm_eps=1e-5,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=BLOCKS,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 32,
        max_position_embeddings=WINDOW,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(seed)
    return LlamaForCausalLM(config).float()


def collate(examples: Sequence[Example]) -> dict[str, Tensor]:
    """Windows of one length: nothing is padding."""
    import torch

    ids = torch.tensor([example.ids for example in examples])
    labels = ids.clone()
    labels[:, 0] = -100
    return {"input_ids": ids, "labels": labels}


def targets_missed(without: Result, recipe: Result) -> list[str]:
    """What the recipe should have done and did not."""
    missed = []
    if recipe.last_perplexity > LAST_WITHIN * without.last_perplexity:
        missed.append(f"the last block's perplexity is more than {LAST_WITHIN - 1:.0%} higher with the recipe")
    if recipe.exit_perplexity > EXIT_BELOW * without.exit_perplexity:
        missed.append(f"the exit's perplexity is more than {EXIT_BELOW:.0%} of that without the recipe")
    return missed


def as_markdown(results: Sequence[Result]) -> str:
    """A row for each model, and one of ratios: with over without."""
    without, recipe = results
    rows = [f"| recipe | exit {EXIT} of {BLOCKS} | last block | s |", "|---|---|---|---|"]
    rows += [f"| {r.name} | {r.exit_perplexity:.2f} | {r.last_perplexity:.2f} | {r.seconds:.0f} |" for r in results]
    exits = recipe.exit_perplexity / without.exit_perplexity
    last = recipe.last_perplexity / without.last_perplexity
    rows.append(f"| with / without | {exits:.3f} | {last:.3f} | |")
    return "\n".join(rows)


if __name__ == "__main__":
    try:
        typer.run(train_toy)
    except EdgeSkipError as error:
        print(f"train_toy: error: {error}", file=sys.stderr)
        sys.exit(2)
