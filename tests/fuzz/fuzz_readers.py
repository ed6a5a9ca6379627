"""Every entrance of EdgeSkip that takes a file, GGUF files apart, as `harness.Reader`s."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import fuzz_seeds
from fuzz_seeds import TEXT, cli
from harness import Reader

BENCH = ("edgeskip.cli", "edgeskip.bench.compare", "edgeskip.bench.table", "rich.table", "rich.console")
RUNTIME = (
    "edgeskip.cli", "edgeskip.runtime.opening", "edgeskip.runtime.session", "onnxruntime", "tokenizers",
    "edgeskip.runtime.engines.onnxruntime_split", "edgeskip.runtime.engines.onnxruntime_gated",
    "edgeskip.runtime.engines.onnxruntime_online", "edgeskip.generation_report", "rich.table",
)  # fmt: skip
EXPORTERS = ("edgeskip.exporters.families.source", "edgeskip.exporters.families.safetensors_folder", "tokenizers")
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
    from edgeskip.bench.rows import rows_of
    from edgeskip.bench.run_file import as_json, read_run
    from edgeskip.bench.table import as_csv, as_markdown, warnings_of

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
    from edgeskip.bench.record import Target
    from edgeskip.bench.survey import survey
    from edgeskip.bench.web.artifact import WebArtifact

    target = survey(folder)
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
    from edgeskip.device_profile import DecodeCost, DeviceProfile, DeviceRecord, PrefillCost, write_device_profile
    from edgeskip.profile import read_profile

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
    from edgeskip.device_profile import read_device_profile
    from edgeskip.front_report import front_line, front_table
    from edgeskip.profile import read_profile
    from edgeskip.search.front import Budget, pick
    from edgeskip.sublayers import parse_sublayer

    profile = read_profile(folder / "tiny.json")
    device = read_device_profile(folder / "phone.json")
    device.check_model(profile)
    skips = {parse_sublayer(name, profile.model.num_blocks) for name in fuzz_seeds.SKIP.split(",")}
    device.speedups(skips, 256)
    if profile.front is not None:
        front_line(profile.front)
        front_table(profile.front, 0)
        pick(profile.front, Budget(max_kl=1e9))
    cli("inspect", "tiny.json")


def _search_log(folder: Path) -> None:
    from edgeskip.search.losses import QualityLog
    from edgeskip.search.quality import Quality

    log = QualityLog(folder / "tiny", {"model": "x"})
    for number in range(6):
        log.add(frozenset(range(number)), Quality(kl=0.1 * number, loss=2.0 + number / 9, top1=0.9))
    log.report(frozenset({1}), {"kl": 0.1, "perplexity": 9.0})
    (path,) = folder.glob("tiny.search-*.jsonl")
    path.rename(folder / "log.jsonl")
    (folder / "name.txt").write_text(path.name, encoding="utf-8")


def _read_search_log(folder: Path) -> None:
    from edgeskip.search.losses import QualityLog

    (folder / "log.jsonl").rename(folder / (folder / "name.txt").read_text(encoding="utf-8"))
    log = QualityLog(folder / "tiny", {"model": "x"})
    known = [(found.kl, found.perplexity, sorted(skips)) for skips, found in log.known.items()]
    assert all(number >= 0 for *_, skips in known for number in skips)
    sorted(known)
    json.dumps([[list(skips), found] for skips, found in log.reported.items()], allow_nan=False)


# Logs of evaluations, sweeps and training


def _eval_logs(folder: Path) -> None:
    from edgeskip.evaluation.log import RecordLog
    from edgeskip.evaluation.task import Record

    for name in ("a", "b"):
        log = RecordLog(folder / f"{name}.jsonl", {"task": "x", "limit": 3})
        for number in range(4):
            scores = {"nats": 2.0 + number, "accuracy": number % 2}
            log.add(Record(str(number), "dense", scores, 12, "text", "eos", 20, None, 0.1, 0.5, 11, 3))


def _read_eval_logs(folder: Path) -> None:
    from rich.console import Console

    from edgeskip.evaluation.log import RecordLog
    from edgeskip.evaluation.report import as_json, table
    from edgeskip.evaluation.summary import Result, summarise
    from edgeskip.evaluation.task import Settings
    from edgeskip.evaluation.tasks import TASKS

    results = []
    for name in ("a", "b"):
        log = RecordLog(folder / f"{name}.jsonl", {"task": "x", "limit": 3}, metrics=("nats", "accuracy"))
        results += [Result(TASKS[task], name, tuple(log.records.values())) for task in ("perplexity", "trec")]
    summaries = summarise(results)
    Console().print(table(summaries))
    json.dumps(as_json(summaries, Settings()), allow_nan=False)


def _eval_data(folder: Path) -> None:
    from eval_material import data_folder

    data_folder(folder)


def _read_eval_data(folder: Path) -> None:
    from edgeskip.errors import EdgeSkipError
    from edgeskip.evaluation.runner import prepare
    from edgeskip.evaluation.task import Settings
    from edgeskip.evaluation.tasks import TASKS

    refused = None
    for name in TASKS:
        if name == "divergence":
            continue
        try:
            prepare([name], folder, Settings())
        except EdgeSkipError as error:
            refused = error
    if refused is not None:
        raise refused


def _sweep_log(folder: Path) -> None:
    from edgeskip.sweep import Cell, SweepLog

    log = SweepLog(folder / "sweep.json", {"model": "x", "num_speculations": (1, 2)}, overwrite=False)
    log.add([Cell(4, None, gamma, 3, 40, 90.0 + gamma, 80.0, 30, 20, 3) for gamma in (1, 2)])
    log.add([Cell(8, 64, gamma, 3, 40, 70.0 + gamma, 80.0, 30, 20, 3) for gamma in (1, 2)])


def _read_sweep(folder: Path) -> None:
    from rich.console import Console

    from edgeskip.sweep import SweepGrid, SweepLog, best_of
    from edgeskip.sweep_report import table, write_csv, write_heat_map

    grid = SweepGrid((4, 8), (None, 64), (1, 2))
    log = SweepLog(folder / "sweep.json", {"model": "x", "num_speculations": (1, 2)}, overwrite=False)
    cells = [cell for cell in log.cells if (cell.exit_layer, cell.draft_vocab) in grid.artifacts]
    list(log.missing(grid))
    if not cells:
        return
    write_csv(cells, folder / "sweep.csv")
    write_heat_map(cells, folder / "sweep.png", "x")
    Console().print(table(cells))
    assert best_of(cells).acceptance >= 0


class _Module:
    """Of training: two parameters and an optimiser that has taken a step."""

    def __init__(self) -> None:
        import torch

        self.module = torch.nn.Linear(4, 3)
        self.optimiser = torch.optim.AdamW(self.module.parameters())
        self.module(torch.ones(2, 4)).sum().backward()
        self.optimiser.step()


def _training(folder: Path) -> None:
    from edgeskip.training.record import LossTable
    from edgeskip.training.run_folder import open_folder
    from edgeskip.training.state_file import save_state

    open_folder(folder / "run", {"optimisation": {"rate": 1e-3}, "data": ["x"]}, overwrite=False)
    with LossTable(folder / "run" / "losses.csv") as table:
        for step in range(1, 20):
            table.add(step, 1e-3, {"loss": 2.0 / step, "last": 1.0, "exit 4": 1.0})
    made = _Module()
    save_state(folder / "run" / "checkpoint.safetensors", made.module, made.optimiser, step=9, settings={"a": 1})
    lines = [json.dumps({"prompt_ids": [1, 2], "response_ids": [3, 4], "prompt": "a", "response": "b"})] * 4
    (folder / "run" / "self.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _read_training(folder: Path) -> None:
    from edgeskip.training.record import LossTable, plot_losses, read_losses
    from edgeskip.training.run_folder import open_folder
    from edgeskip.training.state_file import load_state

    open_folder(folder / "run", {"optimisation": {"rate": 1e-3}, "data": ["x"]}, overwrite=False)
    made = _Module()
    step = load_state(folder / "run" / "checkpoint.safetensors", made.module, made.optimiser, {"a": 1})
    with LossTable(folder / "run" / "losses.csv", keep=step) as table:
        table.add(20, 1e-3, {"loss": 1.0, "last": 1.0})
    rows = read_losses(folder / "run" / "losses.csv")
    plot_losses(rows, folder / "losses.png", "x")


# Texts


def _texts(folder: Path) -> None:
    records = [{"text": TEXT[:40], "n": number, "turns": ["a", "b"]} for number in range(5)]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "corpus.jsonl").write_text(lines, encoding="utf-8")
    (folder / "corpus.txt").write_text(TEXT[:300], encoding="utf-8")
    (folder / "prompts.jsonl").write_text(
        "".join(json.dumps({"prompt": TEXT[:20], "name": f"n{n}"}) + "\n" for n in range(4)), encoding="utf-8"
    )
    (folder / "pairs.csv").write_text("prompt,response\n" + '"a, b","c ""d"""\n' * 5, encoding="utf-8")
    (folder / "pairs.tsv").write_text("prompt\tresponse\n" + 'a "b\tc\n' * 5, encoding="utf-8")
    from tiny_models import write_tiny_tokenizer

    write_tiny_tokenizer(folder)


