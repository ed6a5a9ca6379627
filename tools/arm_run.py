"""Artifacts on an emulated Arm machine beside this one: the same greedy tokens? How many instructions a decode step?

    python tools/arm_run.py dense-fp32 skip8-fp32 dense-int4 skip8-int4 [--json arm.json]

Each artifact decodes the same prompt on both machines, with one thread. If tokens part, the first place is shown
and how little this machine preferred its own (the margin of the two likeliest). Logits are compared over this machine's
tokens. Instructions are those of one engine step, counted by QEMU: how much work a step is, not how long it takes.
Their ratio to the first artifact of the same precision stands beside the ratio of operations counted from the files.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import arm_root
import numpy as np
import typer
from arm.decode import MARKS_A_TASK, Decoded, Task, decode
from arm_root import Arm
from numpy.typing import NDArray
from pydantic import TypeAdapter

from edgeskip.artifacts.manifest import read_manifest
from edgeskip.core.child_exit import how_it_ended
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import replace_file

PROMPT = "The old lighthouse keeper walked down to the"
SCRIPT = Path(arm_root.__file__).parent / "arm" / "decode.py"


@dataclass(frozen=True)
class Both:
    """One artifact on this machine (`here`) and on Arm (`there`).

    Logits float32 [prompt + tokens, vocab_size] over this machine's tokens; instructions of the prompt's step and of
    each decode step, None and () if they were not counted.
    """

    folder: Path
    here: Decoded
    there: Decoded
    logits_here: NDArray[np.float32]
    logits_there: NDArray[np.float32]
    prefill_instructions: int | None
    step_instructions: tuple[int, ...]

    @property
    def margins(self) -> NDArray[np.float32]:
        """By how much this machine preferred each of its tokens to the next likeliest [tokens]."""
        rows = self.logits_here[len(self.here.prompt) - 1 : -1]
        top = np.partition(rows, -2, axis=1)[:, -2:]
        return np.asarray(top[:, 1] - top[:, 0], np.float32)

    @property
    def parts_at(self) -> int | None:
        """The first token that differs in plain decoding, None if none does."""
        pairs = zip_longest(self.here.plain, self.there.plain)
        return next((i for i, (a, b) in enumerate(pairs) if a != b), None)

    @property
    def max_difference(self) -> float:
        return float(np.abs(self.logits_here - self.logits_there).max())

    @property
    def rms_difference(self) -> float:
        return rms(self.logits_here - self.logits_there)


def rms(differences: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean(np.square(differences))))


def on_both(arm: Arm, folders: Sequence[Path], *, prompt: str = PROMPT, new_tokens: int = 8) -> list[Both]:
    """Decode on this machine, then in one process on Arm; count instructions if the emulator can."""
    if not 1 <= new_tokens < MARKS_A_TASK // 2:
        raise EdgeSkipError(f"the number of new tokens must be from 1 to {MARKS_A_TASK // 2 - 1}, not {new_tokens}")
    with tempfile.TemporaryDirectory(prefix="edgeskip-arm-") as name:
        work = Path(name)
        first = [
            Task(folder=folder.resolve(), prompt=prompt, new_tokens=new_tokens, logits=work / f"here-{number}.npy")
            for number, folder in enumerate(folders)
        ]
        here = [decode(task) for task in first]
        counting = arm.emulator.plugin is not None
        tasks = [
            task.model_copy(
                update={
                    "logits": work / f"there-{number}.npy",
                    "forced": here[number].plain,
                    "first_mark": MARKS_A_TASK * number if counting else None,
                }
            )
            for number, task in enumerate(first)
        ]
        counts = work / "counts.txt"
        wanted = TypeAdapter(list[Task]).dump_json(tasks).decode()
        done = arm.python([SCRIPT], stdin=wanted, counts=counts if counting else None)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no output"])[-1]
            raise EdgeSkipError(f"decoding on Arm {how_it_ended(done.returncode)}: {last}")
        there = TypeAdapter(list[Decoded]).validate_json(done.stdout)
        marks = read_marks(counts.read_text(encoding="utf-8")) if counting else {}
        both = []
        for number, task in enumerate(tasks):
            steps = instructions(marks, MARKS_A_TASK * number, 1 + len(here[number].plain)) if counting else []
            both.append(
                Both(
                    folder=folders[number],
                    here=here[number],
                    there=there[number],
                    logits_here=np.load(first[number].logits),
                    logits_there=np.load(task.logits),
                    prefill_instructions=steps[0] if steps else None,
                    step_instructions=tuple(steps[1:]),
                )
            )
    return both


def read_marks(text: str) -> dict[int, int]:
    """Number of each mark → instructions executed until then, from what the plugin wrote."""
    marks = {}
    for line in text.splitlines():
        word, *numbers = line.split()
        if word == "mark":
            marks[int(numbers[0])] = int(numbers[1])
    return marks


def instructions(marks: dict[int, int], first: int, steps: int) -> list[int]:
    """Instructions of each step, between its two marks; raises EdgeSkipError if a mark is missing."""
    try:
        return [-marks[first + 2 * i] + marks[first + 2 * i + 1] for i in range(steps)]
    except KeyError as error:
        raise EdgeSkipError(f"the emulator did not report mark {error}: does its plugin see system calls?") from None


def step_operations(both: Both) -> float:
    """Arithmetic operations of a decode step in the middle of those that ran, counted from the artifact's files."""
    from edgeskip.bench.model_cost import model_cost_of

    work = model_cost_of(both.folder)
    positions = len(both.here.prompt) + len(both.here.plain) / 2
    return work.matmul_flops + work.head_flops + work.attention_flops * positions


