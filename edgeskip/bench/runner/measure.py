"""Measures one round of one cell in this process: opens the artifact, warms up, runs the tests, answers the prompts."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeskip.bench.runner.energy import EnergyMeter
from edgeskip.bench.runner.nvml import DeviceMemory
from edgeskip.bench.runner.request import BenchPrompt, RoundRequest, SyntheticTest
from edgeskip.bench.runner.system_monitor import SystemMonitor
from edgeskip.bench.schema import (
    ExecutionInfo,
    PromptResult,
    RoundResult,
    SpeculationResult,
    Strategy,
    SyntheticResult,
    timestamp,
)
from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.engines.prefill import PREFILL_CHUNK, prefill
from edgeskip.runtime.generation import peak_rss_bytes
from edgeskip.runtime.session import Session, load
from edgeskip.runtime.speculation.policy import Speculation

if TYPE_CHECKING:
    from edgeskip.runtime import generation
    from edgeskip.runtime.engines.interface import Engine

_WARM_TOKENS = 4
# The matching `run --strategy`, and how it drafts.
_DECODED_BY: dict[Strategy, tuple[generation.Strategy, Speculation]] = {
    "plain": ("plain", Speculation()),
    "self-speculative": ("speculative", Speculation(drafter="model")),
    "speculative": ("speculative", Speculation()),
    "online": ("online", Speculation()),
}


def measure_round(request: RoundRequest, progress: Callable[[str], None]) -> RoundResult:
    """Measure one round. Raises EdgeSkipError if the artifact cannot be opened, or run on the provider (unless
    allowed)."""
    cell, notes = request.cell, list[str]()
    memory = DeviceMemory(cell.provider)
    created = timestamp()
    progress("loading")
    _run_self_tests(request)
    with _load_session(request, notes) as session:
        engine = session.engine
        progress("warming up")
        _warm_up_answers(session, request)
        progress("measuring")  # its display is drawn before the monitor below starts
        monitor = SystemMonitor()
        meter = EnergyMeter(cell.provider)
        answers = [_answer_prompt(session, prompt, request) for prompt in request.prompts]
        energy = meter.energy() if answers else None
        # After the answers, which cells of every strategy have: tests, or warming up for them, would leave them another
        # machine and other buffers.
        _warm_up_tests(engine, request)
        tests = [_run_test(engine, test, request.seed) for test in request.tests]
        return RoundResult(
            cell=cell,
            round=request.round,
            created=created,
            ran=ExecutionInfo(
                engine=engine.name,
                version=_engine_version(engine.name),
                provider=session.provider,
                nodes=getattr(engine, "nodes", {}),
                threads=engine.threads,
            ),
            load_s=session.load_s,
            peak_rss_bytes=peak_rss_bytes(),
            device_peak_bytes=memory.allocated_bytes(),
            tests=tests,
            answers=answers,
            conditions=monitor.conditions(),
            energy=energy,
            notes=notes,
        )


def _run_self_tests(request: RoundRequest) -> None:
    """Run the self-tests of a build that is new here: they are not part of loading, which reports their findings."""
    from edgeskip.runtime.engines.llamacpp.self_test import check_llamacpp
    from edgeskip.runtime.engines.onnxruntime.providers import self_test_provider

    with suppress(EdgeSkipError):
        if Path(request.path).is_file():
            check_llamacpp()
        else:
            self_test_provider(request.cell.provider)


def _load_session(request: RoundRequest, notes: list[str]) -> Session:
    path, cell = Path(request.path), request.cell
    try:
        return load(path, provider=cell.provider, threads=cell.threads)
    except EdgeSkipError as error:
        if not request.allow_fallback or cell.provider == "cpu":
            raise
        notes.append(f"fell back to the CPU: {error}"[:500])
        return load(path, provider="cpu", threads=cell.threads)


def _warm_up_answers(session: Session, request: RoundRequest) -> None:
    """Do each kind of work once: kernels pack and compile, buffers are made, speculation measures its costs."""
    for prompt in request.prompts[:1]:
        strategy, speculation = _DECODED_BY[request.cell.strategy]
        watched = _online_window(session) if strategy == "online" else 0
        tokens = watched + _WARM_TOKENS
        session.generate(prompt.text, max_tokens=tokens, strategy=strategy, speculation=speculation)


def _warm_up_tests(engine: Engine, request: RoundRequest) -> None:
    """Read prompts of the lengths asked for, and take a single step."""
    for tokens in {test.tokens for test in request.tests if test.test == "pp"}:
        _prefill_random(engine, tokens, request.seed)
    if request.tests:
        engine.step(_random_tokens(engine, 1, request.seed))
        engine.truncate(0)


def _online_window(session: Session) -> int:
    """Return P, the tokens that online skipping watches before it leaves anything out."""
    if session.online is not None:
        return session.online.window
    return getattr(session.manifest, "window", None) or 0


def _run_test(engine: Engine, test: SyntheticTest, seed: int) -> SyntheticResult:
    """Time a test as llama-bench does: random tokens, logits of the last position, without the depth's prefill."""
    total = test.depth + test.tokens
    if total > engine.context_length:
        raise EdgeSkipError(
            f"{test.name} needs a context of {total} tokens, the model has {engine.context_length}; give a smaller "
            "-p, -n or -d"
        )
    engine.truncate(0)
    engine.reserve(total)
    if test.depth:
        prefill(engine, _random_tokens(engine, test.depth, seed))
    if test.test == "tg":
        # The cache may be a new one, for which replayed steps are recorded anew.
        engine.step(_random_tokens(engine, 1, seed))
        engine.truncate(test.depth)
    tokens = _random_tokens(engine, test.tokens, seed + 1)
    begin = time.perf_counter()
    if test.test == "pp":
        prefill(engine, tokens)
    else:
        for place in range(test.tokens):
            engine.step(tokens[place : place + 1])
    seconds = time.perf_counter() - begin
    engine.truncate(0)
    return SyntheticResult(test=test.test, tokens=test.tokens, depth=test.depth, seconds=seconds)


