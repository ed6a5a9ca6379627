"""WikiText-2 perplexity through exported artifacts: what skipping costs, by number of sublayers and compensation.

    python tools/perplexity_table.py                         rows 4, 8, 12, 16 × none, scale, affine, and dense; fp32
    python tools/perplexity_table.py --rows '' --artifact int4=DIR --genai int4=FOLDER --json ppl.json
                                                             int4 quality: ours against onnxruntime-genai's

Calibrates on wikitext2_valid, tests on wikitext2_test: consecutive windows from its start, each a sequence of its
own, perplexity = exp(mean −ln p of every token of a window but its first). Skipped artifacts are lossy and are
labelled so; the tool stops where an artifact is not labelled as what it is.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import typer
from numpy.typing import NDArray
from product import calibrated, exported, model_folder, planned

from edgeskip.errors import EdgeSkipError
from edgeskip.files import replace_file
from edgeskip.manifest import Precision
from edgeskip.plan import COMPENSATIONS, Compensation

Logits = Callable[[NDArray[np.int64]], NDArray[np.floating[Any]]]
"""Token ids [n] → logits [n, vocab_size] of every position."""
DATA = Path(os.environ.get("EDGESKIP_DATA") or Path(__file__).parents[2] / "shared" / "data")


@dataclass(frozen=True)
class Result:
    """Perplexity of one artifact; `skipped` sublayers, `compensation` what replaced them."""

    name: str
    label: str
    perplexity: float
    tokens: int
    skipped: int = 0
    compensation: str = "none"
    precision: str = ""
    quantisation: dict[str, Any] | None = None


def perplexity_table(
    model: Annotated[str, typer.Option(help="Ready model's name, Hugging Face folder or GGUF file.")] = (
        "smollm2-135m-instruct"
    ),
    precision: Annotated[str, typer.Option(help="Of the artifacts: fp32, fp16 or int4.")] = "fp32",
    profile: Annotated[
        str | None, typer.Option(help="Profile, or name of one that ships.  [default: calibrate on wikitext2_valid]")
    ] = None,
    calibration_tokens: Annotated[int, typer.Option(min=1, help="Tokens to calibrate with.")] = 16384,
    rows: Annotated[str, typer.Option(help="Numbers of sublayers to skip, by comma; empty = no skipping.")] = (
        "0,4,8,12,16"
    ),
    artifact: Annotated[
        list[str] | None, typer.Option(help="NAME=DIR, repeatable: measure this artifact as well.")
    ] = None,
    genai: Annotated[
        list[str] | None,
        typer.Option(help="NAME=DIR, repeatable: measure this onnxruntime-genai model as well (needs all logits)."),
    ] = None,
    windows: Annotated[int, typer.Option(min=1, help="Windows of the test text.")] = 6,
    window_tokens: Annotated[int, typer.Option(min=2, help="Tokens per window.")] = 1024,
    data: Annotated[Path, typer.Option(help="Folder of wikitext2_valid.txt and wikitext2_test.txt.")] = DATA,
    threads: Annotated[int, typer.Option(min=1, help="Threads.")] = 2,
    work: Annotated[
        Path | None, typer.Option(help="Profiles and exports are made here.  [default: the user's cache]")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the exports, 13 × 0.5 GB for the whole fp32 table.")
    ] = False,
    export_argument: Annotated[
        list[str] | None,
        typer.Option(help="Passed on to edgeskip export, repeatable: --export-argument=--block-size=64"),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the results there.")] = None,
) -> None:
    """Measure perplexity of dense and skipped exports; a table to stdout, progress to stderr."""
    if precision not in get_args(Precision):
        raise EdgeSkipError(f"--precision {precision}: choose one of {', '.join(get_args(Precision))}")
    counts = [int(count) for count in rows.split(",") if count.strip()]
    named = [("artifact", *_pair(entry)) for entry in artifact or []] + [("genai", *_pair(e)) for e in genai or []]
    if not counts and not named:
        raise EdgeSkipError("nothing to measure: give --rows, --artifact or --genai")
    folder = model_folder(model, work or _default_work()) if counts else Path()
    made: list[Result] = []
    given: list[Result] = []

    text = (data / "wikitext2_test.txt").read_text(encoding="utf-8")
    batches: list[NDArray[np.int64]] | None = None
    if counts and profile is None:
        valid = data / "wikitext2_valid.txt"
        profile = str(calibrated(model, folder / "wikitext2.json", corpus=[valid], tokens=calibration_tokens))
    for count in counts:
        for compensation in COMPENSATIONS if count else COMPENSATIONS[:1]:
            name = f"{precision}-skip{count}-{compensation}" if count else f"{precision}-dense"
            plan = planned(str(profile), folder / f"{name}.json", skip_sublayers=count, compensation=compensation)
            out = exported(model, plan, folder / name, precision=precision, arguments=export_argument or [])
            batches = batches or windows_of(out / "tokenizer.json", text, windows, window_tokens)
            made.append(_told(_measure_artifact(name, out, batches, threads, expected=(count, compensation))))
            if not keep:
                shutil.rmtree(out)
    for kind, name, path in named:
        batches = batches or windows_of(path / "tokenizer.json", text, windows, window_tokens)
        if kind == "artifact":
            given.append(_told(_measure_artifact(name, path, batches, threads)))
        else:
            value, tokens = perplexity(genai_logits(path, threads), batches)
            given.append(_told(Result(name, "onnxruntime-genai", value, tokens)))
    if json_file:
        report = {
            "model": model,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "windows": windows,
            "window_tokens": window_tokens,
            "results": [asdict(result) for result in made + given],
        }
        replace_file(json_file, (json.dumps(report, indent=1) + "\n").encode())
    print(as_markdown(made, given))


def windows_of(tokenizer_file: Path, text: str, count: int, length: int) -> list[NDArray[np.int64]]:
    """The first `count` windows of `length` token ids, end to end; EdgeSkipError where the text has fewer."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    if len(ids) < count * length:
        raise EdgeSkipError(f"the test text has {len(ids)} tokens, not {count} × {length}")
    return [np.array(ids[i * length : (i + 1) * length], dtype=np.int64) for i in range(count)]