def _read_texts(folder: Path) -> None:
    from tokenizers import Tokenizer

    from edgeskip.bench.prompts import read_prompts as bench_prompts
    from edgeskip.calibration.corpus import cut, ids_of, read_corpus
    from edgeskip.errors import EdgeSkipError
    from edgeskip.training.examples import read_prompts, read_records, text_of

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    refused: EdgeSkipError | None = None

    def attempt(reader: Callable[[], object]) -> None:
        nonlocal refused
        try:
            reader()
        except EdgeSkipError as error:
            refused = error

    def corpus(name: str, field: str | None) -> None:
        cut(ids_of(read_corpus([folder / name], field), tokenizer), [], context=16, tokens=64, seed=0)

    for name, field in (
        ("corpus.jsonl", None),
        ("corpus.jsonl", "text"),
        ("corpus.jsonl", "turns"),
        ("corpus.txt", None),
    ):
        attempt(partial(corpus, name, field))
    for name in ("corpus.txt", "prompts.jsonl", "corpus.jsonl"):
        attempt(partial(bench_prompts, folder / name, None))
    for name in ("pairs.csv", "pairs.tsv", "prompts.jsonl", "corpus.txt"):
        attempt(partial(read_prompts, [str(folder / name)]))
        attempt(partial(lambda name: [text_of(r, "prompt", w) for w, r in read_records(folder / name)], name))
    if refused is not None:
        raise refused


