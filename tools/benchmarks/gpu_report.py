"""What a GPU makes of it: parity with the CPU, then fp16 dense, skipped and self-speculative beside transformers.

    bash tools/gpu_report.sh            makes an environment, then runs this; see there
    python tools/benchmarks/gpu_report.py    where edgeskip[export], onnxruntime-gpu and torch are installed already

Leaves one JSON, `docs/results/gpu-DEVICE.json`: the device, versions, parity, `edgeskip bench`'s whole run, and the
peers' rounds: transformers eager and compiled, and onnxruntime-genai-cuda over the same folder where it is installed.
`--provider cpu` runs the same code without a GPU, to try it.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from harness.driver import Contestant, Run, Worker, race, tell
from harness.machine import describe
from harness.models import checkpoint_folder
from harness.product import calibrated, exported, model_folder, planned
from peer_runtimes import default_work

from edgeskip.bench.runner.prompts import read_prompts
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import replace_file
from edgeskip.core.held_out import HELD_OUT_TEXT as TEXT
from edgeskip.core.machine import nvidia_gpus
from edgeskip.core.metrics import log_softmax as log_probabilities
from edgeskip.runtime.session import Session, load
from edgeskip.runtime.speculation.policy import Speculation

RESULTS = Path(__file__).parents[2] / "docs" / "results"
SKIPPED, EXIT_LAYER = 8, 4
PARITY_TOKENS = 512


@dataclass(frozen=True)
class Parity:
    """How far a provider's predictions are from the CPU's, in float32, over the same tokens."""

    artifact: str
    provider: str
    tokens: int
    max_abs_logit_difference: float
    kl_divergence: float  # mean KL(CPU fp32 ‖ this) per token, nats
    top1_agreement: float


@dataclass(frozen=True)
class Lossless:
    """Greedy tokens of the self-speculative loop beside plain decoding, on one artifact."""

    artifact: str
    prompts: int
    tokens: int
    parts_at: list[int]  # first token that differs, of the prompts where one does
    margins: list[float]  # the plain model's top-2 logit margin there: 0 = a tie, which rounding decides


def gpu_report(
    model: Annotated[str, typer.Option(help="Ready model's name, Hugging Face folder or GGUF file.")] = (
        "smollm2-135m-instruct"
    ),
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
    work: Annotated[Path | None, typer.Option(help="Artifacts are kept here.", show_default="the user's cache")] = None,
    output: Annotated[Path | None, typer.Option("-o", show_default="docs/results/gpu-DEVICE.json")] = None,
) -> None:
    """Check, measure, and write one JSON."""
    gpus = nvidia_gpus()
    if provider == "cuda" and not gpus:
        raise EdgeSkipError("nvidia-smi finds no GPU here: run this on a machine with one, or try --provider cpu")
    work = (work or default_work()).resolve()
    device = gpus[0].split(",")[0] if gpus else provider
    output = output or RESULTS / f"gpu-{re.sub(r'[^a-z0-9]+', '-', device.lower()).strip('-')}.json"
    reference, targets = artifacts_of(model, work, precision, calibration_tokens, draft_tokens)
    tell("parity with the CPU in float32")
    result: dict[str, Any] = {
        "device": device,
        "provider": provider,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe(),
        "versions": _versions(),
        "model": model,
        "precision": precision,
        "parity": [
            asdict(parity_of(reference, path, variant)) for variant in _variants(provider) for path in targets.values()
        ],
        "same_tokens_replayed": same_tokens(targets["dense"], _variants(provider), num_prompts, new_tokens),
        "lossless": asdict(lossless_on(targets["self-speculative"], provider, num_prompts, new_tokens)),
    }
    tell("edgeskip bench")
    result["bench"] = bench(targets, provider, rounds, prompt_tokens, new_tokens, depth, num_prompts)
    if peers:
        result["peers"] = peers_of(model, work, targets["dense"], provider, rounds, prompt_tokens, new_tokens)
    output.parent.mkdir(parents=True, exist_ok=True)
    replace_file(output, (json.dumps(result, indent=1) + "\n").encode())
    print(output)


def artifacts_of(
    model: str, work: Path, precision: str, tokens: int, draft_tokens: int
) -> tuple[Path, dict[str, Path]]:
    """The dense float32 export that everything is compared with, and those that are measured, by name."""
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


def parity_of(reference: Path, artifact: Path, provider: str) -> Parity:
    """A skipped model's difference is its plan's and its precision's together."""
    logits = []
    for path, where in ((reference, "cpu"), (artifact, provider)):
        with load(path, provider=where) as session:
            tokens = session.encode(TEXT.read_text(encoding="utf-8"), chat=False)[:PARITY_TOKENS]
            logits.append(session.logits(tokens))
    ours, theirs = log_probabilities(logits[1]), log_probabilities(logits[0])
    return Parity(
        artifact=artifact.name,
        provider=provider,
        tokens=len(tokens),
        max_abs_logit_difference=float(np.abs(logits[1] - logits[0]).max()),
        kl_divergence=max(0.0, float((np.exp(theirs) * (theirs - ours)).sum(axis=1).mean())),
        top1_agreement=float((ours.argmax(axis=1) == theirs.argmax(axis=1)).mean()),
    )


