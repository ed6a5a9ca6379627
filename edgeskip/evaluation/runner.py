"""Runs tasks on an artifact through `edgeskip.load`, sample by sample into a log. Showing figures is others' work."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeskip.artifacts.location import artifact_at
from edgeskip.artifacts.path_errors import MANIFEST_NAME
from edgeskip.artifacts.target_names import told_apart
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import sha256_of
from edgeskip.core.locks import claim
from edgeskip.evaluation import datasets as reading
from edgeskip.evaluation.generate import answer, prompt_room
from edgeskip.evaluation.log import RecordLog
from edgeskip.evaluation.summary import TaskResult
from edgeskip.evaluation.task import AnyTask, EvalRecord, EvalSample, EvalSettings, Task
from edgeskip.evaluation.tasks import DIVERGENCE, tasks_named
from edgeskip.evaluation.windows import (
    check_reference,
    divergence_record,
    perplexity_record,
    read_text,
    text_windows,
)

if TYPE_CHECKING:
    from edgeskip.runtime.session import Session

Advance = Callable[[str], None]
DEFAULT = EvalSettings()


@dataclass(frozen=True)
class TaskRun:
    """One task with its data read: `samples` to answer, or a `text` to predict."""

    task: AnyTask
    data: Mapping[str, str]  # sha256 of each file
    samples: tuple[EvalSample, ...] = ()
    text: str = ""


def evaluate(
    artifact: str | Path,
    tasks: Sequence[str],
    *,
    data: Path | None = None,
    settings: EvalSettings = DEFAULT,
    output: Path | None = None,
    overwrite: bool = False,
    advance: Advance = lambda name: None,
) -> list[TaskResult]:
    """Return the tasks on one artifact, a folder or a .gguf file, in their order; `summarize` has the figures.

    `data` is the folder of the tasks' files (None = the default one); for texts it may be a file. With `output` every
    sample's record is kept in `output/TASK-ARTIFACT.jsonl`, and what is there already is not done again. `advance` is
    called after every sample. EdgeSkipError before anything runs if something is missing or does not fit.
    """
    works = prepare(tasks, data, settings)
    path = Path(artifact)
    with claim(*log_files(works, output, artifact_name(path))):
        logs = open_logs(path, works, settings, output, overwrite=overwrite)
        return run(path, works, logs, settings, advance)


def prepare(tasks: Sequence[str], data: Path | None, settings: EvalSettings) -> list[TaskRun]:
    """Read the data of every task; raises EdgeSkipError if a task or a setting cannot be, or data is missing."""
    named = tasks_named(tasks)
    _check(named, settings)
    works = []
    for task in named:
        paths = reading.locate(data, task.files, task.name)
        hashes = {path.name: sha256_of(path) for path in paths}
        if isinstance(task, Task):
            works.append(TaskRun(task, hashes, tuple(reading.drawn(task.read(paths), settings.limit))))
        else:
            works.append(TaskRun(task, hashes, text=read_text(paths[0])))
    return works


def count(works: Sequence[TaskRun], settings: EvalSettings) -> int:
    """Return how often `run` calls `advance`."""
    return sum(len(work.samples) or settings.windows for work in works)


def open_logs(
    artifact: Path,
    works: Sequence[TaskRun],
    settings: EvalSettings,
    output: Path | None,
    *,
    overwrite: bool,
    name: str | None = None,
) -> list[RecordLog]:
    """Return a log for each task, named after the artifact (`name`, else `artifact_name`); claim its `log_files`
    before.

    Raises EdgeSkipError if there is no artifact, or a log is of other settings.
    """
    made = identity(artifact)
    reference = identity(settings.reference) if settings.reference else None
    name = name or artifact_name(artifact)
    paths: Sequence[Path | None] = log_files(works, output, name) or [None for _ in works]
    return [
        RecordLog(
            path,
            _settings_of(work, settings, made, reference),
            metrics=[metric.name for metric in work.task.metrics],
            overwrite=overwrite,
        )
        for path, work in zip(paths, works, strict=True)
    ]


def log_files(works: Sequence[TaskRun], output: Path | None, name: str) -> list[Path]:
    """Return the file of each task's records of the artifact called `name`; [] without an `output`."""
    return [] if output is None else [output / f"{work.task.name}-{name}.jsonl" for work in works]


def run(
    artifact: Path,
    works: Sequence[TaskRun],
    logs: Sequence[RecordLog],
    settings: EvalSettings,
    advance: Advance,
    name: str | None = None,
) -> list[TaskResult]:
    """Do what the logs lack, and return the records of all that was asked for, under `name` (else `artifact_name`)."""
    from edgeskip.runtime.session import load

    name = name or artifact_name(artifact)
    with load(artifact, provider=settings.provider, threads=settings.threads) as session:
        for work in works:
            if isinstance(work.task, Task):
                prompt_room(session.context_length, work.task, settings)  # before long work
        return [
            TaskResult(work.task, name, tuple(_records(session, name, work, log, settings, advance)))
            for work, log in zip(works, logs, strict=True)
        ]


