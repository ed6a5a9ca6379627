"""WikiText-2 perplexity through exported artifacts: what skipping costs, by number of sublayers and compensation.

    python tools/benchmarks/perplexity_table.py      rows 4, 8, 12, 16 × none, scale, affine, and dense; fp32
    python tools/benchmarks/perplexity_table.py --target onnx,gguf      the same rows through both, and GGUF over ONNX
    python tools/benchmarks/perplexity_table.py --rows '' --artifact int4=DIR --artifact q4=FILE --genai int4=FOLDER
                                                             exports as they are, onnxruntime-genai's too

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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import typer
from harness.product import calibrated, exported, model_folder, planned
from numpy.typing import NDArray

from edgeskip.artifacts.gguf.manifest import GgufManifest
from edgeskip.artifacts.manifest import Manifest, Precision
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import replace_file
from edgeskip.core.plan import STATISTICAL, Compensation
from edgeskip.evaluation.perplexity import cut_windows, negative_log_likelihood

Logits = Callable[[NDArray[np.int64]], NDArray[np.floating[Any]]]
"""Token ids [n] → logits [n, vocab_size] of every position."""
DATA = Path(os.environ.get("EDGESKIP_DATA") or Path(__file__).parents[3] / "shared" / "data")


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
    target: str = ""  # of rows made here: onnx or gguf
    quantisation: dict[str, Any] | None = None


def perplexity_table(
    model: Annotated[str, typer.Option(help="Ready model's name, Hugging Face folder or GGUF file.")] = (
        "smollm2-135m-instruct"
    ),
    target: Annotated[str, typer.Option(help="What rows are exported to: onnx, gguf or both, by comma.")] = "onnx",
    precision: Annotated[str, typer.Option(help="Of the ONNX exports: fp32, fp16 or int4.")] = "fp32",
    gguf_precision: Annotated[
        str,
        typer.Option(
            help="Of the GGUF exports: keep = the model's own blocks. With quantised weights llama.cpp rounds "
            "activations to 8 bits, so f32 compares the exports alone."
        ),
    ] = "keep",
    profile: Annotated[
        str | None, typer.Option(help="Profile, or name of one that ships.  [default: calibrate on wikitext2_valid]")
    ] = None,
    calibration_tokens: Annotated[int, typer.Option(min=1, help="Tokens to calibrate with.")] = 16384,
    rows: Annotated[str, typer.Option(help="Numbers of sublayers to skip, by comma; empty = no skipping.")] = (
        "0,4,8,12,16"
    ),
    artifact: Annotated[
        list[str] | None, typer.Option(help="NAME=DIR or NAME=FILE.gguf, repeatable: measure this artifact too.")
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
    """Measure perplexity of dense and skipped exports; a table to stdout, progress to stderr.

    Rows are calibrated (without --profile), planned, exported and measured here; --target onnx,gguf adds GGUF's
    perplexity over ONNX's. --artifact and --genai measure what is there already.
    """
    if precision not in get_args(Precision):
        raise EdgeSkipError(f"--precision {precision}: choose one of {', '.join(get_args(Precision))}")
    targets = {name: {"onnx": precision, "gguf": gguf_precision}.get(name) for name in target.split(",")}
    if unknown := [name for name, of in targets.items() if of is None]:
        raise EdgeSkipError(f"--target {unknown[0]!r}: write onnx, gguf or onnx,gguf")
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
        for compensation in STATISTICAL if count else STATISTICAL[:1]:
            for kind, of in targets.items():
                name = f"{kind}-{of}-skip{count}-{compensation}" if count else f"{kind}-{of}-dense"
                plan = planned(str(profile), folder / f"{name}.json", skip_sublayers=count, compensation=compensation)
                out = folder / (f"{name}.gguf" if kind == "gguf" else name)
                arguments = ["--target", kind, *(export_argument or [])]
                exported(model, plan, out, precision=str(of), arguments=arguments)
                batches = batches or windows_of(out, text, windows, window_tokens)
                result = _measure_artifact(name, out, batches, threads, expected=(count, compensation))
                made.append(_told(replace(result, target=kind)))
                if not keep:
                    delete_artifact(out)
    for kind, name, path in named:
        batches = batches or windows_of(path, text, windows, window_tokens)
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


def windows_of(artifact: Path, text: str, count: int, length: int) -> list[NDArray[np.int64]]:
    """The first `count` windows of `length` token ids, end to end; EdgeSkipError where the text has fewer.

    `artifact` has the tokenizer: a folder with tokenizer.json, or a GGUF file.
    """
    return cut_windows(_encoded(artifact, text), count, length)


def _encoded(artifact: Path, text: str) -> Sequence[int]:
    if artifact.is_file():
        import edgeskip

        with edgeskip.load(artifact) as session:
            return session.tokenizer.encode(text, add_special_tokens=False)
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(artifact / "tokenizer.json"))
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def delete_artifact(path: Path) -> None:
    """Removes a folder or a file."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


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
    path: Path,
    batches: Sequence[NDArray[np.int64]],
    threads: int,
    expected: tuple[int, Compensation] | None = None,
) -> Result:
    import edgeskip

    with edgeskip.load(path, threads=threads) as session:
        skip, compensation = (session.plan.skip, session.plan.compensation) if session.plan else ([], "none")
        check_label(session.label, skip, compensation, expected)
        value, tokens = perplexity(session.logits, batches)
        return Result(
            name=name,
            label=session.label,
            perplexity=value,
            tokens=tokens,
            skipped=len(skip),
            compensation=compensation,
            **_numbers_of(session.manifest),
        )


