"""Timing sublayers. Oracle: a clock whose parts and overhead are known, the graph's own node names, and sums."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from drafting_artifacts import EXIT_LAYER, early_exit_artifact, whole_artifact
from exports import export_gguf
from random_profiles import random_profile

from edgeskip.artifacts.manifest import read_manifest
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.plan import Plan
from edgeskip.core.sublayers import parse_sublayer, sublayers_of
from edgeskip.exporters.gguf.formats import gguf_format
from edgeskip.exporters.options import ExportPolicy
from edgeskip.models.source import ModelSource, open_model
from edgeskip.profiles.device_profile import read_device_profile
from edgeskip.profiling.measure import ProfilingRequest, measure_device, open_dense, settle
from edgeskip.runtime.engines.onnxruntime.profiler import OnnxRuntimeProfiler
from edgeskip.runtime.sublayer_times import ProfiledStep, StepTimes, measure_steps, step_breakdown

DECODE = ProfiledStep(8, 1)


@pytest.fixture(scope="module")
def source(tiny_llama: Path) -> ModelSource:
    return open_model(str(tiny_llama))


@pytest.fixture(scope="module")
def folder(source: ModelSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clock")
    (folder / "edgeskip.json").write_text(whole_artifact(source, folder, Plan(4)).model_dump_json())
    return folder


@pytest.fixture(scope="module")
def file(source: ModelSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("llama_cpp")
    path = tmp_path_factory.mktemp("clock") / "dense.gguf"
    profile, vectors = random_profile(source, path.with_suffix(".json"))
    export_gguf(source, profile, vectors, gguf_format("f32", None), path, policy=ExportPolicy(check=False))
    return path


class FakeClock:
    """Parts of 1, 2, 4 ms and a rest of 3 ms, whose 2, 1, 1 and 1 marks cost 0.1 ms each; every third run is slow."""

    parts_s = np.array([1.0, 2.0, 4.0, 3.0]) * 1e-3
    marks = np.array([2, 1, 1, 1])

    def sample(self, steps: Sequence[tuple[ProfiledStep, int]], advance: Callable[[], None]) -> list[StepTimes]:
        samples = []
        for _, repeats in steps:
            slow = [1 + 9 * (number % 3 == 2) for number in range(repeats)]
            marked = [factor * (self.parts_s + 1e-4 * self.marks) for factor in slow]
            samples.append(StepTimes(self.marks, [factor * float(self.parts_s.sum()) for factor in slow], marked))
            advance()
        return samples

    def close(self) -> None: ...


def test_marks_are_taken_off_and_slow_runs_do_not_count() -> None:
    calls: list[int] = []
    (cost,) = measure_steps(FakeClock(), [(DECODE, 5)], 3, lambda: calls.append(1))
    assert cost.sublayer_s == pytest.approx((1e-3, 2e-3, 4e-3))
    assert cost.base_s == pytest.approx(3e-3)
    assert len(calls) == 3


def test_no_part_is_negative_and_the_sum_stays() -> None:
    cost = step_breakdown(StepTimes(np.array([3, 1, 1]), [4.0], [np.array([0.5, 3.0, 3.0])]))
    assert cost.sublayer_s == pytest.approx((0.0, 2.5))
    assert cost.base_s + sum(cost.sublayer_s) == pytest.approx(4.0)


def test_every_node_of_the_graph_counts_for_its_sublayer(folder: Path) -> None:
    """Oracle: the names in the exported graph, less what ONNX Runtime folds, which no sublayer of ours has."""
    opened = open_dense(folder, threads=1)
    (sample,) = opened.clock.sample([(DECODE, 2)], lambda: None)
    nodes = [node.name for node in onnx.load(folder / "model.onnx", load_external_data=False).graph.node]
    counted = Counter(".".join(name.split("/")[0].split(".")[:2]) for name in nodes)
    wanted = [counted[str(sublayer)] for sublayer in sublayers_of(4)]
    assert list(sample.marks[:-1]) == wanted
    assert len(sample.plain_s) == len(sample.parts_s) == 2
    assert all(part.shape == (9,) and (part[:-1] > 0).all() for part in sample.parts_s)


def test_llamacpp_is_marked_at_every_sublayer(file: Path) -> None:
    opened = open_dense(file, threads=1)
    try:
        prefill, decode = opened.clock.sample([(ProfiledStep(0, 32), 2), (DECODE, 3)], lambda: None)
    finally:
        opened.clock.close()
    for sample, repeats in ((prefill, 2), (decode, 3)):
        assert list(sample.marks) == [1] * 9
        assert len(sample.plain_s) == len(sample.parts_s) == repeats
        assert all(part.shape == (9,) and (part > 0).all() for part in sample.parts_s)


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_device_profile_adds_up(kind: str, request: pytest.FixtureRequest) -> None:
    opened = open_dense(request.getfixturevalue(kind), threads=1)
    calls: list[int] = []
    wanted = settle(opened, 32, [0, 16, 4096], 2)
    profile = measure_device(opened, wanted, lambda: calls.append(1))
    assert wanted == ProfilingRequest(32, (0, 16), 2)
    assert len(calls) == wanted.runs
    assert [cost.context for cost in profile.decode] == [0, 16]
    assert profile.prefill_s(()) == pytest.approx(profile.prefill.total_s)
    assert profile.decode_s((), 16) == pytest.approx(profile.decode[1].total_s)
    assert profile.engine == ("onnxruntime" if kind == "folder" else "llama.cpp")
    assert 1 <= profile.speedups([parse_sublayer("ffn.1", 4)], 16)[1] < 8


def test_the_verb(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from edgeskip.cli.commands.profile_device import profile_device

    output = tmp_path / "phone.json"
    profile_device(folder, output, contexts="0,16", prompt=16, rounds=1, threads=1)
    assert read_device_profile(output).threads == 1
    assert "decode at 16" in capsys.readouterr().out
    with pytest.raises(EdgeSkipError, match="add --overwrite"):
        profile_device(folder, output, rounds=1)
    for contexts in ("x", "-1", ""):
        with pytest.raises(EdgeSkipError, match="is not a list of whole numbers"):
            profile_device(folder, output, contexts=contexts, overwrite=True)
    with pytest.raises(EdgeSkipError, match=r"does not end in \.json"):
        profile_device(folder, tmp_path / "phone")


def test_what_cannot_be_timed_is_told(source: ModelSource, folder: Path, file: Path, tmp_path: Path) -> None:
    dense = read_manifest(folder)
    skipping = dense.model_copy(update={"plan": dense.plan.model_copy(update={"skip": ["ffn.1"]})})
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "edgeskip.json").write_text(skipping.model_dump_json())
    with pytest.raises(EdgeSkipError, match=r"skips 1 sublayers.*export the dense model"):
        open_dense(tmp_path)
    drafting = tmp_path / "draft"
    manifest = early_exit_artifact(source, drafting, [EXIT_LAYER])
    (drafting / "edgeskip.json").write_text(manifest.model_dump_json())
    with pytest.raises(EdgeSkipError, match="without --draft"):
        open_dense(drafting)
    with pytest.raises(EdgeSkipError, match="no single sublayer on 'cuda'"):
        open_dense(folder, provider="cuda")
    with pytest.raises(EdgeSkipError, match="--prompt 513 must be 2 to 512"):
        settle(open_dense(folder), 513, [0], 1)
    with pytest.raises(EdgeSkipError, match="--contexts: the model holds 512 tokens"):
        settle(open_dense(folder), 512, [512], 1)
    with pytest.raises(EdgeSkipError, match="--rounds"):
        settle(open_dense(folder), 512, [0], 0)


def test_a_gguf_of_others(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    from talking_gguf import talking_gguf

    path, _ = talking_gguf(tmp_path / "other.gguf")
    with pytest.raises(EdgeSkipError, match="was not written by EdgeSkip"):
        open_dense(path)


def test_a_graph_of_other_names(folder: Path) -> None:
    manifest = read_manifest(folder)
    deeper = manifest.model_copy(update={"plan": manifest.plan.model_copy(update={"num_blocks": 5})})
    clock = OnnxRuntimeProfiler(folder, deeper, threads=1)
    with pytest.raises(EdgeSkipError, match=r"no node called attn\.4"):
        clock.sample([(DECODE, 1)], lambda: None)