# Models


def _open_model(folder: Path) -> None:
    from edgeskip.exporters.families.source import open_model
    from edgeskip.exporters.families.torch_model import load_torch_model

    source = open_model("hf")
    assert source.record()
    (folder / "tokenizer").mkdir()
    source.write_tokenizer(folder / "tokenizer")
    load_torch_model(source)


def _hf(folder: Path) -> None:
    fuzz_seeds.checkpoint(folder / "hf")


def _open_shards(folder: Path) -> None:
    from tiny_models import tiny_checkpoint

    tiny_checkpoint("llama", folder / "hf", max_shard_size="100KB")


def _peft(folder: Path) -> None:
    import os

    from tiny_lora import tiny_peft_folder

    os.chdir(folder)
    fuzz_seeds.checkpoint(folder / "hf")
    tiny_peft_folder("hf", folder / "peft")


def _open_peft(folder: Path) -> None:
    from edgeskip.exporters.families.source import open_model

    source = open_model("peft")
    assert source.record()
    for tensor in source.tensors.values():
        tensor.read()
    (folder / "tokenizer").mkdir()
    source.write_tokenizer(folder / "tokenizer")


def _head(folder: Path) -> None:
    import numpy as np
    from safetensors.numpy import save

    arrays = {"head": np.ones((6, 32), np.float16), "tokens": np.arange(6, dtype=np.int32) * 3}
    (folder / "m-head.safetensors").write_bytes(save(arrays, metadata={"eps": "1e-5"}))


