"""Measures a device profile: opens a dense artifact with the clock of its engine and runs it. No torch."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from edgeskip.artifacts.files import check_files
from edgeskip.artifacts.gguf.manifest import read_gguf_manifest
from edgeskip.artifacts.location import artifact_at
from edgeskip.artifacts.manifest import PlanSummary, read_manifest
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.machine import this_machine
from edgeskip.core.requirements import installed_version
from edgeskip.core.version import __version__
from edgeskip.profiles.device_profile import DecodeCost, DeviceProfile, DeviceRecord, PrefillCost
from edgeskip.profiles.schema import ModelRecord
from edgeskip.runtime.engines.prefill import PREFILL_CHUNK
from edgeskip.runtime.engines.threads import threads_or_default
from edgeskip.runtime.sublayer_times import OneRow, ProfiledStep, SublayerProfiler, measure_steps

PREFILLS, TOKENS = 2, 12  # repeats in a round
_PACKAGES = {"onnxruntime": "onnxruntime", "llama.cpp": "llama-cpp-python"}


@dataclass(frozen=True)
class ProfiledModel:
    """A dense artifact whose sublayers can be timed."""

    clock: SublayerProfiler
    model: ModelRecord
    engine: str
    provider: str
    threads: int
    precision: str
    context_length: int
    one_row: OneRow


@dataclass(frozen=True)
class ProfilingRequest:
    """What to measure; `contexts` are those that the model holds, rising."""

    prompt: int
    contexts: tuple[int, ...]
    rounds: int

    @property
    def steps(self) -> list[tuple[ProfiledStep, int]]:
        return [
            (ProfiledStep(0, self.prompt), PREFILLS),
            *((ProfiledStep(context, 1), TOKENS) for context in self.contexts),
        ]

    @property
    def runs(self) -> int:
        """How often `measure_device` calls `advance`."""
        return self.rounds * sum(2 * (repeats + 1) for _, repeats in self.steps)


def open_dense(path: Path, *, provider: str = "cpu", threads: int | None = None) -> ProfiledModel:
    """EdgeSkipError, naming what to export, where the artifact skips or drafts, or cannot be timed on `provider`."""
    threads = threads_or_default(threads)
    path = artifact_at(path)
    if path.suffix.lower() == ".gguf" or path.is_file():
        return _open_gguf(path, provider, threads)
    from edgeskip.runtime.engines.onnxruntime.profiler import OnnxRuntimeProfiler

    manifest = read_manifest(path)
    check_files(path, manifest)
    _refuse_plan(path, manifest.plan)
    if manifest.draft is not None or manifest.online is not None:
        raise EdgeSkipError(f"{path} can skip at run time: export it without --draft and --online, and time that")
    if provider.lower() != "cpu":
        raise EdgeSkipError(
            f"ONNX Runtime times no single sublayer on {provider!r}: use --provider cpu, or a GGUF file on that device"
        )
    clock = OnnxRuntimeProfiler(path, manifest, threads=threads)
    graph = manifest.graph
    return ProfiledModel(
        clock, manifest.model, "onnxruntime", "cpu", clock.threads, graph.precision, graph.context_length,
        "after-last-attention",
    )  # fmt: skip


def _open_gguf(path: Path, provider: str, threads: int) -> ProfiledModel:
    from edgeskip.runtime.engines.llamacpp.model import LlamaModel
    from edgeskip.runtime.engines.llamacpp.profiler import LlamaCppProfiler

    model = LlamaModel(path, provider)
    manifest = read_gguf_manifest(model.metadata, str(path))
    if manifest is None:
        raise EdgeSkipError(
            f"{path} was not written by EdgeSkip, so its contents are unknown; measure what  edgeskip export --target "
            "gguf  makes of its model"
        )
    _refuse_plan(path, manifest.plan)
    if manifest.part != "whole" or model.num_blocks != manifest.plan.num_blocks:
        raise EdgeSkipError(f"{path} is part of a pair: export the model without --draft, and time that")
    clock = LlamaCppProfiler(model, threads=threads)
    return ProfiledModel(
        clock, manifest.model, "llama.cpp", model.provider, clock.threads, manifest.precision, model.context_length,
        "last",
    )  # fmt: skip


def _refuse_plan(path: Path, plan: PlanSummary) -> None:
    if plan.skip:
        raise EdgeSkipError(
            f"{path} skips {len(plan.skip)} sublayers, whose time is wanted too: export the dense model "
            "(edgeskip plan PROFILE --skip-sublayers 0 -o dense.json)"
        )


def settle(opened: ProfiledModel, prompt: int, contexts: Sequence[int], rounds: int) -> ProfilingRequest:
    """Return the request as far as the model's context holds it. Raises EdgeSkipError if it makes no sense."""
    if not 2 <= prompt <= min(PREFILL_CHUNK, opened.context_length):
        longest = min(PREFILL_CHUNK, opened.context_length)
        raise EdgeSkipError(f"--prompt {prompt} must be 2 to {longest} tokens: longer prompts run in such pieces")
    if rounds < 1:
        raise EdgeSkipError(f"--rounds must be at least 1, not {rounds}")
    held = sorted({context for context in contexts if context < opened.context_length})
    if not held or held[0] < 0:
        raise EdgeSkipError(f"--contexts: the model holds {opened.context_length} tokens, name lengths below that")
    return ProfilingRequest(prompt, tuple(held), rounds)


def measure_device(
    opened: ProfiledModel, request: ProfilingRequest, advance: Callable[[], None] = lambda: None
) -> DeviceProfile:
    """Run everything and close the artifact; a minute for a model of 135 million parameters."""
    with closing(opened.clock):
        costs = measure_steps(opened.clock, request.steps, request.rounds, advance)
    machine = this_machine()
    package = _PACKAGES[opened.engine]
    prefill, decode = costs[0], costs[1:]
    return DeviceProfile(
        name=f"{machine.processor}, {opened.engine} on {opened.provider}, {opened.threads} threads, {opened.precision}",
        model=opened.model,
        device=DeviceRecord(
            system=machine.system,
            processor=machine.processor,
            logical_cores=machine.logical_cores,
            usable_cores=machine.usable_cores,
            simd=list(machine.simd),
            memory_bytes=machine.memory_bytes,
            gpus=list(machine.gpus),
        ),
        engine="onnxruntime" if opened.engine == "onnxruntime" else "llama.cpp",
        provider=opened.provider,
        threads=opened.threads,
        precision=opened.precision,
        prefill=PrefillCost(tokens=request.prompt, base_s=prefill.base_s, sublayer_s=list(prefill.sublayer_s)),
        decode=[
            DecodeCost(context=context, base_s=cost.base_s, sublayer_s=list(cost.sublayer_s))
            for context, cost in zip(request.contexts, decode, strict=True)
        ],
        one_row=opened.one_row,
        rounds=request.rounds,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={"edgeskip": __version__, "python": platform.python_version()}
        | ({package: version} if (version := installed_version(package)) else {}),
    )