def identity(artifact: Path) -> str:
    """Return the sha256 of what tells the artifact from any other: of a folder its manifest, which has every file's;
    of a GGUF file itself (its other half is bound to it when both are opened). Raises EdgeSkipError if there is
    none."""
    artifact = artifact_at(artifact)
    if artifact.is_dir():
        return sha256_of(artifact / MANIFEST_NAME)
    if not artifact.is_file():
        raise EdgeSkipError(f"artifact {artifact} does not exist; name an exported folder or a .gguf file")
    return sha256_of(artifact)


def artifact_name(artifact: Path) -> str:
    """Return what tables and logs call it: the folder's or file's name, without what a file name cannot hold."""
    return _file_name(artifact.resolve().name)


def artifact_names(artifacts: Sequence[Path]) -> list[str]:
    """Return the `artifact_name` of each; those that are alike get the folders above that tell them apart (`a_model`).

    One artifact given twice keeps one name, which is the caller's to refuse.
    """
    names = [artifact_name(path) for path in artifacts]
    longer = told_apart(artifacts, [None] * len(artifacts))
    return [name if names.count(name) == 1 else _file_name(other) for name, other in zip(names, longer, strict=True)]


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.+=-]", "_", name) or "artifact"


def _records(
    session: Session, name: str, work: TaskRun, log: RecordLog, settings: EvalSettings, advance: Advance
) -> list[EvalRecord]:
    where = f"{work.task.name}, {name}"
    if isinstance(work.task, Task):
        for sample in work.samples:
            if sample.id not in log.records:
                log.add(answer(session, work.task, sample, settings))
            advance(where)
        return [log.records[sample.id] for sample in work.samples]
    return _window_records(session, where, work, log, settings, advance)


def _window_records(
    session: Session, where: str, work: TaskRun, log: RecordLog, settings: EvalSettings, advance: Advance
) -> list[EvalRecord]:
    from edgeskip.runtime.session import load

    windows = text_windows(session, work.text, settings)
    missing = [name for name in windows if name not in log.records]
    reference = None
    try:
        if missing and work.task is DIVERGENCE and settings.reference is not None:
            reference = load(settings.reference, provider=settings.provider, threads=settings.threads)
            check_reference(session, reference, work.text)
        for name, window in windows.items():
            if name in missing:
                log.add(
                    perplexity_record(session, name, window)
                    if reference is None
                    else divergence_record(session, reference, name, window)
                )
            advance(where)
    finally:
        if reference is not None:
            reference.close()
    return [log.records[name] for name in windows]


def _check(tasks: Sequence[AnyTask], settings: EvalSettings) -> None:
    numbers = {
        "limit": settings.limit, "max-new-tokens": settings.max_new_tokens, "windows": settings.windows,
    }  # fmt: skip
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise EdgeSkipError(f"--{name} must be at least 1, not {number}")
    for name, number in {
        "max-prompt-tokens": settings.max_prompt_tokens,
        "window-tokens": settings.window_tokens,
    }.items():
        if number is not None and number < 2:
            raise EdgeSkipError(f"--{name} must be at least 2, not {number}")
    texts = [task.name for task in tasks if not isinstance(task, Task)]
    if texts and settings.strategy != "plain":
        raise EdgeSkipError(
            f"--strategy {settings.strategy} says nothing to {texts[0]}, which is of the whole artifact's logits: "
            "leave one of the two out"
        )
    if settings.chat_kwargs and not any(isinstance(task, Task) and task.chat for task in tasks):
        raise EdgeSkipError("--chat-option has no effect on tasks without a chat: leave it out")
    if (settings.reference is not None) != (DIVERGENCE in tasks):
        raise EdgeSkipError("divergence is measured from a dense artifact: give --tasks divergence and --reference DIR")


def _settings_of(work: TaskRun, settings: EvalSettings, artifact: str, reference: str | None) -> dict[str, Any]:
    """Return what makes records comparable: everything but how many there are."""
    common: dict[str, Any] = {
        "artifact": artifact,
        "task": work.task.name,
        "protocol": work.task.protocol,
        "data": dict(work.data),
        "provider": settings.provider,
        "threads": settings.threads,
    }
    if settings.chat_kwargs and isinstance(work.task, Task) and work.task.chat:
        common["chat_options"] = dict(settings.chat_kwargs)
    if not isinstance(work.task, Task):
        more = {"reference": reference} if work.task is DIVERGENCE else {}
        return common | {"window_tokens": settings.window_tokens} | more
    if settings.exit_layer is not None:
        common["exit_layer"] = settings.exit_layer
    return common | {
        "strategy": settings.strategy,
        "max_new_tokens": settings.max_new_tokens or work.task.max_new_tokens,
        "max_prompt_tokens": settings.max_prompt_tokens,
    }