def negative_log_likelihood(logits: NDArray[np.floating[Any]], tokens: NDArray[np.int64]) -> float:
    """Sum in nats of −ln p(tokens[i+1] | tokens[: i+1]); logits [n, V] of tokens [n]. In float64, by slices of rows."""
    total = 0.0
    for start in range(0, len(tokens) - 1, 128):
        rows = logits[start : min(start + 128, len(tokens) - 1)].astype(np.float64)
        target = rows[np.arange(len(rows)), tokens[start + 1 : start + 1 + len(rows)]]
        top = rows.max(axis=1)
        total += float(np.sum(top + np.log(np.exp(rows - top[:, None]).sum(axis=1)) - target))
    return total


def perplexity(logits: Logits, batches: Sequence[NDArray[np.int64]]) -> tuple[float, int]:
    """Perplexity over all windows, and how many tokens were predicted."""
    total = sum(negative_log_likelihood(logits(window), window) for window in batches)
    tokens = sum(len(window) - 1 for window in batches)
    return math.exp(total / tokens), tokens


def check_label(label: str, skip: Sequence[str], compensation: str, expected: tuple[int, Compensation] | None) -> None:
    """EdgeSkipError where a manifest's label or plan is not what was exported."""
    if label != ("lossy-skip" if skip else "dense"):
        raise EdgeSkipError(f"an artifact that skips {len(skip)} sublayers is labelled {label!r}: the export is wrong")
    if expected and (len(skip), compensation) != expected:
        raise EdgeSkipError(f"asked to skip {expected}, the artifact skips {(len(skip), compensation)}")


def _measure_artifact(
    name: str,
    folder: Path,
    batches: Sequence[NDArray[np.int64]],
    threads: int,
    expected: tuple[int, Compensation] | None = None,
) -> Result:
    import edgeskip

    with edgeskip.load(folder, threads=threads) as session:
        manifest = session.manifest
        check_label(session.label, manifest.plan.skip, manifest.plan.compensation, expected)
        value, tokens = perplexity(session.logits, batches)
        return Result(
            name=name,
            label=session.label,
            perplexity=value,
            tokens=tokens,
            skipped=len(manifest.plan.skip),
            compensation=manifest.plan.compensation,
            precision=manifest.graph.precision,
            quantisation=manifest.graph.quantisation or None,
        )


def genai_logits(folder: Path, threads: int) -> Logits:
    """Runs the graph of an onnxruntime-genai folder with onnxruntime itself, on an empty cache."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))["model"]["decoder"]
    session = onnxruntime.InferenceSession(
        str(folder / config["filename"]), options, providers=["CPUExecutionProvider"]
    )
    empty: dict[str, NDArray[Any]] = {}
    for value in session.get_inputs():
        if value.name.startswith("past_key_values."):
            dtype = np.float16 if value.type == "tensor(float16)" else np.float32
            shape = (1, config["num_key_value_heads"], 0, config["head_size"])
            empty[value.name] = np.zeros(shape, dtype)

    def logits(tokens: NDArray[np.int64]) -> NDArray[np.floating[Any]]:
        feed = {"input_ids": tokens[None], "attention_mask": np.ones((1, len(tokens)), np.int64), **empty}
        result: NDArray[np.floating[Any]] = session.run(["logits"], feed)[0][0]
        if len(result) != len(tokens):
            raise EdgeSkipError(f"{folder} gives the last position's logits only: build it without prune_lm_head")
        return result

    return logits


def as_markdown(made: Sequence[Result], given: Sequence[Result]) -> str:
    """Skipped exports by sublayers and compensation; below, the dense one and those the user named."""
    lines: list[str] = []
    skipped = {(r.skipped, r.compensation): r.perplexity for r in made if r.skipped}
    if skipped:
        lines += [f"| sublayers skipped (lossy-skip) | {' | '.join(COMPENSATIONS)} |", "|---|---|---|---|"]
        for count in sorted({count for count, _ in skipped}):
            values = (f"{skipped[count, c]:.2f}" if (count, c) in skipped else "" for c in COMPENSATIONS)
            lines.append(f"| {count} | {' | '.join(values)} |")
        lines.append("")
    rest = [r for r in made if not r.skipped] + list(given)
    if rest:
        lines += ["| artifact | label | precision | perplexity |", "|---|---|---|---|"]
        lines += [f"| {r.name} | {r.label} | {r.precision} | {r.perplexity:.3f} |" for r in rest]
    return "\n".join(lines)


def _told(result: Result) -> Result:
    print(f"{result.name}: {result.perplexity:.3f} ({result.label})", file=sys.stderr, flush=True)
    return result


def _pair(argument: str) -> tuple[str, Path]:
    name, separator, folder = argument.partition("=")
    if not separator or not name:
        raise EdgeSkipError(f"{argument}: write NAME=DIR")
    return name, Path(folder)


def _default_work() -> Path:
    from edgeskip.fetch import cache_folder

    return cache_folder() / "perplexity"


if __name__ == "__main__":
    try:
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command()(perplexity_table)
        app()
    except EdgeSkipError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
