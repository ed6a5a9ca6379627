"""Every task by its name."""

from __future__ import annotations

from collections.abc import Sequence

from edgeskip.core.errors import EdgeSkipError
from edgeskip.evaluation.humaneval import HUMANEVAL
from edgeskip.evaluation.layerskip import CNN_DAILYMAIL, TOPV2
from edgeskip.evaluation.longbench import GOV_REPORT, MULTI_NEWS, TRIVIAQA
from edgeskip.evaluation.metrics import check_rouge
from edgeskip.evaluation.sandbox import check_sandbox
from edgeskip.evaluation.task import AnyTask, Metric, TextTask
from edgeskip.evaluation.trec import TREC

TEXT = ("wikitext2_test.txt",)
PERPLEXITY = TextTask("perplexity", TEXT, (Metric("nats", "perplexity", exponential=True, higher_is_better=False),))
DIVERGENCE = TextTask(
    "divergence",
    TEXT,
    (
        Metric("kl", "KL(reference ‖ artifact), nats a token", higher_is_better=False),
        Metric("agreement", "top-1 agreement × 100", scale=100),
    ),
)
TASKS: dict[str, AnyTask] = {
    task.name: task
    for task in (
        PERPLEXITY, DIVERGENCE, GOV_REPORT, MULTI_NEWS, TRIVIAQA, TREC, CNN_DAILYMAIL, HUMANEVAL, TOPV2,
    )
}  # fmt: skip


def tasks_named(names: Sequence[str]) -> tuple[AnyTask, ...]:
    """Return the tasks, each once, in the order given; EdgeSkipError for a name of none, or if something they need
    to count an answer is not there."""
    for name in names:
        if name == "qasper":
            raise EdgeSkipError(
                "qasper is what AdaSkip calibrates on, so a score on it would say too much: choose another --tasks"
            )
        if name not in TASKS:
            raise EdgeSkipError(f"--tasks {name!r} is unknown: choose from {', '.join(TASKS)}")
    found = tuple(TASKS[name] for name in dict.fromkeys(names))
    if any(metric.name.startswith("rouge") for task in found for metric in task.metrics):
        check_rouge()
    if HUMANEVAL in found:
        check_sandbox()
    return found
