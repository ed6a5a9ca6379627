"""WikiText-2 perplexity through exported artifacts: what skipping costs, by number of sublayers and compensation.

    python tools/benchmarks/perplexity_table.py      rows 4, 8, 12, 16 × none, scale, affine, and dense; fp32
    python tools/benchmarks/perplexity_table.py --target onnx,gguf      the same rows through both, and GGUF over ONNX
    python tools/benchmarks/perplexity_table.py --rows '' --artifact int4=DIR --artifact q4=FILE --genai int4=FOLDER
                                                     exports as they are, onnxruntime-genai's too

Makes the tables of docs/results/perplexity.md, int4.md and part of gguf.md. Calibrates on wikitext2_valid, tests on
wikitext2_test by `edgeskip eval --tasks perplexity`: consecutive windows from its start, each a sequence of its own.
Skipped artifacts are lossy and are labelled so; the script stops if an artifact is not labelled as what it is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import typer
from harness.command import (
    DATA,
    DEFAULT_MODEL,
    DataFolder,
    JsonFile,
    Model,
    Threads,
    Work,
    cache_folder,
    main,
    named_paths,
    words,
)  # fmt: skip
from harness.processes import show_progress
from harness.product import calibrated, delete_artifact, exported, model_folder, planned
from harness.results import Results, Table
from numpy.typing import NDArray

from edgeskip.artifacts.manifest import Precision
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.plan import STATISTICAL
from edgeskip.evaluation.perplexity import cut_windows, negative_log_likelihood
from edgeskip.evaluation.runner import evaluate
from edgeskip.evaluation.summary import summarize
from edgeskip.evaluation.task import EvalSettings

Logits = Callable[[NDArray[np.int64]], NDArray[np.floating[Any]]]
"""Token ids [n] → logits [n, vocab_size] of every position."""


@dataclass(frozen=True)
class Result:
    """Perplexity of one artifact; of rows made here the `target`, `skipped` sublayers and what replaced them."""

    name: str
    label: str
    perplexity: float
    tokens: int
    target: str = ""
    skipped: int = 0
    compensation: str = "none"


def perplexity_table(
    model: Model = DEFAULT_MODEL,
    target: Annotated[str, typer.Option(help="What rows are exported to: onnx, gguf or both, by comma.")] = "onnx",
    precision: Annotated[str, typer.Option(help="Of the ONNX exports: fp32, fp16 or int4.")] = "fp32",
    gguf_precision: Annotated[
        str,
        typer.Option(
            help="Of the GGUF exports: keep = the model's own blocks. With quantized weights llama.cpp rounds "
            "activations to 8 bits, so f32 compares the exports alone."
        ),
    ] = "keep",
    profile: Annotated[
        str | None, typer.Option(help="Profile, or name of a preset.  [default: calibrate on wikitext2_valid]")
    ] = None,
    calibration_tokens: Annotated[int, typer.Option(min=1, help="Tokens to calibrate with.")] = 16384,
    rows: Annotated[str, typer.Option(help="Numbers of sublayers to skip, by comma; empty = none.")] = "0,4,8,12,16",
    artifact: Annotated[
        list[str] | None, typer.Option(help="NAME=DIR or NAME=FILE.gguf, repeatable: measure this artifact too.")
    ] = None,
    genai: Annotated[
        list[str] | None,
        typer.Option(help="NAME=DIR, repeatable: measure this onnxruntime-genai model as well (needs all logits)."),
    ] = None,
    windows: Annotated[int, typer.Option(min=1, help="Windows of the test text.")] = 6,
    window_tokens: Annotated[int, typer.Option(min=2, help="Tokens per window.")] = 1024,
    data: DataFolder = DATA,
    threads: Threads = 2,
    work: Work = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the exports, 13 × 0.5 GB for the fp32 table.")] = False,
    export_argument: Annotated[
        list[str] | None,
        typer.Option(help="Passed on to edgeskip export, repeatable: --export-argument=--block-size=64"),
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Measure perplexity of dense and skipped exports; a table to stdout, progress to stderr.

    Rows are calibrated (without --profile), planned, exported and measured here; --target onnx,gguf adds GGUF's
    perplexity over ONNX's. --artifact and --genai measure what is there already.
    """
    if precision not in get_args(Precision):
        raise EdgeSkipError(f"--precision {precision}: choose one of {', '.join(get_args(Precision))}")
    targets = {name: {"onnx": precision, "gguf": gguf_precision}.get(name) for name in target.split(",")}
    if unknown := [name for name, of in targets.items() if of is None]:
        raise EdgeSkipError(f"--target {unknown[0]!r}: write onnx, gguf or onnx,gguf")
    counts = [int(count) for count in words(rows)]
    artifacts, peers = named_paths("--artifact", artifact or []), named_paths("--genai", genai or [])
    if not counts and not artifacts and not peers:
        raise EdgeSkipError("nothing to measure: give --rows, --artifact or --genai")
    folder = model_folder(model, work or cache_folder("perplexity")) if counts else Path()
    settings = EvalSettings(windows=windows, window_tokens=window_tokens, threads=threads)
    if counts and profile is None:
        valid = data / "wikitext2_valid.txt"
        profile = str(calibrated(model, folder / "wikitext2.json", corpus=[valid], tokens=calibration_tokens))
    made = []
    plans = [(count, compensation) for count in counts for compensation in (STATISTICAL if count else STATISTICAL[:1])]
    for count, compensation in plans:
        for kind, of in targets.items():
            name = f"{kind}-{of}-skip{count}-{compensation}" if count else f"{kind}-{of}-dense"
            plan = planned(str(profile), folder / f"{name}.json", skip_sublayers=count, compensation=compensation)
            out = folder / (f"{name}.gguf" if kind == "gguf" else name)
            exported(model, plan, out, precision=str(of), arguments=["--target", kind, *(export_argument or [])])
            made.append(_reported(Result(name, *measured(out, data, settings), kind, count, compensation)))
            if made[-1].label != ("lossy-skip" if count else "dense"):
                raise EdgeSkipError(f"{name} is labelled {made[-1].label!r}: the export is wrong")
            if not keep:
                delete_artifact(out)
    given = [_reported(Result(name, *measured(path, data, settings))) for name, path in artifacts.items()]
    for name, path in peers.items():
        given.append(_reported(Result(name, "onnxruntime-genai", *genai_perplexity(path, data, settings))))
    Results(
        name="perplexity_table",
        setting={"model": model, "windows": windows, "window_tokens": window_tokens},
        tables=tables_of(made, given),
        data=made + given,
    ).publish(json_file)


