"""Which cells a run has, in which order they run, and what a target is. Oracle: by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from talking_gguf import talking_gguf
from tiny_graph import build_tiny_artifact

from edgeskip.bench.grid import (
    Grid,
    cells_of,
    check_baselines,
    check_distinct_names,
    parse_grid,
    parse_lengths,
    reference_of,
)
from edgeskip.bench.runner.request import RoundRequest, SyntheticTest
from edgeskip.bench.runner.schedule import Job, RoundSpec, alternating_order, run_rounds
from edgeskip.bench.runner.schedule import synthetic_tests as named_tests
from edgeskip.bench.schema import (
    BenchCell,
    Device,
    ExecutionInfo,
    Roofline,
    RoundFailure,
    RoundResult,
    Strategy,
    Target,
)
from edgeskip.bench.targets import files_of, load_target
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.plan import Label


def target(name: str, engine: str = "onnxruntime", *more: Strategy, label: Label = "dense") -> Target:
    return Target(
        name=name, path=f"/{name}", engine=engine, size_bytes=1, sha256=name, label=label, model="m",  # type: ignore[arg-type]
        precision="fp32", plan=None, strategies=["plain", "speculative", *more],
    )  # fmt: skip


DENSE, DRAFTS, GGUF = target("dense"), target("drafts", "onnxruntime", "self-speculative"), target("g", "llama.cpp")


def short(cells: list[BenchCell]) -> list[str]:
    return [f"{c.target} {c.provider} {c.threads} {c.strategy}" for c in cells]


def test_what_a_target_cannot_is_left_out_and_said() -> None:
    grid = parse_grid("cpu,openvino", [1], "plain,self-speculative")
    cells, said = cells_of([DENSE, DRAFTS, GGUF], grid, "local")
    assert short(cells) == [
        "dense cpu 1 plain",
        "dense openvino 1 plain",
        "drafts cpu 1 plain",
        "drafts cpu 1 self-speculative",
        "drafts openvino 1 plain",
        "drafts openvino 1 self-speculative",
        "g cpu 1 plain",
    ]
    assert said == [
        "dense is left out for self-speculative: it has nothing to draft or gate with",
        "g is left out on openvino: llama.cpp has no such provider",
        "g is left out for self-speculative: it has nothing to draft or gate with",
    ]


def test_threads_are_crossed() -> None:
    cells, _ = cells_of([DENSE], Grid(("cpu",), (1, 2), ("plain", "speculative")), "d")
    assert short(cells) == [
        "dense cpu 1 plain", "dense cpu 1 speculative", "dense cpu 2 plain", "dense cpu 2 speculative",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("targets", "grid", "words"),
    [
        ([GGUF], Grid(("openvino",), (1,), ("plain",)), "no target can run on the provider 'openvino'"),
        ([DENSE], Grid(("metal",), (1,), ("plain",)), "no target can run on the provider 'metal'"),
        ([DENSE], Grid(("cpu",), (1,), ("plain", "online")), "decoded by online.*edgeskip export --online"),
        (
            [DENSE],
            Grid(("cpu",), (1,), ("self-speculative",)),
            "decoded by self-speculative.*--draft early-exit",
        ),
    ],
)
def test_what_fits_no_target_is_an_error(targets: list[Target], grid: Grid, words: str) -> None:
    with pytest.raises(EdgeSkipError, match=words):
        cells_of(targets, grid, "local")


@pytest.mark.parametrize(
    ("providers", "strategies", "words"),
    [
        ("cpu,tpu", "plain", "--provider tpu is unknown"),
        ("cpu", "plain,fast", "--strategy fast is unknown; choose from plain, self-speculative, speculative, online"),
        (",", "plain", r"--provider .* names nothing"),
    ],
)
def test_unknown_names(providers: str, strategies: str, words: str) -> None:
    with pytest.raises(EdgeSkipError, match=words):
        parse_grid(providers, [1], strategies)


def test_lengths() -> None:
    assert parse_lengths("512, 0,512", "-p", least=0) == [512, 0]
    for text in ("", "a", "-1", "1.5", "1,,2", "9999999999", "٣"):
        with pytest.raises(EdgeSkipError, match=r"-p .*is not a list of whole numbers"):
            parse_lengths(text, "-p", least=0)
    with pytest.raises(EdgeSkipError, match="of at least 1"):
        parse_lengths("0", "-t", least=1)


def test_tests_are_llama_benchs() -> None:
    """Its names: pp512, tg128 @ d2048; none of a kind where 0 is asked for."""
    assert [t.name for t in named_tests([512], [128, 0], [0, 2048])] == [
        "pp512", "tg128", "pp512 @ d2048", "tg128 @ d2048",
    ]  # fmt: skip
    assert named_tests([0], [0], [0]) == ()


def test_baselines_and_references() -> None:
    skip, lossy = target("skip", label="lossy-skip"), target("lossy", "llama.cpp", label="lossy-skip")
    check_baselines([DENSE], ["dense"])
    with pytest.raises(EdgeSkipError, match=r"--baseline x .*choose from dense"):
        check_baselines([DENSE], ["x"])
    check_distinct_names(["a", "b"])
    with pytest.raises(EdgeSkipError, match="called a;"):
        check_distinct_names(["a", "b", "a"])
    assert reference_of(skip, [DENSE, skip], []) == DENSE
    assert reference_of(DENSE, [DENSE, skip], []) is None  # itself
    assert reference_of(skip, [skip, DENSE], []) is None  # the first is lossy: nothing to compare with
    assert reference_of(skip, [skip, DENSE], ["dense"]) == DENSE
    assert reference_of(lossy, [DENSE, GGUF, lossy], []) == GGUF  # of its own engine
    assert reference_of(lossy, [DENSE, GGUF, lossy], ["dense"]) == DENSE


class FakeLauncher:
    """Answers every request at once; `fails` names targets it cannot run."""

    def __init__(self, fails: str = "") -> None:
        self.fails, self.asked = fails, list[RoundRequest]()
        self.device = Device(id="d", type="local", name="d")

    def prepare(self, path: Path, progress: object) -> str:
        return str(path)

    def run(self, request: RoundRequest, progress: object) -> RoundResult:
        self.asked.append(request)
        if request.cell.target == self.fails:
            raise EdgeSkipError("it cannot")
        ran = ExecutionInfo(engine="onnxruntime", version="1", provider="cpu", threads=1)
        return RoundResult(cell=request.cell, round=request.round, created="now", ran=ran, load_s=1)

    def rooflines_again(self, progress: object) -> list[Roofline]:
        return []

    def close(self) -> None: ...


def test_rounds_run_forwards_and_backwards_and_a_failure_is_not_repeated() -> None:
    launcher = FakeLauncher("b")
    cells = [BenchCell(target=n, device="d", provider="cpu", threads=1, strategy="plain") for n in "abc"]
    jobs = [Job(cell, launcher, f"/{cell.target}") for cell in cells]
    recorded: list[RoundResult | RoundFailure] = []
    seen: list[tuple[int, int]] = []
    work = RoundSpec((SyntheticTest(test="tg", tokens=1, depth=0),), (), 8, 3)
    run_rounds(jobs, work, 3, recorded.append, lambda done, total, cell, message: seen.append((done, total)))
    assert [(r.cell.target, r.round) for r in launcher.asked] == [
        ("a", 0), ("b", 0), ("c", 0), ("c", 1), ("a", 1), ("a", 2), ("c", 2),
    ]  # fmt: skip
    assert [line.kind for line in recorded] == ["sample", "failure", *["sample"] * 5]
    assert (seen[0], seen[-1]) == ((0, 9), (8, 9))
    assert [job.cell.target for job in alternating_order(jobs, 1)] == ["c", "b", "a"]
    assert launcher.asked[0].seed == 3


def test_only_plain_cells_run_random_tokens() -> None:
    """Speculation says nothing on random tokens."""
    test = SyntheticTest(test="pp", tokens=1, depth=0)
    work = RoundSpec((test,), (), 8, 0)
    cell = BenchCell(target="a", device="d", provider="cpu", threads=1, strategy="self-speculative")
    assert work.request(cell, "/a", 0).tests == []
    assert not work.measures(cell)
    assert work.measures(cell.model_copy(update={"strategy": "plain"}))


def test_a_folder_is_surveyed(tmp_path: Path) -> None:
    folder = build_tiny_artifact(tmp_path / "artifact").folder
    found = load_target(folder, "mine")
    assert (found.name, found.engine, found.label) == ("mine", "onnxruntime", "lossy-skip")
    assert found.strategies == ["plain", "speculative"]
    assert found.size_bytes == sum(file.stat().st_size for file in files_of(folder))
    assert {file.name for file in files_of(folder)} == {"edgeskip.json", "model.onnx"}  # as the manifest lists them
    assert found.work is not None
    # Hand: q, k, v, o and the head of tests/tiny_graph.py, 2 operations a weight; float32.
    matrices = 32 * 32 + 2 * 32 * 16 + 32 * 32
    assert (found.work.matmul_flops, found.work.head_flops) == (2 * matrices, 2 * 32 * 260)
    assert found.work.weight_bytes == 4 * (matrices + 32 * 260)
    assert found.work.kv_bytes_per_token == 2 * 16 * 4
    assert found.work.attention_flops == 4 * 4 * 8


def test_a_gguf_of_others_is_surveyed(tmp_path: Path) -> None:
    file, _ = talking_gguf(tmp_path / "other.gguf")
    found = load_target(file)
    assert (found.name, found.engine, found.label, found.plan) == ("other", "llama.cpp", "dense", None)
    assert found.size_bytes == file.stat().st_size
    link = tmp_path / "linked.gguf"
    link.symlink_to(file)  # what belongs to it lies beside the link, in the Hugging Face cache
    assert (load_target(link).name, load_target(link).path) == ("linked", str(link))


def test_what_is_no_target(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.gguf").write_text("GGUFnonsense")
    (tmp_path / "empty").mkdir()
    for path, words in (
        (tmp_path / "gone", "does not exist"),
        (tmp_path / "a.txt", "neither an artifact folder nor a .gguf"),
        (tmp_path / "b.gguf", "b.gguf"),
        (tmp_path / "empty", "it is not an EdgeSkip artifact"),
    ):
        with pytest.raises(EdgeSkipError, match=words):
            load_target(path)


def test_a_log_of_cells_is_json(tmp_path: Path) -> None:
    cell = BenchCell(target="a|b", device="d", provider="cpu", threads=1, strategy="plain")
    assert json.loads(cell.model_dump_json())["target"] == "a|b"
    assert cell.title == "a|b cpu plain t1 on d"


def test_a_phone_runs_llama_cpp_only() -> None:
    cells, said = cells_of([DENSE, GGUF], Grid(("cpu",), (4,), ("plain",), engine="llama.cpp"), "phone")
    assert short(cells) == ["g cpu 4 plain"]
    assert said == ["dense is left out: the device runs llama.cpp only"]