def same_tokens(artifact: Path, providers: Sequence[str], num_prompts: int, new_tokens: int) -> bool | None:
    """Whether greedy answers are the same on all of them; None where there is one."""
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
    with load(artifact, provider=provider) as session:
        for prompt in prompts:
            plain = session.generate(prompt.text, max_tokens=new_tokens, strategy="plain").tokens
            drafts = Speculation(drafter="model", num_speculations=3)
            other = session.generate(prompt.text, max_tokens=new_tokens, speculation=drafts).tokens
            count += len(plain)
            if plain != other:
                place = next((i for i, (a, b) in enumerate(zip(plain, other, strict=False)) if a != b), len(other))
                parts_at.append(place)
                margins.append(_margin(session, prompt.text, plain[:place]))
    return Lossless(artifact.name, len(prompts), count, parts_at, margins)


def bench(
    targets: dict[str, Path], provider: str, rounds: int, prompt: int, new: int, depth: int, num_prompts: int
) -> dict[str, Any]:
    """`edgeskip bench`'s run as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "edgeskip", "bench", *(f"{name}={path}" for name, path in targets.items())]
        command += ["--provider", ",".join(_variants(provider)), "--strategy", "plain,self-speculative"]
        command += ["--threads", "1", "-r", str(rounds), "-p", str(prompt), "-n", str(new)]
        command += ["-d", f"0,{prompt},{depth}", "--num-prompts", str(num_prompts), "--max-tokens", str(new)]
        command += ["-o", "json", "--log", f"{folder}/log.jsonl"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 1):  # 1: a cell failed, and the run says which
        raise EdgeSkipError("edgeskip bench failed: its own words are above")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def peers_of(
    model: str, work: Path, dense: Path, provider: str, rounds: int, prompt: int, new: int
) -> dict[str, list[dict[str, Any]]]:
    """Rounds of each peer: random tokens, then greedily; each stays loaded, since compiling takes minutes."""
    checkpoint = checkpoint_folder(model, work)
    contestants = [
        Contestant(name, "peer", "", Path(sys.executable), f"{worker}_worker.py", checkpoint)
        for name, worker in (
            ("transformers eager", "transformers_eager_gpu"),
            ("transformers compiled", "transformers_compiled_gpu"),
        )
    ]
    if any(_installed(package) for package in ("onnxruntime-genai-cuda", "onnxruntime-genai")):
        os.environ["PROVIDER"] = "" if provider == "cpu" else provider
        contestants.append(Contestant("onnxruntime-genai", "peer", "", Path(sys.executable), "genai_worker.py", dense))
    with load(dense, provider="cpu") as session:
        ids: list[int] = np.random.default_rng(1).integers(0, session.engine.vocab_size, prompt).tolist()
    found: dict[str, list[dict[str, Any]]] = {}
    for contestant in contestants:  # one at a time: a GPU's memory may not hold all of them
        with ExitStack() as stack:
            try:
                worker = Worker.start(contestant, threads=1, capacity=prompt + new, logs=work / "logs")
                stack.callback(worker.stop)
                runs = race([worker], ids, new, rounds=rounds)[contestant.name]
            except EdgeSkipError as error:
                found[contestant.name] = [{"error": str(error)}]
                continue
            found[contestant.name] = [{**_figures(run, prompt), "settings": worker.loaded["settings"]} for run in runs]
    return found


def _variants(provider: str) -> tuple[str, ...]:
    return (provider, "cuda:graphs") if provider == "cuda" else (provider,)


def _figures(run: Run, prompt: int) -> dict[str, float]:
    return {
        f"pp{prompt}": prompt / run.prefill_s,
        f"tg{len(run.token_s) + 1} @ d{prompt}": len(run.token_s) / sum(run.token_s),
    }


def _margin(session: Session, prompt: str, made: tuple[int, ...]) -> float:
    """The top-2 margin of the logits after the prompt and `made`."""
    tokens = np.concatenate([session.encode(prompt), np.asarray(made, np.int64)])
    first, second = np.sort(session.logits(tokens)[-1])[-1:-3:-1]
    return float(first - second)


def _versions() -> dict[str, str]:
    names = ("edgeskip", "torch", "transformers", "onnxruntime", "onnxruntime-gpu", "onnxruntime-genai-cuda", "numpy")
    return {name: importlib.metadata.version(name) for name in names if _installed(name)}


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    try:
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command()(gpu_report)
        app()
    except EdgeSkipError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
