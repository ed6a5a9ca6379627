"""What a GPU makes of it: parity with the CPU, then fp16 dense, skipped and self-speculative beside transformers.

    bash tools/gpu_report.sh            makes an environment, then runs this; see there
    python tools/benchmarks/gpu_report.py    where edgeskip[export], onnxruntime-gpu and torch are installed already

Leaves one JSON, `docs/results/gpu-DEVICE.json`: the device, versions, parity, the log of `edgeskip bench`, and the
peers' rounds: transformers eager and compiled, and onnxruntime-genai-cuda over the same folder if it is installed.
`--provider cpu` runs the same code without a GPU, to try it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from harness.bench import bench
from harness.command import DEFAULT_MODEL, ROOT, Model, Work, cache_folder, main
from harness.peers import checkpoint_folder
from harness.processes import show_progress
from harness.product import calibrated, exported, model_folder, planned
from harness.results import Results, Spread, Table, versions_of
from harness.runtimes import Contestant, Run, Worker, race

from edgeskip.bench.runner.prompts import read_prompts
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.held_out import HELD_OUT_TEXT as TEXT
from edgeskip.core.machine import nvidia_gpus
from edgeskip.core.metrics import LogitComparison, compare_logits
from edgeskip.runtime.comparison import find_difference
from edgeskip.runtime.session import load
from edgeskip.runtime.speculation.policy import Speculation

RESULTS = ROOT / "docs" / "results"
VERSIONS = (
    "edgeskip", "torch", "transformers", "onnxruntime", "onnxruntime-gpu", "onnxruntime-genai",
    "onnxruntime-genai-cuda", "numpy",
)  # fmt: skip
SKIPPED, EXIT_LAYER = 8, 4
PARITY_TOKENS = 512


@dataclass(frozen=True)
class Lossless:
    """Greedy tokens of the self-speculative loop beside plain decoding, on one artifact."""

    artifact: str
    prompts: int
    tokens: int
    parts_at: list[int]  # first token that differs, of the prompts with a difference
    margins: list[float]  # the plain model's top-2 logit margin there: 0 = a tie, which rounding decides


def gpu_report(
    model: Model = DEFAULT_MODEL,
    provider: Annotated[str, typer.Option(help="cuda, or another to try this without.")] = "cuda",
    precision: Annotated[str, typer.Option(help="Of the artifacts.")] = "fp16",
    rounds: Annotated[int, typer.Option("-r", min=1)] = 5,
    prompt_tokens: Annotated[int, typer.Option("-p", min=1)] = 512,
    new_tokens: Annotated[int, typer.Option("-n", min=2)] = 128,
    depth: Annotated[int, typer.Option("-d", min=1)] = 2048,
    num_prompts: Annotated[int, typer.Option(min=1, max=6)] = 3,
    calibration_tokens: Annotated[int, typer.Option(min=1)] = 16384,
    draft_tokens: Annotated[int, typer.Option(min=1, help="Tokens that the draft's head knows.")] = 8192,
    peers: Annotated[bool, typer.Option(help="Measure transformers and onnxruntime-genai too.")] = True,
    work: Work = None,
    output: Annotated[Path | None, typer.Option("-o", show_default="docs/results/gpu-DEVICE.json")] = None,
) -> None:
    """Check, measure, and write one JSON."""
    gpus = nvidia_gpus()
    if provider == "cuda" and not gpus:
        raise EdgeSkipError("nvidia-smi finds no GPU here: run this on a machine with one, or try --provider cpu")
    work = (work or cache_folder()).resolve()
    device = gpus[0].split(",")[0] if gpus else provider
    output = output or RESULTS / f"gpu-{re.sub(r'[^a-z0-9]+', '-', device.lower()).strip('-')}.json"
    reference, targets = artifacts_of(model, work, precision, calibration_tokens, draft_tokens)
    variants = _variants(provider)
    show_progress("parity with the CPU in float32")
    parity = {(path.name, one): parity_of(reference, path, one) for one in variants for path in targets.values()}
    same = same_tokens(targets["dense"], variants, num_prompts, new_tokens)
    lossless = lossless_on(targets["self-speculative"], provider, num_prompts, new_tokens)
    show_progress("edgeskip bench")
    result = bench(
        targets, prompt_tokens=prompt_tokens, new_tokens=new_tokens, depths=[0, prompt_tokens, depth], rounds=rounds,
        threads=1, provider=variants, strategy=("plain", "self-speculative"), num_prompts=num_prompts,
        max_tokens=new_tokens, quality=True,
    )  # fmt: skip
    found = peers_of(model, work, targets["dense"], provider, rounds, prompt_tokens, new_tokens) if peers else {}
    Results(
        name="gpu_report",
        setting={
            "device": device, "provider": provider, "model": model, "precision": precision,
            "same_tokens_replayed": "not compared" if same is None else same, "rounds": rounds,
        },
        tables=[
            Table(
                "Parity with the CPU in float32",
                ["artifact", "provider", "largest logit difference", "KL, nats", "top-1"],
                [
                    [*names, f"{one.max_difference:.3g}", f"{one.kl_divergence:.3g}", f"{one.top1_agreement:.2%}"]
                    for names, one in parity.items()
                ],
            ),
            peers_table(found, prompt_tokens, new_tokens),
        ],
        data={
            "parity": [
                {"artifact": artifact, "provider": one, **found._asdict()} for (artifact, one), found in parity.items()
            ],
            "lossless": asdict(lossless),
            "bench": [line.model_dump(mode="json") for line in result.run.lines],
            "peers": found,
        },
        notes=[f"{len(lossless.parts_at)} of {lossless.prompts} drafted answers differ from plain decoding's."],
        versions=versions_of(VERSIONS),
    ).publish(output)  # fmt: skip
    show_progress(f"{output}")


def artifacts_of(
    model: str, work: Path, precision: str, tokens: int, draft_tokens: int
) -> tuple[Path, dict[str, Path]]:
    """Return the dense float32 export that everything is compared with, and those that are measured, by name."""
    folder = model_folder(model, work) / "gpu"
    profile = folder / "profile.json"
    if not profile.exists():
        calibrated(model, profile, tokens=tokens)
    dense = planned(profile, folder / "dense.json", skip_sublayers=0)
    skip = planned(profile, folder / "skip.json", skip_sublayers=SKIPPED)
    draft = ["--draft", "early-exit", "--exit-layer", str(EXIT_LAYER), "--draft-vocab", str(draft_tokens)]
    reference = exported(model, dense, folder / "dense-fp32", precision="fp32")
    return reference, {
        "dense": exported(model, dense, folder / f"dense-{precision}", precision=precision),
        f"skip{SKIPPED}": exported(model, skip, folder / f"skip{SKIPPED}-{precision}", precision=precision),
        "self-speculative": exported(
            model, dense, folder / f"exit{EXIT_LAYER}-{precision}", precision=precision, arguments=draft
        ),
    }


def parity_of(reference: Path, artifact: Path, provider: str) -> LogitComparison:
    """Return how far a provider's predictions are from the CPU's, in float32, over the same tokens. A skipped model's
    difference is its plan's and its precision's together."""
    logits = []
    for path, where in ((reference, "cpu"), (artifact, provider)):
        with load(path, provider=where) as session:
            tokens = session.encode(TEXT.read_text(encoding="utf-8"), chat=False)[:PARITY_TOKENS]
            logits.append(session.logits(tokens))
    return compare_logits(logits[0], logits[1])


def same_tokens(artifact: Path, providers: Sequence[str], num_prompts: int, new_tokens: int) -> bool | None:
    """Return whether greedy answers are the same on all of them; None if there is only one."""
    made = []
    for provider in providers:
        with load(artifact, provider=provider) as session:
            made.append(
                [
                    session.generate(prompt.text, max_tokens=new_tokens, strategy="plain").tokens
                    for prompt in read_prompts(None, num_prompts)
                ]
            )
    return None if len(made) < 2 else all(one == made[0] for one in made)


def lossless_on(artifact: Path, provider: str, num_prompts: int, new_tokens: int) -> Lossless:
    """Drafts by the artifact's own head, three a round, so that every round verifies four rows."""
    prompts = read_prompts(None, num_prompts)
    parts_at, margins, count = [], [], 0
    drafts = Speculation(drafter="model", num_speculations=3)
    with load(artifact, provider=provider) as session:
        for prompt in prompts:
            ids = session.encode(prompt.text)
            plain = session.generate(ids, max_tokens=new_tokens, strategy="plain").tokens
            other = session.generate(ids, max_tokens=new_tokens, speculation=drafts).tokens
            count += len(plain)
            if found := find_difference(session, ids, plain, other):
                parts_at.append(found.position)
                margins.append(found.margin)
    return Lossless(artifact.name, len(prompts), count, parts_at, margins)