def _numbers_of(manifest: Manifest | GgufManifest | None) -> dict[str, Any]:
    """Precision and quantisation; nothing of a GGUF file that EdgeSkip did not write."""
    if isinstance(manifest, Manifest):
        return {"precision": manifest.graph.precision, "quantisation": manifest.graph.quantisation or None}
    return {"precision": manifest.precision} if manifest else {}


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
    """Skipped exports by sublayers and compensation; below, the dense one and those the user named.

    Rows made for two targets get a table each and one of GGUF's perplexity over ONNX's.
    """
    by_plan = {(r.target, r.skipped, r.compensation): r.perplexity for r in made}
    targets = list(dict.fromkeys(r.target for r in made))
    lines = []
    for target in targets:
        title = "sublayers skipped (lossy-skip)" + (f", {target}" if len(targets) > 1 else "")
        lines += _grid(title, {(count, c): p for (of, count, c), p in by_plan.items() if of == target and count}, 2)
    ratios = {
        (count, c): p / by_plan["onnx", count, c]
        for (of, count, c), p in by_plan.items()
        if of == "gguf" and ("onnx", count, c) in by_plan
    }
    lines += _grid("gguf / onnx", {plan: ratio for plan, ratio in ratios.items() if plan[0]}, 4)
    rest = [r for r in made if not r.skipped] + list(given)
    if rest:
        lines += ["| artifact | label | precision | perplexity |", "|---|---|---|---|"]
        lines += [f"| {r.name} | {r.label} | {r.precision} | {r.perplexity:.3f} |" for r in rest]
    if (0, "none") in ratios:
        lines.append(f"| dense, gguf / onnx | | | {ratios[0, 'none']:.4f} |")
    return "\n".join(lines)


def _grid(title: str, values: Mapping[tuple[int, str], float], digits: int) -> list[str]:
    """Lines of a table: a row for each number of sublayers, a column for each compensation; then an empty one."""
    if not values:
        return []
    lines = [f"| {title} | {' | '.join(STATISTICAL)} |", "|---|---|---|---|"]
    for count in sorted({count for count, _ in values}):
        cells = (f"{values[count, c]:.{digits}f}" if (count, c) in values else "" for c in STATISTICAL)
        lines.append(f"| {count} | {' | '.join(cells)} |")
    return [*lines, ""]


def _told(result: Result) -> Result:
    print(f"{result.name}: {result.perplexity:.3f} ({result.label})", file=sys.stderr, flush=True)
    return result


def _pair(argument: str) -> tuple[str, Path]:
    name, separator, folder = argument.partition("=")
    if not separator or not name:
        raise EdgeSkipError(f"{argument}: write NAME=DIR or NAME=FILE.gguf")
    return name, Path(folder)


def _default_work() -> Path:
    from edgeskip.models.fetch import cache_folder

    return cache_folder() / "perplexity"


if __name__ == "__main__":
    try:
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command()(perplexity_table)
        app()
    except EdgeSkipError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
