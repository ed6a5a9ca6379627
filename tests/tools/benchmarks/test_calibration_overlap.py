"""tools/benchmarks/calibration_overlap.py. Oracle: figures by hand."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import calibration_overlap
import pytest
from calibration_overlap import hit_rate, matrix, text_named, top
from harness.command import numbers
from random_profiles import random_profile
from tiny_models import tiny_checkpoint

from edgeskip.core.errors import EdgeSkipError
from edgeskip.models.source import ModelSource, open_model


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    return open_model(str(tiny_checkpoint("llama", tmp_path_factory.mktemp("hit-rates") / "model")))


def test_corpora_from_profiles_kept(
    source: ModelSource, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each corpus is calibrated once; the table and the file are of the profiles' own similarities."""
    made: list[tuple[str, ...]] = []

    def calibrate(*arguments: str | Path) -> None:
        made.append(tuple(map(str, arguments)))
        random_profile(source, Path(arguments[3]), seed=len(made))

    monkeypatch.setattr("harness.product.edgeskip", calibrate)
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b.jsonl").write_text('{"code": "text"}')
    options: dict[str, Any] = {
        **{"corpus": ["a=a.txt", "b=b.jsonl#code"], "counts": "2,4", "tokens": 64, "data": tmp_path},
        **{"work": tmp_path / "work", "calibrated_on": "b", "json_file": tmp_path / "out.json"},
    }
    monkeypatch.setattr(calibration_overlap, "model_folder", lambda model, work: work / "models" / model)
    for _ in range(2):
        calibration_overlap.calibration_overlap("tiny", **options)
    assert len(made) == 2
    assert [("--field", "code") in pairwise(call) for call in made] == [False, True]
    assert all(call[-4:] == ("--tokens", "64", "--decode-tokens", "0") for call in made)
    found = json.loads((tmp_path / "out.json").read_text())["data"]
    a, b = (found["corpora"][name]["similarity"] for name in "ab")
    assert list(a) == [f"{kind}.{block}" for block in range(4) for kind in ("attn", "ffn")]
    best = [sorted(one, key=one.__getitem__)[-2:] for one in (a, b)]
    rate = len(set(best[0]) & set(best[1])) / 2
    assert found["hit_rates"]["2"] == {"a": {"a": 1, "b": rate}, "b": {"a": rate, "b": 1}}
    out = capsys.readouterr().out.splitlines()[2:]
    assert out[0] == "| k, calibrated on b | a | by chance |"
    assert out[2] == f"| 2 | {rate:.1%} | 25.0% |"


def test_corpora_refuses(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    for corpus, more, message in (
        (["a.txt", "b=a.txt"], {}, "write NAME=FILE"),
        (["../a=a.txt", "b=a.txt"], {}, "write NAME=FILE"),
        (["a=a.txt#x,y", "b=a.txt"], {}, "name one field"),
        (["a=none.txt", "b=a.txt"], {}, "there is no file none.txt"),
        (["a=a.txt", "a=a.txt"], {}, "two entries are called a"),
        (["a=a.txt"], {}, "two corpora or more"),
        (["a=a.txt", "b=a.txt"], {"calibrated_on": "c"}, "choose from a, b"),
    ):
        with pytest.raises(EdgeSkipError, match=message):
            calibration_overlap.calibration_overlap(
                "none", corpus=corpus, data=tmp_path, **{"calibrated_on": None, **more}
            )
    with pytest.raises(EdgeSkipError, match="--counts 3: the model has 3 sublayers"):
        matrix({"a": [1, 2, 3], "b": [1, 2, 3]}, [2, 3])


def test_by_hand() -> None:
    assert top([0.5, 0.9, 0.7, 0.9, 0.7], 3) == {1, 3, 2}  # of equal ones the first
    assert hit_rate([3, 2, 1, 0], [2, 0, 3, 1], 2) == 0.5
    assert numbers("--beta", "0.9,0.5,0.9", float, -1) == [0.5, 0.9]


def test_a_path_with_fields(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text("")
    for reference, data in ((f"x={file}#code", Path("/none")), ("x=a.jsonl#code", tmp_path)):
        text = text_named(reference, data)
        assert (text.name, text.path, text.field, text.sha256[:8]) == ("x", file, "code", "e3b0c442")
