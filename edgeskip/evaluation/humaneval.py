"""HumanEval as LayerSkip reports it: the prompt is code to continue; ROUGE-2 with the known solution, and pass@1."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeskip.evaluation import datasets as reading
from edgeskip.evaluation.layerskip import ROUGE_2
from edgeskip.evaluation.metrics import rouge
from edgeskip.evaluation.sandbox import run_sandboxed
from edgeskip.evaluation.task import EvalSample, Metric, Task

PASS = Metric("pass_1", "pass@1 × 100", scale=100)
STOP = ("\nclass ", "\ndef ", "\nif ", "\nprint")  # what comes after the function is not its body


def _read(paths: Sequence[Path]) -> list[EvalSample]:
    samples = []
    for number, (where, record) in enumerate(reading.records(paths[0])):
        test, name = reading.text(record, "test", where), reading.text(record, "entry_point", where)
        prompt, solution = reading.text(record, "prompt", where), reading.text(record, "canonical_solution", where)
        samples.append(EvalSample(str(number), prompt, (solution,), program=f"{test}\ncheck({name})\n"))
    return samples


def _score(prediction: str, sample: EvalSample) -> dict[str, float]:
    verdict = run_sandboxed(f"{sample.prompt}{prediction}\n{sample.program}")
    return {PASS.name: float(verdict.passed), ROUGE_2.name: rouge("rouge2", prediction, sample.answers)}


HUMANEVAL = Task("humaneval", ("humaneval.jsonl",), _read, False, 512, (PASS, ROUGE_2), _score, STOP)
