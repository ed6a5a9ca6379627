"""Uses every public name of edgeskip, for pyright in strict mode (`make types`); never run.

`tests/edgeskip/test_public_names.py` checks that no name is missing. `assert_type` fails if a type is Any.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, assert_type

import numpy as np
from numpy.typing import NDArray

import edgeskip
from edgeskip import (
    Artifact,
    BenchResult,
    EdgeSkipError,
    Evaluation,
    Generation,
    Online,
    Profile,
    Progress,
    ProgressEvent,
    Sampling,
    Session,
    Speculation,
    TrainingResult,
)
from edgeskip.core.sublayers import Sublayer


def show(event: ProgressEvent) -> None:
    assert_type(event.total, float | None)
    print(f"{event.stage}: {event.fraction:.0%} {event.detail}")


def make_profile(model: Path) -> Profile:
    progress: Progress = show
    measured = edgeskip.calibrate(model, corpus=["a.txt", Path("b.jsonl")], tokens=4096, exits=[2], progress=progress)
    assert_type(measured, Profile)
    for entry in measured.sublayers:
        assert_type(entry.name, str)
        assert_type(measured.statistics(Sublayer(3, "ffn")).name, str)
    try:
        planned = edgeskip.plan(measured, method="budget", max_kl=0.1, output="llama.json", progress=progress)
    except EdgeSkipError as error:
        print(error)
        planned = edgeskip.plan(measured, skip_sublayers=4, compensation="affine")
    assert_type(planned.save("llama.json", overwrite=True), Profile)
    assert_type(planned.path, Path | None)
    return Profile.load("llama.json")


def export(profile: Profile) -> Artifact:
    artifact = edgeskip.export(profile, "out", precision="int4", draft="early-exit", exit_layer=[4, 8], progress=show)
    assert_type(artifact.label, Literal["dense", "lossy-skip", "draft-only", "verified"])
    assert_type(artifact.files, tuple[Path, ...])
    print(artifact.path, artifact.size_bytes, artifact.manifest.plan.skip)
    if artifact.check is not None:
        assert_type(artifact.check.kl_divergence, float)
    if artifact.cost is not None and artifact.cost.artifact is not None:
        assert_type(artifact.cost.artifact.kl_divergence, float)
    assert_type(artifact.load(threads=1), Session)
    assert_type(edgeskip.load(artifact), Session)
    return artifact


def generate(artifact: Path) -> Generation:
    sampling = Sampling(temperature=0.7, top_p=0.9, seed=1)
    with edgeskip.load(artifact, threads=2) as session:
        assert_type(session, Session)
        assert_type(session.context_length, int)
        assert_type(session.provider, str)
        print(session.engine, session.default_strategy, session.drafts)
        ids = session.encode("Hello", chat=True, system="Be brief.")
        assert_type(ids, NDArray[np.int64])
        assert_type(session.logits(ids), NDArray[np.float32])
        stream = session.stream([{"role": "user", "content": "Hello"}], sampling=sampling, stop=["\n"])
        for piece in stream:
            assert_type(piece.drafted, bool)
            assert_type(piece.upper(), str)
        assert_type(stream.generation, Generation)
        session.generate("Hello", strategy="online", online=Online(window=4, threshold=0.9))
        return session.generate(
            "Hello", max_tokens=32, strategy="speculative", speculation=Speculation(num_speculations=4)
        )


def measure(artifacts: Sequence[Path]) -> Evaluation:
    found = edgeskip.evaluate(artifacts, tasks=["perplexity", "trec"], data="data", limit=20, progress=show)
    for summary in found.summaries:
        assert_type(summary.value, float)
        assert_type(summary.interval, tuple[float, float] | None)
    assert_type(found.to_json(), dict[str, object])
    assert_type(found.rows(), list[dict[str, str | float | int | None]])
    result = edgeskip.bench({"dense": artifacts[0]}, new_tokens=[16, 64], rounds=2, quality=False, progress=show)
    assert_type(result, BenchResult)
    assert_type([row.mean for row in result.rows], list[float])
    assert_type(result.log, Path | None)
    return found


def with_bar(profile: Profile) -> Artifact:
    with edgeskip.progress_bar(transient=False) as bar:
        bar.note("exporting")
        return edgeskip.export(profile, "out", progress=bar)


def heal(profile: Profile) -> Profile | None:
    trained = edgeskip.train(profile, method="heal", data="text.txt", output="healed", lora=8, steps=100)
    assert_type(trained, TrainingResult)
    print(trained.path, trained.summary, trained.record["steps"])
    return trained.profile


def policies() -> None:
    assert_type(Sampling().greedy, bool)
    assert_type(Speculation(drafter="ngram").auto, bool)
    assert_type(Speculation(num_speculations=2).limit, int)
    session = Session("artifact", provider="cpu")
    session.close()


def report(generation: Generation) -> Sequence[str]:
    assert_type(generation.tokens, tuple[int, ...])
    assert_type(generation.stats.ttft_s, float)
    speculation = generation.stats.speculation
    accepted = 0 if speculation is None else speculation.accepted
    assert_type(accepted, int)
    for value in generation.as_dict().values():
        print(value)
    return [generation.text, generation.finish_reason, generation.strategy, edgeskip.__version__]
