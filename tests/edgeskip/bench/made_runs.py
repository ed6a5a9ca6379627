"""Benchmark runs made by hand, for tests that need one without measuring."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from edgeskip.artifacts.manifest import PlanSummary
from edgeskip.bench.runner.run_file import BenchRun, RunLog
from edgeskip.bench.schema import (
    BenchCell,
    Device,
    EnergyUse,
    ExecutionInfo,
    ModelCost,
    PromptResult,
    QualityResult,
    Roofline,
    RoundFailure,
    RoundResult,
    RunHeader,
    RunSettings,
    SpeculationResult,
    Strategy,
    SyntheticResult,
    SystemConditions,
    Target,
)

WHEN = "2025-06-01T12:00:00+00:00"
WORK = ModelCost(
    weight_bytes=8e7, kv_bytes_per_token=2e4, matmul_flops=2.1e8, head_flops=5.7e7, attention_flops=7e4
)  # of a 135M model in int4, about


def made_header(**changes: Any) -> RunHeader:
    """Settings: two prompts of 32 tokens' answers, pp8, tg4, three rounds; `changes` replaces some."""
    settings = {
        "prompt_tokens": [8], "new_tokens": [4], "depths": [0], "rounds": 3, "prompts": ["story", "code"],
        "max_tokens": 32,
    }  # fmt: skip
    return RunHeader(
        version="0.1.0", created=WHEN, command="edgeskip bench dense", settings=RunSettings(**(settings | changes))
    )


def made_target(name: str = "dense", **changes: Any) -> Target:
    """A dense int4 ONNX artifact; one named skip… leaves out 8 of 60 sublayers; `changes` replaces fields."""
    skip = [f"attn.{block}" for block in range(8)] if name.startswith("skip") else []
    fields: dict[str, Any] = {
        "name": name, "path": f"demo/{name}", "engine": "onnxruntime", "size_bytes": 90_000_000,
        "sha256": f"{name:0<64}",
        "label": "lossy-skip" if skip else "dense", "model": "SmolLM2-135M-Instruct", "precision": "int4",
        "plan": PlanSummary(
            method="adaskip" if skip else "dense", compensation="affine" if skip else "none", skip=skip, num_blocks=30
        ),
        "strategies": ["plain"],
    }  # fmt: skip
    return Target(**(fields | changes))


def made_quality(
    perplexity: float, reference: str | None = None, kl: float | None = None, top1: float | None = None
) -> QualityResult:
    return QualityResult(
        text="wiki.test.raw", tokens=6144, window=1024, perplexity=perplexity, reference=reference, kl_divergence=kl,
        top1_agreement=top1,
    )  # fmt: skip


def made_device(identifier: str = "here", **changes: Any) -> Device:
    fields: dict[str, Any] = {
        "id": identifier, "type": "local", "name": "Made CPU", "facts": {"cores": 2, "memory_bytes": 8_000_000_000},
        "versions": {"onnxruntime": "1.31.1"},
        "rooflines": [Roofline(provider="cpu", threads=2, bytes_per_s=2e10, flops_per_s=1e11, how="triad and GEMM")],
    }  # fmt: skip
    return Device(**(fields | changes))


def made_cell(
    target: str = "dense", strategy: Strategy = "plain", device: str = "here", provider: str = "cpu", threads: int = 2
) -> BenchCell:
    return BenchCell(target=target, device=device, provider=provider, threads=threads, strategy=strategy)


def made_answer(gaps: Sequence[float], *, ttft: float = 0.1, prompt: str = "story", **changes: Any) -> PromptResult:
    """An answer of one token more than there are gaps; prefill takes 80 % of TTFT, the template 10 %."""
    fields: dict[str, Any] = {
        "prompt": prompt, "prompt_tokens": 20, "prepare_s": 0.1 * ttft, "prefill_s": 0.8 * ttft, "ttft_s": ttft,
        "gaps_s": list(gaps), "tokens": list(range(len(gaps) + 1)), "finish_reason": "length",
    }  # fmt: skip
    return PromptResult(**(fields | changes))


