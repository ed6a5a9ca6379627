"""Logs of searches and sweeps with values of other types. Oracle: a good file is damaged by hand; a search measures
again what it cannot read, a sweep names it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from edgeskip.core.errors import EdgeSkipError
from edgeskip.planning.search.plan_evaluator import QualityLog
from edgeskip.planning.search.quality import PlanQuality
from edgeskip.sweep.run import SweepLog, SweepPoint

DEEP = "[" * 100_000 + "]" * 100_000
GOOD = PlanQuality(0.5, 1.0, 0.9)
REPORTED = {"kl": 0.5, "perplexity_ratio": 1.1, "perplexity_error": 0.1, "top1_agreement": 0.9}
LINES = [
    DEEP, '{"skip": ' + DEEP + "}", "1", "null", "[]", '"x"', "{}", '{"skip": null}', '{"skip": [0]}',
    *(json.dumps({"skip": [0], "kl": 0.1, "loss": 1.0, "top1": 0.5} | changed) for changed in (
        {"skip": ["a"]}, {"skip": [-1]}, {"skip": [[0]]}, {"skip": "01"}, {"skip": [10**30]}, {"kl": None}, {"kl": "x"},
        {"kl": 1e300}, {"loss": [1]}, {"top1": 2}, {"top1": -1}, {"more": 1}, {"losses": "x"},
    )),
    '{"skip": [0], "kl": NaN, "loss": 1.0, "top1": 0.5}',
    *(json.dumps({"skip": [0], "reported": reported}) for reported in (
        None, [], "x", {}, REPORTED | {"kl": -1}, REPORTED | {"kl": "x"}, REPORTED | {"more": 1},
        REPORTED | {"perplexity_ratio": 0}, REPORTED | {"top1_agreement": 7},
    )),
]  # fmt: skip


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_a_search_measures_again_what_it_cannot_read(line: str, tmp_path: Path) -> None:
    log = QualityLog(tmp_path / "x", {"seed": 0})
    log.add(frozenset({1, 2}), GOOD)
    log.report(frozenset({1, 2}), REPORTED)
    assert log.path is not None
    before = log.path.read_bytes()
    log.path.write_bytes(before + line.encode() + b"\n")
    again = QualityLog(tmp_path / "x", {"seed": 0})
    assert again.known == {frozenset({1, 2}): GOOD}
    assert again.reported == {frozenset({1, 2}): REPORTED}
    assert log.path.read_bytes() == before


def test_a_loss_beyond_every_float_is_still_a_perplexity() -> None:
    """exp(1000) is none."""
    quality = PlanQuality(0.1, 1000.0, 0.5, (1000.0, 1001.0))
    assert math.isfinite(quality.perplexity)
    assert all(map(math.isfinite, quality.perplexity_ratio(PlanQuality(0.0, 1.0, 1.0, (1.0, 1.5)))))


SETTINGS = {"model": "x", "num_speculations": (1, 2)}
CELL = {
    "exit_layer": 4, "draft_vocab": None, "num_speculations": 1, "prompts": 2, "tokens": 9, "tokens_per_s": 9.0,
    "plain_tokens_per_s": 8.0, "drafted": 5, "accepted": 4, "identical": 2,
}  # fmt: skip
CHANGES = [
    {"exit_layer": "4x"}, {"exit_layer": -1}, {"exit_layer": [4]}, {"draft_vocab": "all"}, {"num_speculations": {}},
    {"tokens": None}, {"tokens": 10**30}, {"tokens_per_s": "x"}, {"tokens_per_s": 0}, {"tokens_per_s": 1e300},
    {"plain_tokens_per_s": 0.0}, {"plain_tokens_per_s": 5e-324}, {"drafted": "x"}, {"accepted": -3}, {"more": 1},
]  # fmt: skip
TEXTS = [
    DEEP, '{"settings": ' + DEEP + ', "cells": []}', "[]", "null", "{}", '{"settings": {}}',
    '{"settings": [], "cells": []}',
    '{"settings": {}, "cells": {}}', '{"settings": {}, "cells": ["x"]}', '{"settings": {}, "cells": [[]]}', "", "\x00",
    *(json.dumps({"settings": {}, "cells": [CELL | change]}) for change in CHANGES),
    json.dumps({"settings": {}, "cells": [{k: v for k, v in CELL.items() if k != "tokens"}]}),
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_a_sweep_names_what_it_cannot_read(text: str, tmp_path: Path) -> None:
    path = tmp_path / "sweep.json"
    path.write_text(text)
    with pytest.raises(EdgeSkipError, match=r"sweep\.json .*choose another -o") as caught:
        SweepLog(path, SETTINGS, overwrite=False)
    assert len(str(caught.value).removeprefix(str(path))) < 200


def test_a_good_sweep_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "sweep.json"
    SweepLog(path, SETTINGS, overwrite=False).add([SweepPoint(**CELL)])
    assert SweepLog(path, SETTINGS, overwrite=False).cells == [SweepPoint(**CELL)]