def measured(path: Path, data: Path, settings: EvalSettings) -> tuple[str, float, int]:
    """Return an artifact's label, its perplexity on the test text, and how many tokens were predicted."""
    (summary,) = summarize(evaluate(path, ["perplexity"], data=data, settings=settings))
    return summary.label, summary.value, summary.tokens


def genai_perplexity(folder: Path, data: Path, settings: EvalSettings) -> tuple[float, int]:
    """Perplexity of an onnxruntime-genai folder over the same windows, and how many tokens were predicted."""
    from tokenizers import Tokenizer

    text = (data / "wikitext2_test.txt").read_text(encoding="utf-8")
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    windows = cut_windows(ids, settings.windows, settings.window_tokens)
    logits = genai_logits(folder, settings.threads or 1)
    tokens = sum(len(window) - 1 for window in windows)
    return math.exp(sum(negative_log_likelihood(logits(window), window) for window in windows) / tokens), tokens


def genai_logits(folder: Path, threads: int) -> Logits:
    """Run the graph of an onnxruntime-genai folder with onnxruntime itself, on an empty cache."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))["model"]["decoder"]
    session = onnxruntime.InferenceSession(
        str(folder / config["filename"]), options, providers=["CPUExecutionProvider"]
    )
    shape = (1, config["num_key_value_heads"], 0, config["head_size"])
    empty: dict[str, NDArray[Any]] = {
        value.name: np.zeros(shape, np.float16 if value.type == "tensor(float16)" else np.float32)
        for value in session.get_inputs()
        if value.name.startswith("past_key_values.")
    }

    def logits(tokens: NDArray[np.int64]) -> NDArray[np.floating[Any]]:
        feed = {"input_ids": tokens[None], "attention_mask": np.ones((1, len(tokens)), np.int64), **empty}
        result: NDArray[np.floating[Any]] = session.run(["logits"], feed)[0][0]
        if len(result) != len(tokens):
            raise EdgeSkipError(f"{folder} gives the last position's logits only: build it without prune_lm_head")
        return result

    return logits


def tables_of(made: Sequence[Result], given: Sequence[Result]) -> list[Table]:
    """Skipped exports by sublayers and compensation, a table for each target and one of GGUF's perplexity over ONNX's;
    then the dense ones and those the user named."""
    by_plan = {(r.target, r.skipped, r.compensation): r.perplexity for r in made}
    targets = list(dict.fromkeys(r.target for r in made))
    tables = []
    for target in targets:
        title = "sublayers skipped (lossy-skip)" + (f", {target}" if len(targets) > 1 else "")
        tables.append(_grid(title, {(count, c): p for (of, count, c), p in by_plan.items() if of == target}, 2))
    ratios = {
        (count, c): p / by_plan["onnx", count, c]
        for (of, count, c), p in by_plan.items()
        if of == "gguf" and ("onnx", count, c) in by_plan
    }
    tables.append(_grid("gguf / onnx", ratios, 4))
    rest = [r for r in made if not r.skipped] + list(given)
    lines = [[r.name, r.label, f"{r.perplexity:.3f}"] for r in rest]
    if dense := ratios.get((0, "none")):
        lines.append(["dense, gguf / onnx", "", f"{dense:.4f}"])
    return [*tables, Table("Artifacts", ["artifact", "label", "perplexity"], lines)]


def _grid(title: str, values: Mapping[tuple[int, str], float], digits: int) -> Table:
    """Return a row for each number of sublayers, a column for each compensation."""
    lines = [
        [str(count), *(f"{values[count, c]:.{digits}f}" if (count, c) in values else "" for c in STATISTICAL)]
        for count in sorted({count for count, _ in values if count})
    ]
    return Table(title, [title, *STATISTICAL], lines)


def _reported(result: Result) -> Result:
    show_progress(f"{result.name}: {result.perplexity:.3f} ({result.label})")
    return result


if __name__ == "__main__":
    main(perplexity_table)
