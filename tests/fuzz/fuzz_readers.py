"""Every entrance of EdgeSkip that takes a file, GGUF files apart, as `fuzz_harness.Reader`s."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import partial
from pathlib import Path

import fuzz_seeds
import learning_readers
from fuzz_harness import Reader
from fuzz_seeds import TEXT, cli
from learning_readers import MATPLOTLIB, TORCH

BENCH = (
    "edgeskip.cli.main",
    "edgeskip.bench.analysis.compare",
    "edgeskip.bench.analysis.table",
    "rich.table",
    "rich.console",
)
RUNTIME = (
    "edgeskip.cli.main", "edgeskip.runtime.loader", "edgeskip.runtime.session", "onnxruntime", "tokenizers",
    "edgeskip.runtime.engines.onnxruntime.split", "edgeskip.runtime.engines.onnxruntime.gated",
    "edgeskip.runtime.engines.onnxruntime.online", "edgeskip.cli.views.generation", "rich.table",
)  # fmt: skip
ARTIFACT = ("edgeskip.json", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")


# Benchmark logs


def _bench_logs(folder: Path) -> None:
    from made_runs import like_a_real_one, write_run

    write_run(like_a_real_one(0), folder / "a.jsonl")
    write_run(like_a_real_one(1), folder / "b.jsonl")
    _thin(folder / "a.jsonl")
    _thin(folder / "b.jsonl")


def _thin(path: Path) -> None:
    """Keeps the header, targets and devices, few samples and few gaps: damage then meets what counts more often."""
    kept, samples = [], []
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        for answer in record.get("answers", ()):
            del answer["gaps_s"][6:], answer["tokens"][7:]
        (samples if record["kind"] == "sample" else kept).append(json.dumps(record))
    path.write_text("\n".join([*kept, *samples[::9]]) + "\n", encoding="utf-8")


def _compare(folder: Path) -> None:
    from edgeskip.bench.analysis.rows import rows_of
    from edgeskip.bench.analysis.table import as_csv, as_markdown, warnings_of
    from edgeskip.bench.runner.run_file import as_json, read_run

    with suppress(SystemExit):  # something got slower
        cli("compare", "a.jsonl", "b.jsonl", "--other-device")
    run = read_run(Path("a.jsonl"))
    rows = rows_of(run)
    as_markdown(run, rows)
    as_csv(run, rows)
    warnings_of(run)
    json.dumps(as_json(run), allow_nan=False)


def _report(folder: Path, png: bool) -> None:
    cli("report", "a.jsonl", "b.jsonl", "-o", "out.html", *(("--png", "png") if png else ()))


# Artifact folders


def _survey(folder: Path) -> None:
    from edgeskip.bench.devices.web.artifact import WebArtifact
    from edgeskip.bench.schema import Target
    from edgeskip.bench.targets import load_target

    target = load_target(folder)
    Target.model_validate_json(target.model_dump_json())
    web = WebArtifact(folder)
    json.dumps(web.description)
    assert web.files


def _run(folder: Path, *options: str) -> None:
    cli("run", ".", "-p", "The fox", "--max-tokens", "4", "--threads", "1", *options)


def _generate(folder: Path, *strategies: str) -> None:
    """As `run` does, by every strategy that the artifact has."""
    import edgeskip

    with edgeskip.load(folder, threads=1) as session:
        for strategy in strategies:
            session.generate("The fox", max_tokens=4, strategy=strategy)  # type: ignore[arg-type]
    _run(folder)


def _inspect(folder: Path) -> None:
    cli("inspect", ".")
    cli("inspect", ".", "--json")


# Profiles


def _inspect_profile(folder: Path) -> None:
    cli("inspect", "tiny.json")
    cli("inspect", "tiny.json", "--json")
    cli("inspect", "tiny.json", "--plot", "plot.svg")


def _plan(folder: Path) -> None:
    cli("plan", "tiny.json", "--skip", fuzz_seeds.SKIP)
    cli("plan", "tiny.json", "--skip-sublayers", "2", "--compensation", "scale", "-o", "other.json")


def _budget_folder(folder: Path) -> None:
    from edgeskip.profiles.device_profile import (
        DecodeCost,
        DeviceProfile,
        DeviceRecord,
        PrefillCost,
        write_device_profile,
    )
    from edgeskip.profiles.schema import read_profile

    path = fuzz_seeds.profile(folder)
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    cli(
        "plan", path, "--method", "budget", "--skip-sublayers", "2", "--corpus", folder / "text.txt", "--tokens", "128",
        "--window-tokens", "32", "--max-skips", "2", "--search-kl", "100", "--model", folder / "hf",
    )  # fmt: skip
    device = DeviceRecord(
        system="Linux", processor="P", logical_cores=2, usable_cores=2, simd=[], memory_bytes=None, gpus=[]
    )
    costs = [DecodeCost(context=n, base_s=1e-3, sublayer_s=[1e-3] * 8) for n in (0, 100, 512)]
    found = DeviceProfile(
        name="P", model=read_profile(path).model, device=device, engine="onnxruntime", provider="cpu", threads=2,
        precision="int4", prefill=PrefillCost(tokens=512, base_s=4e-3, sublayer_s=[1e-3] * 8), decode=costs,
        one_row="last", rounds=1, created="2026-01-01T00:00:00+00:00", versions={},
    )  # fmt: skip
    write_device_profile(found, folder / "phone.json")


def _plan_budget(folder: Path) -> None:
    """Reads the front, and what sublayers cost; nothing is searched or fitted."""
    from edgeskip.cli.views.pareto import front_line, front_table
    from edgeskip.core.sublayers import parse_sublayer
    from edgeskip.planning.search.pareto import Budget, pick_point
    from edgeskip.profiles.device_profile import read_device_profile
    from edgeskip.profiles.schema import read_profile

    profile = read_profile(folder / "tiny.json")
    device = read_device_profile(folder / "phone.json")
    device.check_model(profile)
    skips = {parse_sublayer(name, profile.model.num_blocks) for name in fuzz_seeds.SKIP.split(",")}
    device.speedups(skips, 256)
    if profile.front is not None:
        front_line(profile.front)
        front_table(profile.front, 0)
        pick_point(profile.front, Budget(max_kl=1e9))
    cli("inspect", "tiny.json")


def _search_log(folder: Path) -> None:
    from edgeskip.planning.search.plan_evaluator import QualityLog
    from edgeskip.planning.search.quality import PlanQuality

    log = QualityLog(folder / "tiny", {"model": "x"})
    for number in range(6):
        log.add(frozenset(range(number)), PlanQuality(kl=0.1 * number, loss=2.0 + number / 9, top1=0.9))
    log.report(frozenset({1}), {"kl": 0.1, "perplexity": 9.0})
    (path,) = folder.glob("tiny.search-*.jsonl")
    path.rename(folder / "log.jsonl")
    (folder / "name.txt").write_text(path.name, encoding="utf-8")


def _read_search_log(folder: Path) -> None:
    from edgeskip.planning.search.plan_evaluator import QualityLog

    (folder / "log.jsonl").rename(folder / (folder / "name.txt").read_text(encoding="utf-8"))
    log = QualityLog(folder / "tiny", {"model": "x"})
    known = [(found.kl, found.perplexity, sorted(skips)) for skips, found in log.known.items()]
    assert all(number >= 0 for *_, skips in known for number in skips)
    sorted(known)
    json.dumps([[list(skips), found] for skips, found in log.reported.items()], allow_nan=False)


# Logs of evaluations and sweeps


def _eval_logs(folder: Path) -> None:
    from edgeskip.evaluation.log import RecordLog
    from edgeskip.evaluation.task import EvalRecord

    for name in ("a", "b"):
        log = RecordLog(folder / f"{name}.jsonl", {"task": "x", "limit": 3})
        for number in range(4):
            scores = {"nats": 2.0 + number, "accuracy": number % 2}
            log.add(EvalRecord(str(number), "dense", scores, 12, "text", "eos", 20, None, 0.1, 0.5, 11, 3))


def _read_eval_logs(folder: Path) -> None:
    from rich.console import Console

    from edgeskip.evaluation.log import RecordLog
    from edgeskip.evaluation.report import as_json, table
    from edgeskip.evaluation.summary import TaskResult, summarize
    from edgeskip.evaluation.task import EvalSettings
    from edgeskip.evaluation.tasks import TASKS

    results = []
    for name in ("a", "b"):
        log = RecordLog(folder / f"{name}.jsonl", {"task": "x", "limit": 3}, metrics=("nats", "accuracy"))
        results += [TaskResult(TASKS[task], name, tuple(log.records.values())) for task in ("perplexity", "trec")]
    summaries = summarize(results)
    Console().print(table(summaries))
    json.dumps(as_json(summaries, EvalSettings()), allow_nan=False)


def _eval_data(folder: Path) -> None:
    from eval_material import data_folder

    data_folder(folder)


def _read_eval_data(folder: Path) -> None:
    from edgeskip.core.errors import EdgeSkipError
    from edgeskip.evaluation.runner import prepare
    from edgeskip.evaluation.task import EvalSettings
    from edgeskip.evaluation.tasks import TASKS

    refused = None
    for name in TASKS:
        if name == "divergence":
            continue
        try:
            prepare([name], folder, EvalSettings())
        except EdgeSkipError as error:
            refused = error
    if refused is not None:
        raise refused


def _sweep_log(folder: Path) -> None:
    from edgeskip.sweep.run import SweepLog, SweepPoint

    log = SweepLog(folder / "sweep.json", {"model": "x", "num_speculations": (1, 2)}, overwrite=False)
    log.add([SweepPoint(4, None, gamma, 3, 40, 90.0 + gamma, 80.0, 30, 20, 3) for gamma in (1, 2)])
    log.add([SweepPoint(8, 64, gamma, 3, 40, 70.0 + gamma, 80.0, 30, 20, 3) for gamma in (1, 2)])


def _read_sweep(folder: Path) -> None:
    from rich.console import Console

    from edgeskip.cli.views.sweep import points_table, write_csv, write_heat_map
    from edgeskip.sweep.run import SweepGrid, SweepLog, best_of

    grid = SweepGrid((4, 8), (None, 64), (1, 2))
    log = SweepLog(folder / "sweep.json", {"model": "x", "num_speculations": (1, 2)}, overwrite=False)
    cells = [cell for cell in log.cells if (cell.exit_layer, cell.draft_vocab) in grid.artifacts]
    list(log.missing(grid))
    if not cells:
        return
    write_csv(cells, folder / "sweep.csv")
    write_heat_map(cells, folder / "sweep.png", "x")
    Console().print(points_table(cells))
    assert best_of(cells).acceptance >= 0


def _head(folder: Path) -> None:
    import numpy as np
    from safetensors.numpy import save

    arrays = {"head": np.ones((6, 32), np.float16), "tokens": np.arange(6, dtype=np.int32) * 3}
    (folder / "m-head.safetensors").write_bytes(save(arrays, metadata={"eps": "1e-5"}))


def _read_head(folder: Path) -> None:
    import numpy as np

    from edgeskip.core.files import sha256_of
    from edgeskip.runtime.engines.llamacpp.trimmed_head import read_trimmed_head

    path = folder / "m-head.safetensors"
    head = read_trimmed_head(path, sha256_of(path))
    head.check(32, 320)
    assert head.logits(np.ones(32, np.float32)).shape[0] == 1
    head.close()


REPORT = (*BENCH, "matplotlib.figure", "matplotlib.backends.backend_agg", "edgeskip.bench.report.page", "jinja2")
TARGETS = (
    *RUNTIME,
    "onnx",
    "edgeskip.bench.devices.web.artifact",
    "edgeskip.bench.targets",
    "edgeskip.bench.model_cost",
)
EVALUATION = tuple(f"edgeskip.evaluation.{name}" for name in ("summary", "report", "tasks", "runner"))

READERS = [
    *learning_readers.READERS,
    Reader("bench-compare", _bench_logs, ("a.jsonl",), _compare, BENCH),
    Reader("bench-report", _bench_logs, ("a.jsonl",), partial(_report, png=False), REPORT),
    Reader("bench-png", _bench_logs, ("a.jsonl",), partial(_report, png=True), REPORT, cpu_s=40),
    Reader(
        "bench-targets",
        partial(fuzz_seeds.artifact, precision="int4"),
        ("model.onnx", *ARTIFACT),
        _survey,
        TARGETS,
        after=fuzz_seeds.sign,
    ),
    Reader(
        "bench-drafts",
        partial(fuzz_seeds.artifact, kind="exits"),
        ("*.onnx", "edgeskip.json", "*.npy"),
        _survey,
        TARGETS,
        after=fuzz_seeds.sign,
    ),
    Reader(
        "run",
        partial(fuzz_seeds.artifact, precision="int4"),
        ("model.onnx", "model.onnx.data", *ARTIFACT),
        partial(_generate),
        (*RUNTIME, "onnx"),
        after=fuzz_seeds.sign,
    ),
    Reader(
        "run-exits",
        partial(fuzz_seeds.artifact, kind="exits"),
        ("*.onnx", "edgeskip.json", "*.npy", "*.npy"),
        lambda folder: _generate(folder, "speculative"),
        (*RUNTIME, "onnx"),
        after=fuzz_seeds.sign,
    ),
    Reader(
        "run-skip-plan",
        partial(fuzz_seeds.artifact, kind="skip-plan"),
        ("model.onnx", "edgeskip.json"),
        lambda folder: _generate(folder, "speculative"),
        (*RUNTIME, "onnx"),
        after=fuzz_seeds.sign,
    ),
    Reader("inspect", fuzz_seeds.artifact, ("edgeskip.json",), _inspect, (*RUNTIME, "edgeskip.cli.views.inspection")),
    Reader(
        "inspect-profile",
        partial(fuzz_seeds.profile, exits=True, lora=True, skip=("attn.1", "ffn.2")),
        ("tiny.json", "tiny.safetensors", "tiny.adapter.safetensors"),
        _inspect_profile,
        (
            *BENCH,
            *MATPLOTLIB,
            "edgeskip.cli.views.inspection",
            "edgeskip.cli.views.similarity_plot",
            "edgeskip.profiles.vectors",
        ),
        after=fuzz_seeds.sign_profile,
    ),
    Reader(
        "plan",
        partial(fuzz_seeds.profile, exits=True, skip=("attn.1", "ffn.2")),
        ("tiny.json", "tiny.safetensors"),
        _plan,
        (*BENCH, "edgeskip.planning.planner", "edgeskip.profiles.vectors", "edgeskip.planning.budget"),
        after=fuzz_seeds.sign_profile,
    ),
    Reader(
        "plan-budget",
        _budget_folder,
        ("tiny.json", "phone.json"),
        _plan_budget,
        (
            *BENCH,
            "edgeskip.planning.planner",
            "edgeskip.cli.views.pareto",
            "edgeskip.planning.search.pareto",
            "edgeskip.profiles.device_profile",
        ),
    ),
    Reader(
        "search-log", _search_log, ("log.jsonl",), _read_search_log, ("edgeskip.planning.search.plan_evaluator", *TORCH)
    ),
    Reader("eval-log", _eval_logs, ("a.jsonl",), _read_eval_logs, (*EVALUATION, "rich.console")),
    Reader("eval-data", _eval_data, ("*.txt", "*.tsv", "*.jsonl", "*.label"), _read_eval_data, EVALUATION),
    Reader(
        "sweep",
        _sweep_log,
        ("sweep.json",),
        _read_sweep,
        (*MATPLOTLIB, "edgeskip.sweep.run", "edgeskip.cli.views.sweep"),
    ),
    Reader("trimmed-head", _head, ("*.safetensors",), _read_head, ("edgeskip.runtime.engines.llamacpp.trimmed_head",)),
]
