"""The records of a benchmark, line by line: what ran where, and how long it took. Data only.

A run is a JSONL file of these records in the order they came; `kind` says which one a line is.
Seconds, bytes and joules; nothing is averaged here.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from edgeskip.artifacts.manifest import PlanSummary
from edgeskip.core.bounds import (
    Amount,
    Bytes,
    Count,
    Name,
    Reading,
    Round,
    Seconds,
    SomeRounds,
    SomeThreads,
    SomeTokens,
    Threads,
    Tokens,
)
from edgeskip.core.plan import Label

FORMAT = "edgeskip-bench-1"
Strategy = Literal["plain", "self-speculative", "speculative", "online"]
DeviceKind = Literal["local", "ssh", "adb", "browser"]
Note = Annotated[str, Field(max_length=1000)]
MAX_FACTS_CHARS = 20_000  # characters of a device's facts as JSON


def timestamp() -> str:
    """Return the time now, as records have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _check_facts(facts: dict[str, object]) -> dict[str, Any]:
    """Raise ValueError for what cannot be written as JSON, is too long, or is nested too deep."""
    try:
        text = json.dumps(facts, ensure_ascii=False, allow_nan=False, default=str)
        text.encode()
    except (RecursionError, UnicodeEncodeError, ValueError):
        raise ValueError("these facts cannot be written as JSON") from None
    if len(text) > MAX_FACTS_CHARS or _nesting(facts) > 6:
        raise ValueError(f"these facts are more than {MAX_FACTS_CHARS} characters, or nested too deep")
    return facts