def made_speculation(rounds: int, drafted: int, accepted: int, **changes: Any) -> SpeculationResult:
    fields: dict[str, Any] = {
        "rounds": rounds, "plain_steps": 0, "drafted": drafted, "accepted": accepted, "draft_s": 0.1, "verify_s": 0.2,
        "plain_s": 0.0,
    }  # fmt: skip
    return SpeculationResult(**(fields | changes))


def made_sample(
    cell: BenchCell,
    number: int,
    *,
    pp: float | None = None,
    tg: float | None = None,
    answers: Sequence[PromptResult] = (),
    **changes: Any,
) -> RoundResult:
    """A round: `pp` and `tg` are the seconds of pp8 and tg4."""
    tests = [] if pp is None else [SyntheticResult(test="pp", tokens=8, depth=0, seconds=pp)]
    tests += [] if tg is None else [SyntheticResult(test="tg", tokens=4, depth=0, seconds=tg)]
    fields: dict[str, Any] = {
        "cell": cell, "round": number, "created": WHEN, "load_s": 0.5, "tests": tests, "answers": list(answers),
        "ran": ExecutionInfo(engine="onnxruntime", version="1.31.1", provider=cell.provider, threads=cell.threads),
    }  # fmt: skip
    return RoundResult(**(fields | changes))


def made_failure(cell: BenchCell, message: str = "no memory left") -> RoundFailure:
    return RoundFailure(cell=cell, round=0, created=WHEN, message=message)


def made_run(*lines: Target | Device | RoundResult | RoundFailure, **settings: Any) -> BenchRun:
    run = BenchRun(made_header(**settings))
    for line in lines:
        run.add(line)
    return run


def write_run(run: BenchRun, path: Path) -> Path:
    """As a benchmark writes it, record by record."""
    log = RunLog(run.header, path)
    for line in run.lines[1:]:
        assert not isinstance(line, RunHeader)
        log.add(line)
    return path


def like_a_real_one(seed: int = 0) -> BenchRun:
    """Three devices, four targets, all strategies, conditions of every kind: for looking at the page."""
    chance = random.Random(seed)
    cores = [
        Roofline(provider="cpu", threads=n, bytes_per_s=1e10 * n, flops_per_s=6e10 * n, how="triad, GEMM")
        for n in (1, 2)
    ]
    laptop = made_device("here", name="Intel Xeon Platinum 8581C @ 2.10 GHz", rooflines=cores)
    gpu = made_device("gpu", type="ssh", name="NVIDIA H100 80GB HBM3", rooflines=[
        Roofline(provider="cuda", threads=2, bytes_per_s=2.9e12, flops_per_s=6e14, how="copy and GEMM on the device")
    ], facts={"driver": "580.65", "memory_bytes": 85_520_809_984})  # fmt: skip
    phone = made_device("web-7f3a", type="browser", name="Chrome 140 on Android 15; Pixel 9", rooflines=[],
                        facts={"userAgent": "Mozilla/5.0 (Linux; Android 15) Chrome/140", "hardwareConcurrency": 8},
                        versions={"onnxruntime-web": "1.23.0"}, emulated="4x CPU throttling")  # fmt: skip
    reference = "SmolLM2-135M dense-int4"
    targets = [
        made_target(reference, work=WORK, quality=made_quality(23.91)),
        made_target("skip8-int4", work=WORK, quality=made_quality(28.4, reference, 0.184, 0.781)),
        made_target("skip12-int4", work=WORK, quality=made_quality(37.2, reference, 0.43, 0.69)),
        made_target("exit4-int4", work=WORK, strategies=["plain", "self-speculative"]),
        made_target("gates-int4", strategies=["plain", "online"]),
        made_target(
            "dense.gguf", engine="llama.cpp", precision="Q4_1", quality=made_quality(24.3, reference, 0.01, 0.95)
        ),
    ]
    speeds: dict[tuple[str, str], float] = {
        (reference, "plain"): 1.0, ("skip8-int4", "plain"): 1.13, ("skip12-int4", "plain"): 1.24,
        ("exit4-int4", "plain"): 0.99, ("exit4-int4", "self-speculative"): 1.31, ("gates-int4", "online"): 1.08,
        ("dense.gguf", "plain"): 0.66,
    }  # fmt: skip
    lines: list[Target | Device | RoundResult | RoundFailure] = [*targets, laptop, gpu, phone]
    for number in range(3):
        for device, provider, threads, base in (
            (laptop, "cpu", 1, 61.0), (laptop, "cpu", 2, 102.0), (gpu, "cuda", 2, 910.0), (phone, "web", 4, 9.4)
        ):  # fmt: skip
            for (name, strategy), times in speeds.items():
                if name == "dense.gguf" and provider != "cpu":
                    continue
                cell = made_cell(name, strategy, device.id, provider, threads)  # type: ignore[arg-type]
                lines.append(_round(cell, number, base * times * chance.uniform(0.97, 1.03), chance))
    lines.append(made_failure(
        made_cell("dense.gguf", "plain", "gpu", "cuda"), "llama.cpp was built without CUDA: install a build that has it"
    ))  # fmt: skip
    return made_run(*lines, prompt_tokens=[512], new_tokens=[128], depths=[0, 2048], max_tokens=64)


