"""speculation_memory.py. Oracle: figures by hand, the system's own account of a process, files of known make."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import speculation_memory
from harness.contents import Contents, Part
from speculation_memory import MIB, Turn, like, rows_of, targets_of, turn_of, weight_files

from edgeskip.core.errors import EdgeSkipError

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def turn(rss: int, pss: int) -> Turn:
    return Turn({"load": [rss // 2, pss // 2], "plain": [rss, pss // 2]}, [], None, pss)


def test_peaks_by_hand() -> None:
    turns = {"dense": [turn(100 * MIB, 50 * MIB), turn(200 * MIB, 100 * MIB)]}
    turns["drafts"] = [turn(110 * MIB, 60 * MIB), turn(250 * MIB, 110 * MIB)]
    dense, drafts = rows_of(turns)
    assert (dense.rss_mib.median, dense.pss_mib.median, dense.rss_ratio.median) == (150, 75, 1)
    assert (drafts.rss_ratio.low, drafts.rss_ratio.high) == pytest.approx((1.1, 1.25))
    assert (drafts.pss_ratio.low, drafts.pss_ratio.high) == pytest.approx((1.1, 1.2))
    assert [(target.what, target.met) for target in targets_of([dense, drafts])] == [
        ("drafts: peak VmHWM over dense's", False),  # 1.175
        ("drafts: peak Pss over dense's", True),
    ]


def test_which_files_are_mapped() -> None:
    maps = (
        "7f00-7f10 r--p 00000000 08:01 42    /models/ee 8/model.onnx.data\n"
        "7f20-7f30 r--p 00100000 08:01 42    /models/ee 8/model.onnx.data\n"
        "7f40-7f50 r-xp 00000000 08:01 43    /usr/lib/libc.so.6\n"
        "7f60-7f70 rw-p 00000000 00:00 0\n"
    )
    assert weight_files(maps, Path("/models/ee 8")) == []  # no such folder here: a file's folder counts
    assert weight_files(maps, Path("/models/ee 8/draft.gguf")) == ["model.onnx.data"]


def test_another_model_is_found_out() -> None:
    def holding(size: int) -> Contents:
        return Contents({}, (Part("model.onnx", 1, {0: 1}, {"w": size}, ("model.onnx.data",)),))

    assert [check.holds for check in like(holding(1000), holding(1001))] == [True]
    assert [(check.found, check.holds) for check in like(holding(750), holding(1000))] == [("0.750", False)]
    assert like(Contents({}, ()), holding(1)) == []


@linux
def test_one_process(tiny_early_exit: Path) -> None:
    text = Path(speculation_memory.LICENSE)
    request: dict[str, Any] = {"path": str(tiny_early_exit), "text": str(text), "prompt": 40, "new": 12}
    found = turn_of({**request, "gamma": 4, "threads": 1})
    assert list(found.stages) == ["load", "plain", "speculative"]
    peaks = [rss for rss, _ in found.stages.values()]
    assert peaks == sorted(peaks)
    assert found.peak_rss_bytes == peaks[-1]
    assert 20 * MIB < max(pss for _, pss in found.stages.values()) <= found.peak_pss_bytes
    assert found.peak_pss_bytes <= 1.05 * found.peak_rss_bytes
    assert found.accepted is not None


@linux
def test_from_end_to_end(
    tiny_early_exit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []

    def fake_turn(request: dict[str, Any]) -> Turn:
        asked.append((Path(request["path"]).name, request["gamma"]))
        return turn(100 * MIB, 50 * MIB)

    monkeypatch.setattr(speculation_memory, "turn_of", fake_turn)
    dense = tmp_path / "dense"
    dense.symlink_to(tiny_early_exit)
    target = tmp_path / "out.json"
    speculation_memory.speculation_memory(
        dense, [tiny_early_exit], prompt=8, new=2, num_speculations=4, rounds=2, threads=1, json_file=target
    )
    name = tiny_early_exit.name
    assert sorted(asked) == [(name, 0), (name, 0), (name, 4), (name, 4)]
    result = json.loads(target.read_text())["data"]
    assert result["contents"][name]["files"]["verify.onnx"] == (tiny_early_exit / "verify.onnx").stat().st_size
    checks = {check["what"]: check["holds"] for check in result["checks"][name]}
    assert checks["operators in verify.onnx of blocks before 1"]
    assert checks["weights of model.onnx ÷ the dense artifact's"]
    out = capsys.readouterr().out
    assert "| verify.onnx |" in out
    assert f"| {name}: peak Pss over dense's | ≤ 1.15 | 1.000 [1.000 – 1.000] | yes |" in out
    with pytest.raises(EdgeSkipError, match="does not exist"):
        speculation_memory.speculation_memory(tmp_path / "nothing", [tiny_early_exit])