def peers_of(
    model: str, work: Path, dense: Path, provider: str, rounds: int, prompt: int, new: int
) -> dict[str, dict[str, Any]]:
    """Rounds of each peer: random tokens, then greedily; each stays loaded, since compiling takes minutes."""
    checkpoint, python = checkpoint_folder(model, work), Path(sys.executable)
    contestants = [
        Contestant(f"transformers {name}", python, "transformers_worker.py", checkpoint, options=options)
        for name, options in (("eager", {"gpu": True}), ("compiled", {"gpu": True, "compiled": True}))
    ]
    if versions_of(("onnxruntime-genai-cuda", "onnxruntime-genai")):
        options = {"provider": "" if provider == "cpu" else provider}
        contestants.append(Contestant("onnxruntime-genai", python, "genai_worker.py", dense, options=options))
    with load(dense, provider="cpu") as session:
        ids: list[int] = np.random.default_rng(1).integers(0, session.engine.vocab_size, prompt).tolist()
    found: dict[str, dict[str, Any]] = {}
    for contestant in contestants:  # one at a time: a GPU's memory may not hold all of them
        try:
            worker = Worker.start(contestant, threads=1, capacity=prompt + new, logs=work / "logs")
            try:
                runs = race([worker], ids, new, rounds=rounds)[contestant.name]
            finally:
                worker.stop()
        except EdgeSkipError as error:
            found[contestant.name] = {"error": str(error), "runs": []}
        else:
            found[contestant.name] = {"settings": worker.loaded["settings"], "runs": runs}
    return found


def peers_table(found: dict[str, dict[str, Any]], prompt: int, new: int) -> Table:
    lines = []
    for name, one in found.items():
        runs: list[Run] = one["runs"]
        speeds = [[prompt / run.prefill_s for run in runs], [run.decode_tokens_per_s for run in runs]]
        lines.append([name, *(Spread.of(values).text(1) if runs else one["error"] for values in speeds)])
    return Table("Peers, tokens/s", ["", f"pp{prompt}", f"tg{new} @ d{prompt}"], lines)


def _variants(provider: str) -> tuple[str, ...]:
    return (provider, "cuda:graphs") if provider == "cuda" else (provider,)


if __name__ == "__main__":
    main(gpu_report)
