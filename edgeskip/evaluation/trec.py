"""TREC question classification, few-shot as in LongBench: the 50 fine classes in words, examples from the training
file.

A line of the files is `COARSE:fine question`, in latin-1.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from edgeskip.core.errors import EdgeSkipError
from edgeskip.evaluation.metrics import class_score, first_line
from edgeskip.evaluation.task import EvalSample, Metric, Task

EXAMPLES = 200  # of a prompt: some 3,000 words
ACCURACY = Metric("accuracy", "accuracy × 100", scale=100)
# No name is a part of another: the score looks for them in the prediction.
CLASSES = {
    "ABBR:abb": "Abbreviated form", "ABBR:exp": "Full form of an abbreviation",
    "DESC:def": "Definition of something", "DESC:desc": "Description of something",
    "DESC:manner": "Way to do something", "DESC:reason": "Reason for something",
    "ENTY:animal": "Animal", "ENTY:body": "Part of the body", "ENTY:color": "Colour",
    "ENTY:cremat": "Book, film, song or other creation", "ENTY:currency": "Currency",
    "ENTY:dismed": "Disease or medicine", "ENTY:event": "Event", "ENTY:food": "Food or drink",
    "ENTY:instru": "Musical instrument", "ENTY:lang": "Language", "ENTY:letter": "Letter of the alphabet",
    "ENTY:other": "Some other thing", "ENTY:plant": "Plant", "ENTY:product": "Product", "ENTY:religion": "Religion",
    "ENTY:sport": "Sport or game", "ENTY:substance": "Substance or element", "ENTY:symbol": "Symbol or sign",
    "ENTY:techmeth": "Technique or method", "ENTY:termeq": "Equivalent term", "ENTY:veh": "Vehicle",
    "ENTY:word": "Word with a special property", "HUM:desc": "Who a person is", "HUM:gr": "Group or organisation",
    "HUM:ind": "Individual person", "HUM:title": "Title of a person", "LOC:city": "City", "LOC:country": "Country",
    "LOC:mount": "Mountain", "LOC:other": "Some other place", "LOC:state": "State or province",
    "NUM:code": "Code or postal number", "NUM:count": "How many of something", "NUM:date": "Date",
    "NUM:dist": "Distance or length", "NUM:money": "Price or sum of money", "NUM:ord": "Rank or order",
    "NUM:other": "Some other number", "NUM:perc": "Percentage or fraction", "NUM:period": "Duration",
    "NUM:speed": "Speed", "NUM:temp": "Temperature", "NUM:volsize": "Size, area or volume", "NUM:weight": "Weight",
}  # fmt: skip
INSTRUCTION = "Tell the type of the last question below. These are examples of questions and their types.\n\n"


def questions(path: Path) -> list[tuple[str, str]]:
    """(question, class in words) of every line; raises EdgeSkipError if one is damaged or of an unknown class."""
    found = []
    for number, line in enumerate(path.read_text(encoding="latin-1").split("\n"), 1):
        if not line.strip():
            continue
        label, _, question = line.strip().partition(" ")
        if label not in CLASSES or not question:
            raise EdgeSkipError(f"{path}, line {number} is not a TREC question (COARSE:fine question)")
        found.append((question, CLASSES[label]))
    if not found:
        raise EdgeSkipError(f"{path} has no questions: choose another --data")
    return found


def _read(paths: Sequence[Path]) -> list[EvalSample]:
    """Return every question with its own examples, drawn by its number."""
    train, test = (questions(path) for path in paths)
    return [
        EvalSample(str(number), _prompt(train, number, asked), (kind,)) for number, (asked, kind) in enumerate(test)
    ]


def _prompt(train: Sequence[tuple[str, str]], number: int, asked: str) -> str:
    examples = random.Random(number).sample(train, min(EXAMPLES, len(train)))
    shown = "".join(f"Question: {question}\nType: {kind}\n" for question, kind in examples)
    return f"{INSTRUCTION}{shown}Question: {asked}\nType:"


def _score(prediction: str, sample: EvalSample) -> dict[str, float]:
    return {ACCURACY.name: class_score(first_line(prediction), sample.answers[0], tuple(CLASSES.values()))}


TREC = Task("trec", ("trec_train_5500.label", "trec_TREC_10.label"), _read, False, 32, (ACCURACY,), _score)
