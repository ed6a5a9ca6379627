"""The tool that measures a handover. Oracle: a tiny model's own files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeskip.core.errors import EdgeSkipError
from edgeskip.models.source import open_model
from edgeskip.profiles.schema import PlanRecord

pytest.importorskip("llama_cpp")

from handover_cost import handover_cost


def test_from_end_to_end(tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from exports import export_gguf
    from random_profiles import random_profile

    from edgeskip.exporters.gguf.formats import gguf_format
    from edgeskip.exporters.options import ExportPolicy, OnlineRequest

    source, file = open_model(str(tiny_llama)), tmp_path / "m.gguf"
    profile, vectors = random_profile(source, tmp_path / "p.json")
    plan = PlanRecord(method="explicit", compensation="none", skip=[], decode_skip=["ffn.2"])
    profile = profile.model_copy(update={"plan": plan})
    policy = ExportPolicy(check=False)
    export_gguf(source, profile, vectors, gguf_format("f32", None), file, online=OnlineRequest(), policy=policy)
    handover_cost(file, contexts="8,32", rounds=1, tokens=4, threads=1, json_file=tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text())["data"]
    assert [row["context"] for row in found["rows"]] == [8, 32]
    assert all(row["handover_s"]["median"] > 0 and row["kl_to_first"] > 0 for row in found["rows"])
    assert found["decode_skipped"] == ["ffn.2"]
    assert capsys.readouterr().out.startswith("file m.gguf, skipped 0, more FFNs skipped by the second file 1,")
    with pytest.raises(EdgeSkipError, match="export it with  --online"):
        handover_cost(tmp_path / "m-decode.gguf", contexts="8")