def _nesting(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else None
    return 0 if inner is None else 1 + max(map(_nesting, inner), default=0)


class Record(BaseModel):
    """Base of all records and requests: no unknown fields, no infinities."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class RunSettings(Record):
    """The settings of a run, the same for every cell."""

    prompt_tokens: list[Tokens] = Field(description="-p: lengths of the prompts of random tokens; one row pp each")
    new_tokens: list[Tokens] = Field(description="-n: tokens decoded one by one; one row tg each")
    depths: list[Tokens] = Field(description="-d: tokens in the KV cache before either")
    rounds: SomeRounds = Field(description="-r: times that every cell runs, each in a fresh process")
    prompts: list[Name] = Field(description="Names of the real prompts that are answered; [] = no serving figures")
    max_tokens: SomeTokens = Field(description="Most tokens of an answer")
    seed: int = 0
    baselines: list[Name] = Field(
        default_factory=list,
        description="Targets that ratios are to: the first of the row's engine, else the first; [] = the first of each "
        "engine",
    )
    chat_options: dict[str, object] = Field(
        default_factory=dict, description="Variables of the chat template, by name; {} = its own defaults"
    )


class RunHeader(Record):
    """First line of a run."""

    kind: Literal["run"] = "run"
    format: Literal["edgeskip-bench-1"] = "edgeskip-bench-1"
    version: str = Field(description="of EdgeSkip")
    created: str
    command: str = Field(default="", description="The command line")
    settings: RunSettings


class ModelCost(Record):
    """The bytes and operations that a model needs, counted from its files: the roofline's numerators."""

    weight_bytes: Amount = Field(description="Read by every decode step: each matrix once, embedding rows not")
    kv_bytes_per_token: Amount = Field(description="Keys and values of one position, in the engine's type")
    matmul_flops: Amount = Field(description="Of one token through every matrix but the head's")
    head_flops: Amount = Field(description="Of one token's logits")
    attention_flops: Amount = Field(description="Of one query on one position, all kept layers together")


class QualityResult(Record):
    """The quality of an artifact, measured on a text with the engine itself: every position of every window."""

    text: str = Field(description="File name")
    tokens: Count
    window: Count
    perplexity: float = Field(ge=0.5, le=1e300)
    reference: str | None = Field(default=None, description="Target that KL and top-1 are against")
    kl_divergence: Reading | None = Field(default=None, description="mean KL(reference ‖ this) per token, nats")
    top1_agreement: float | None = Field(default=None, ge=0, le=1)


class Target(Record):
    """One artifact: a folder or a .gguf file."""

    kind: Literal["target"] = "target"
    name: Name
    path: str
    engine: Literal["onnxruntime", "llama.cpp"]
    size_bytes: Bytes = Field(description="of all its files")
    sha256: str = Field(description="of its manifest, or of the .gguf file")
    label: Label
    model: str | None
    precision: str | None
    plan: PlanSummary | None
    strategies: list[Strategy] = Field(description="What it can be decoded by")
    work: ModelCost | None = Field(default=None, description="None if it cannot be counted")
    quality: QualityResult | None = None


class Roofline(Record):
    """The rates of a machine: the roofline's denominators."""

    provider: str = Field(max_length=100)
    threads: Threads
    bytes_per_s: float | None = Field(ge=1, le=1e16)
    flops_per_s: float | None = Field(ge=1, le=1e18)
    how: str = Field(max_length=2000, description="How both were measured, in words")


class Device(Record):
    """Where cells ran."""

    kind: Literal["device"] = "device"
    id: str = Field(min_length=1, max_length=200)
    type: DeviceKind
    name: str = Field(max_length=500, description="For tables: the processor, the phone's model, the GPU")
    facts: Annotated[dict[str, object], AfterValidator(_check_facts)] = Field(
        default_factory=dict, description="What the system reports about itself"
    )
    versions: dict[str, Annotated[str, Field(max_length=200)]] = Field(default_factory=dict, max_length=100)
    rooflines: list[Roofline] = Field(default_factory=list, max_length=1_000)
    emulated: str | None = Field(default=None, description="Not the device itself, e.g. '4x CPU throttling'")


class BenchCell(Record):
    """One configuration of one target on one device; each round of it runs in its own process."""

    target: Name
    device: Name
    provider: Name = Field(description="As asked for: cpu, cuda, openvino, web (WASM), webgpu")
    threads: SomeThreads
    strategy: Strategy

    @property
    def title(self) -> str:
        return f"{self.target} {self.provider} {self.strategy} t{self.threads} on {self.device}"


class SyntheticResult(Record):
    """One repetition of a synthetic test on random tokens, as llama-bench has them."""

    __test__: ClassVar[bool] = False  # not one of pytest's

    test: Literal["pp", "tg"]
    tokens: SomeTokens
    depth: Tokens
    seconds: Seconds


class SpeculationResult(Record):
    """What drafting did in one answer."""

    rounds: Tokens
    plain_steps: Tokens
    drafted: Tokens
    accepted: Tokens
    draft_s: Seconds
    verify_s: Seconds
    plain_s: Seconds


class PromptResult(Record):
    """One real prompt answered greedily."""

    prompt: str = Field(max_length=200)
    prompt_tokens: SomeTokens
    prepare_s: Seconds = Field(default=0.0, description="Chat template and tokenizer, within ttft_s")
    prefill_s: Seconds
    ttft_s: Seconds = Field(description="From the request to the first token")
    gaps_s: list[Seconds] = Field(
        max_length=100_000, description="Between one token and the next, as they are given out: 0 within a draft"
    )
    tokens: list[Tokens] = Field(max_length=100_000)
    finish_reason: str = Field(max_length=40)
    runtime_s: Seconds | None = Field(default=None, description="Of the decoding, inside the inference runtime")
    speculation: SpeculationResult | None = None
    skipped_online: Count | None = Field(default=None, description="FFNs left out, if the strategy is online")


class ExecutionInfo(Record):
    """What really ran: engine, provider, threads."""

    engine: Literal["onnxruntime", "llama.cpp", "onnxruntime-web"]
    version: str = Field(max_length=100)
    provider: str = Field(max_length=100, description="that ran; another than asked for only if that was allowed")
    nodes: dict[str, Count] = Field(default_factory=dict, description="Nodes by provider; {} if unknown")
    threads: Threads


class SystemConditions(Record):
    """What else the machine did meanwhile."""

    others_cores: Reading | None = Field(default=None, description="Cores that everything else kept busy")
    pulse: list[Reading] = Field(
        default_factory=list, description="Speed of a fixed piece of work before and after, runs per second"
    )
    clock_mhz: list[Reading] = Field(default_factory=list, description="Mean core clock before and after")
    temperature_c: list[Reading] = Field(default_factory=list, description="Hottest zone before and after")
    throttle_events: Count | None = Field(
        default=None, description="The kernel's count of thermal throttling, new ones"
    )
    load_average: Reading | None = None


class EnergyUse(Record):
    """Joules while the answers were made, by the whole machine or what `source` names."""

    joules: Amount
    source: str = Field(max_length=100, description="RAPL package, NVML, battery")


class RoundResult(Record):
    """One round of one cell: one process."""

    kind: Literal["sample"] = "sample"
    cell: BenchCell
    round: Round
    created: str = Field(max_length=60)
    ran: ExecutionInfo
    load_s: Seconds | None = Field(description="None if the engine does not tell it")
    peak_rss_bytes: Bytes | None = None
    device_peak_bytes: Bytes | None = None
    tests: list[SyntheticResult] = Field(default_factory=list, max_length=10_000)
    answers: list[PromptResult] = Field(default_factory=list, max_length=1_000)
    conditions: SystemConditions = SystemConditions()
    energy: EnergyUse | None = None
    notes: list[Note] = Field(default_factory=list, max_length=20)


class RoundFailure(Record):
    """A round that failed; the cell is not tried again in this run."""

    kind: Literal["failure"] = "failure"
    cell: BenchCell
    round: Round
    created: str
    message: str = Field(max_length=2000)


LogRecord = RunHeader | Target | Device | RoundResult | RoundFailure
