"""The tool that holds predictions against measurements. Oracle: ratios worked out by hand, and a tiny model's run."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from predicted_times import predicted_times, rows_of, table_of

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.plan import Plan, Skip
from edgeskip.core.sublayers import parse_sublayer
from edgeskip.models.source import open_model


def test_ratios_are_paired_by_round() -> None:
    """Twice as fast in both rounds, though the machine slowed down; predicted 2.0 for the prompt, 2.2 for decoding."""
    profile: Any = SimpleNamespace(
        speedups=lambda skip, context: (2.0, 2.2), prefill_s=lambda skip: 0.75, decode_s=lambda skip, context: 0.9
    )
    skips = {"dense": frozenset(), "skip": frozenset([parse_sublayer("ffn.0", 1)])}
    prefill_s = {"dense": [1.0, 2.0], "skip": [0.5, 1.0]}
    decode_s = {"dense": [2.0, 4.0], "skip": [1.0, 2.0]}
    prompt, token = rows_of(skips, prefill_s, decode_s, profile, 2)
    assert (prompt.speedup.median, prompt.speedup_ratio, prompt.met) == (2.0, 1.0, True)
    assert (token.speedup.median, token.speedup_ratio, token.met) == (2.0, 1.1, False)
    assert (prompt.seconds_ratio, token.seconds_ratio) == (1.0, 0.6)
    first, second = table_of([prompt, token]).rows
    assert list(first) == ["skip", "1", "prefill", "750.00", "750.00", "1.000", "2.000 [2.000 – 2.000]", "2.000",
                           "1.000", "ok"]  # fmt: skip
    assert list(second[-3:]) == ["2.200", "1.100", "NO"]


@pytest.fixture(scope="module")
def folders(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    from drafting_artifacts import whole_artifact

    from edgeskip.exporters.onnx.sidecars import write_sidecars

    source = open_model(str(tiny_llama))
    found = []
    for name, skipped in (("dense", ()), ("skip", ("ffn.1", "attn.2"))):
        folder = tmp_path_factory.mktemp("check") / name
        skips = tuple(sorted((Skip(parse_sublayer(s, 4)) for s in skipped), key=lambda skip: skip.sublayer))
        manifest = whole_artifact(source, folder, Plan(4, skips))
        source.write_tokenizer(folder)
        write_sidecars(source, manifest.graph, folder)
        plan = manifest.plan.model_copy(update={"skip": [str(skip.sublayer) for skip in skips]})
        (folder / "edgeskip.json").write_text(manifest.model_copy(update={"plan": plan}).model_dump_json())
        found.append(folder)
    return found


@pytest.mark.slow
def test_from_end_to_end(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a tiny model's speedup is, no bound holds for; what was measured is written whether it is met or not."""
    monkeypatch.setenv("EDGESKIP_CACHE", str(tmp_path))  # logs
    output = tmp_path / "check.json"
    with suppress(typer.Exit):
        predicted_times(folders, rounds=2, new=4, threads=1, json_file=output)
    found = json.loads(output.read_text())
    assert [(row["name"], row["skipped"], row["phase"]) for row in found["data"]] == [
        ("skip", 2, "prefill"),
        ("skip", 2, "decode"),
    ]
    assert all(row["predicted_speedup"] > 1 for row in found["data"])
    assert found["setting"]["prompt_tokens"] == 508
    assert capsys.readouterr().out.count("| skip | 2 |") == 2


def test_the_first_must_be_dense(folders: list[Path]) -> None:
    with pytest.raises(EdgeSkipError, match="export the dense model"):
        predicted_times(folders[::-1], rounds=1, threads=1)