def _answer_prompt(session: Session, prompt: BenchPrompt, request: RoundRequest) -> PromptResult:
    """Answer greedily, with the chat template if the model has one."""
    strategy, speculation = _DECODED_BY[request.cell.strategy]
    begin = time.perf_counter()
    stream = session.stream(
        prompt.text,
        chat_kwargs=request.chat_options,
        max_tokens=request.max_tokens,
        strategy=strategy,
        speculation=speculation,
    )
    prepared = time.perf_counter() - begin
    for _ in stream:
        pass
    made, times = stream.generation, stream.arrivals_s
    stats, drafted = made.stats, made.stats.speculation
    return PromptResult(
        prompt=prompt.name,
        prompt_tokens=stats.prompt_tokens,
        prepare_s=min(prepared, max(0.0, stats.ttft_s - stats.prefill_s)),
        prefill_s=stats.prefill_s,
        ttft_s=stats.ttft_s,
        gaps_s=[max(0.0, after - before) for before, after in pairwise(times)],
        tokens=list(made.tokens),
        finish_reason=made.finish_reason,
        runtime_s=(1 - stats.python_share) * stats.decode_s,
        speculation=None if drafted is None else SpeculationResult.model_validate(drafted, from_attributes=True),
        skipped_online=None if stats.online is None else len(stats.online.gated),
    )


def _prefill_random(engine: Engine, tokens: int, seed: int) -> None:
    tokens = min(tokens, engine.context_length - 1)
    engine.truncate(0)
    engine.reserve(tokens + 1)
    for start in range(0, tokens, PREFILL_CHUNK):
        engine.step(_random_tokens(engine, min(PREFILL_CHUNK, tokens - start), seed))


def _random_tokens(engine: Engine, count: int, seed: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.random.default_rng(seed).integers(0, engine.vocab_size, count)


def _engine_version(name: str) -> str:
    if name == "onnxruntime":
        import onnxruntime

        return str(onnxruntime.__version__)
    import llama_cpp

    return f"llama-cpp-python {llama_cpp.__version__}"