_ENGINES: dict[str, Literal["onnxruntime", "onnxruntime-web"]] = {"web": "onnxruntime-web"}


def _round(cell: BenchCell, number: int, speed: float, chance: random.Random) -> RoundResult:
    plain = cell.strategy != "self-speculative"
    answers = []
    for prompt in ("story", "code"):
        step = 1 / speed
        gaps: list[float] = []
        accepted = rounds = 0
        while len(gaps) < 63:
            taken = 0 if plain else chance.choice([0, 0, 1, 1, 2, 3, 4])
            taken = min(taken, 62 - len(gaps))
            gaps += [step * chance.uniform(0.95, 1.05) * (1 if plain else 2.5)] + [0.0] * taken
            accepted, rounds = accepted + taken, rounds + 1
        total = sum(gaps)
        told = None if plain else made_speculation(
            rounds, 4 * rounds, accepted, draft_s=0.3 * total, verify_s=0.6 * total
        )  # fmt: skip
        inside = 0.93 * total if plain and cell.provider != "web" else None
        ttft = 60 / (4 * speed) * chance.uniform(0.98, 1.02)
        answers.append(made_answer(gaps, ttft=ttft, prompt=prompt, speculation=told, runtime_s=inside))
    tests = [
        SyntheticResult(test=test, tokens=tokens, depth=depth, seconds=tokens / (speed * factor) * (1 + depth / 8192))  # type: ignore[arg-type]
        for test, tokens, factor in (("pp", 512, 4.3), ("tg", 128, 1.06))
        for depth in (0, 2048)
        for _ in range(2)
    ]
    busy = 0.34 if number == 1 and cell.provider == "cpu" and cell.threads == 1 else 0.03
    hot = cell.provider == "web" and number == 2
    provider = {"cuda": "cuda", "web": "web"}.get(cell.provider, "cpu")
    return made_sample(
        cell, number, answers=answers, load_s=chance.uniform(0.4, 0.6), tests=tests if plain else [],
        peak_rss_bytes=None if provider == "web" else int(3.1e8),
        device_peak_bytes=int(9e8) if provider == "cuda" else None,
        ran=ExecutionInfo(engine="llama.cpp" if cell.target.endswith("gguf") else _ENGINES.get(provider, "onnxruntime"),
                version="1.31.1", provider=provider, threads=cell.threads,
                nodes={"cuda": 210, "cpu": 3} if provider == "cuda" else {"cpu": 213} if provider == "cpu" else {}),
        conditions=SystemConditions(others_cores=None if provider == "web" else busy,
                              pulse=[100.0, 82.0 if hot else 99.0],
                              temperature_c=[51.0, 56.5] if provider == "cpu" else [], load_average=1.2),
        energy=EnergyUse(joules=speed / 3, source="NVML") if provider == "cuda" else None,
    )  # fmt: skip
