"""The export pipeline as the API calls it. Oracles: the folder's listing, and steps counted one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from random_profiles import random_profile

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.progress import ProgressEvent
from edgeskip.exporters.options import export_options
from edgeskip.exporters.pipeline import STAGE, run_export
from edgeskip.models.source import open_model
from edgeskip.profiles.schema import Profile


@pytest.fixture
def profile(tiny_llama: Path, tmp_path: Path) -> Profile:
    skip = ("attn.1", "ffn.2")
    return random_profile(open_model(str(tiny_llama)), tmp_path / "p.json", skip=skip, compensation="scale")[0]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"precision": "int4", "block_size": 32},
        {"draft": "early-exit", "exit_layer": [1, 3]},
        {"draft": "skip-plan"},
        {"target": "gguf", "precision": "f16"},
        {"target": "gguf", "precision": "q4_0", "draft": "early-exit", "exit_layer": 2},
        {"target": "gguf", "precision": "q4_0", "draft": "skip-plan"},
        {"target": "onnx,gguf", "precision": "f32"},
    ],
)
def test_every_step_is_counted(profile: Profile, tmp_path: Path, options: dict[str, Any]) -> None:
    if "gguf" in options.get("target", ""):
        pytest.importorskip("llama_cpp")
    events: list[ProgressEvent] = []
    run_export(
        profile, tmp_path / "p.json", tmp_path / "out", export_options(**options, check=False), progress=events.append
    )
    *steps, last = events
    assert {event.stage for event in events} == {STAGE}
    assert [event.done for event in steps] == list(range(len(steps)))
    assert {event.total for event in events} == {len(steps)}
    assert last.done == last.total
    assert all(event.detail for event in steps)


def test_targets_share_a_folder(profile: Profile, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    options = export_options(target="gguf,onnx", precision="f16", check=False)
    onnx, gguf = run_export(profile, tmp_path / "p.json", tmp_path / "out", options)
    assert (onnx.target, onnx.path, onnx.architecture) == ("onnx", tmp_path / "out" / "onnx", None)
    assert (gguf.target, gguf.path.parent, gguf.architecture) == ("gguf", tmp_path / "out", "deci")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"onnx", gguf.path.name}
    assert onnx.manifest.verification is gguf.manifest.verification is None


def test_nothing_is_written_if_one_target_cannot_be(profile: Profile, tmp_path: Path) -> None:
    """The GGUF would need a model with stored blocks; the ONNX export, which comes first, could be."""
    pytest.importorskip("llama_cpp")
    options = export_options(target="onnx,gguf", precision="fp32,keep", check=False)
    with pytest.raises(EdgeSkipError, match="keep"):
        run_export(profile, tmp_path / "p.json", tmp_path / "out", options)
    assert not (tmp_path / "out").exists()