def _read_head(folder: Path) -> None:
    import numpy as np

    from edgeskip.files import sha256_of
    from edgeskip.runtime.engines.llamacpp_trimmed_head import read_trimmed_head

    path = folder / "m-head.safetensors"
    head = read_trimmed_head(path, sha256_of(path))
    head.check(32, 320)
    assert head.logits(np.ones(32, np.float32)).shape[0] == 1
    head.close()


REPORT = (*BENCH, "matplotlib.figure", "matplotlib.backends.backend_agg", "edgeskip.bench.report.page", "jinja2")
TARGETS = (*RUNTIME, "onnx", "edgeskip.bench.web.artifact", "edgeskip.bench.survey", "edgeskip.bench.work")
EVALUATION = tuple(f"edgeskip.evaluation.{name}" for name in ("summary", "report", "tasks", "runner"))
TRAINING = tuple(f"edgeskip.training.{name}" for name in ("exit_cache", "record", "state_file", "examples"))
MATPLOTLIB = ("matplotlib.figure", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg")
TORCH = ("torch", "transformers", "edgeskip.exporters.families.torch_model")

READERS = [
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
    Reader("inspect", fuzz_seeds.artifact, ("edgeskip.json",), _inspect, (*RUNTIME, "edgeskip.inspection")),
    Reader(
        "inspect-profile",
        partial(fuzz_seeds.profile, exits=True, lora=True, skip=("attn.1", "ffn.2")),
        ("tiny.json", "tiny.safetensors", "tiny.adapter.safetensors"),
        _inspect_profile,
        (*BENCH, *MATPLOTLIB, "edgeskip.inspection", "edgeskip.plot", "edgeskip.vectors"),
        after=fuzz_seeds.sign_profile,
    ),
    Reader(
        "plan",
        partial(fuzz_seeds.profile, exits=True, skip=("attn.1", "ffn.2")),
        ("tiny.json", "tiny.safetensors"),
        _plan,
        (*BENCH, "edgeskip.planner", "edgeskip.vectors", "edgeskip.budget_planning"),
        after=fuzz_seeds.sign_profile,
    ),
    Reader(
        "plan-budget",
        _budget_folder,
        ("tiny.json", "phone.json"),
        _plan_budget,
        (*BENCH, "edgeskip.planner", "edgeskip.front_report", "edgeskip.search.front", "edgeskip.device_profile"),
    ),
    Reader("search-log", _search_log, ("log.jsonl",), _read_search_log, ("edgeskip.search.losses", *TORCH)),
    Reader("eval-log", _eval_logs, ("a.jsonl",), _read_eval_logs, (*EVALUATION, "rich.console")),
    Reader("eval-data", _eval_data, ("*.txt", "*.tsv", "*.jsonl", "*.label"), _read_eval_data, EVALUATION),
    Reader("sweep", _sweep_log, ("sweep.json",), _read_sweep, (*MATPLOTLIB, "edgeskip.sweep", "edgeskip.sweep_report")),
    Reader(
        "training",
        _training,
        ("run/*.json", "run/*.csv", "run/*.safetensors"),
        _read_training,
        (*TORCH, *MATPLOTLIB, *TRAINING),
    ),
    Reader(
        "texts",
        _texts,
        ("*.jsonl", "*.txt", "*.csv", "*.tsv"),
        _read_texts,
        (*TRAINING, "edgeskip.calibration.corpus", "tokenizers"),
    ),
    Reader(
        "model",
        _hf,
        ("hf/config.json", "hf/config.json", "hf/generation_config.json", "hf/*.safetensors", "hf/tokenizer*.json"),
        _open_model,
        (*EXPORTERS, *TORCH),
    ),
    Reader("model-shards", _open_shards, ("hf/*.index.json", "hf/*.safetensors"), _open_model, (*EXPORTERS, *TORCH)),
    Reader("peft", _peft, ("peft/*",), _open_peft, EXPORTERS),
    Reader("trimmed-head", _head, ("*.safetensors",), _read_head, ("edgeskip.runtime.engines.llamacpp_trimmed_head",)),
]