def rows_of(results: Sequence[Both]) -> list[dict[str, Any]]:
    """Return what the table shows of each artifact; ratios are to the first artifact of the same precision. int4 with
    activations in fp32 is another precision than with activations in int8.

    `margin_at_parting` is None also if one of the texts merely ended, `speculative_equal` if there is no draft.
    """
    first: dict[tuple[str, object], Both] = {}
    rows = []
    for both in results:
        graph = read_manifest(both.folder).graph
        base = first.setdefault((graph.precision, (graph.quantisation or {}).get("accuracy_level")), both)
        at, counted, prefill = both.parts_at, both.step_instructions, both.prefill_instructions
        drafts = both.here.speculative is not None
        row: dict[str, Any] = {"artifact": both.folder.name, "precision": graph.precision}
        row |= {"machine": both.there.machine, "onnxruntime": both.there.onnxruntime}
        row |= {"tokens_equal": at is None, "parts_at": at}
        row["margin_at_parting"] = None if at is None or at >= len(both.margins) else float(both.margins[at])
        row["speculative_equal"] = both.here.speculative == both.there.speculative if drafts else None
        row["speculative_is_plain_there"] = both.there.speculative == both.there.plain if drafts else None
        row |= {"max_logit_difference": both.max_difference, "rms_logit_difference": both.rms_difference}
        row["prefill_instructions_per_token"] = None if prefill is None else prefill / len(both.here.prompt)
        row["step_instructions"] = median(counted) if counted else None
        row["step_instructions_range"] = (min(counted), max(counted)) if counted else None
        row["step_instructions_ratio"] = median(counted) / median(base.step_instructions) if counted else None
        row["step_operations_ratio"] = step_operations(both) / step_operations(base)
        rows.append(row)
    return rows


def as_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a table; M is millions of instructions."""
    head = [
        "artifact",
        "tokens",
        "speculative",
        "Δlogit max, rms",
        "M a prompt token",
        "M a step",
        "ratio",
        "operations",
    ]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        margin = row["margin_at_parting"]
        parted = f"part at {row['parts_at']}" + ("" if margin is None else f", margin {margin:.3f}")
        speculative = {None: "–", True: "equal", False: "differ"}[row["speculative_equal"]]
        counted = ["–", "–", "–"]
        if row["step_instructions"] is not None:
            millions = (row["prefill_instructions_per_token"] / 1e6, row["step_instructions"] / 1e6)
            counted = [*(f"{value:.1f}" for value in millions), f"{row['step_instructions_ratio']:.3f}"]
        difference = f"{row['max_logit_difference']:.2g}, {row['rms_logit_difference']:.2g}"
        tokens = "equal" if row["tokens_equal"] else parted
        operations = f"{row['step_operations_ratio']:.3f}"
        lines.append([row["artifact"], tokens, speculative, difference, *counted, operations])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def arm_run(
    artifacts: Annotated[list[Path], typer.Argument(help="Exported folders.")],
    prompt: Annotated[str, typer.Option(help="Text to go on from.")] = PROMPT,
    new_tokens: Annotated[int, typer.Option("--new-tokens", "-n", help="Tokens to decode.")] = 8,
    into: Annotated[Path | None, typer.Option(help="Folder of the Arm machine.  [default: the user's cache]")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Where to write the figures.")] = None,
) -> None:
    """Compare artifacts' tokens, logits and instructions on an emulated Arm machine with this one."""
    for folder in artifacts:
        read_manifest(folder)  # before anything is made
    arm = arm_root.make(into or arm_root.default_folder())
    rows = rows_of(on_both(arm, artifacts, prompt=prompt, new_tokens=new_tokens))
    print(as_markdown(rows))
    if arm.emulator.plugin is None:
        print(f"instructions were not counted: {arm.emulator.no_plugin}", file=sys.stderr)
    if json_file is not None:
        text = json.dumps({"prompt": prompt, "rows": rows}, indent=1)
        replace_file(json_file, f"{text}\n".encode())


if __name__ == "__main__":
    try:
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command()(arm_run)
        app()
    except EdgeSkipError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
