"""tools/benchmarks/harness/contents.py: what files hold and share. Oracle: how the files were made."""

from __future__ import annotations

import shutil
from pathlib import Path

import gguf
import numpy as np
import onnx
import pytest
from harness.contents import checks_of, contents_of

from edgeskip.artifacts.gguf.manifest import GgufManifest
from edgeskip.artifacts.manifest import PlanSummary
from edgeskip.profiles.schema import ModelRecord


def test_the_graphs_of_an_early_exit(tiny_early_exit: Path) -> None:
    contents = contents_of(tiny_early_exit)
    parts = {part.file: part for part in contents.parts}
    assert parts.keys() == {"draft.onnx", "model.onnx", "model-genai.onnx", "verify.onnx"}
    assert list(parts["draft.onnx"].blocks) == [0]
    assert list(parts["verify.onnx"].blocks) == [1, 2, 3]
    whole = parts["model.onnx"]
    for block in (1, 2):  # but for the seam, a block is as many operators wherever it stands
        assert parts["verify.onnx"].blocks[block] == whole.blocks[block]
    graph = onnx.load(tiny_early_exit / "model.onnx", load_external_data=False).graph
    assert whole.operators == len(graph.node)
    # model-genai.onnx adds nothing: its own logits_to_keep, 0, is a number that the check of padding has as well.
    assert contents.weight_bytes == whole.weight_bytes < sum(part.weight_bytes for part in contents.parts)
    assert contents.data_files == {"model.onnx.data"}
    assert contents.files["model.onnx.data"] >= contents.weight_bytes - 4096  # the smallest stand in the graph itself


def test_what_an_early_exit_must_show(tiny_early_exit: Path, tmp_path: Path) -> None:
    holds = {check.what: check.holds for check in checks_of(tiny_early_exit, contents_of(tiny_early_exit))}
    blocks = ["operators in draft.onnx of blocks before 0 or from 1 on", "operators in verify.onnx of blocks before 1"]
    assert all(holds[what] for what in ["data files that all graphs name", *blocks])

    wrong = shutil.copytree(tiny_early_exit, tmp_path / "wrong")
    shutil.copy(wrong / "model.onnx", wrong / "verify.onnx")  # computes everything again
    graph = onnx.load(wrong / "draft.onnx")  # and the draft has weights of its own
    onnx.save(graph, wrong / "draft.onnx", save_as_external_data=True, location="own.data", size_threshold=0)
    found = {check.what: check for check in checks_of(wrong, contents_of(wrong))}
    assert (found[blocks[0]].holds, found[blocks[1]].holds) == (True, False)
    assert int(found[blocks[1]].found) > 5
    assert found["data files that all graphs name"].found == "model.onnx.data, own.data"
    assert not found["data files that all graphs name"].holds
    assert not found["their bytes ÷ weights of all graphs, each once"].holds


@pytest.mark.parametrize("again", [False, True])
def test_the_halves_of_a_pair(tmp_path: Path, again: bool) -> None:
    """Both have the embedding; the second half has the first one's block where `again`."""
    tables = {"token_embd.weight": table(0), "blk.0.ffn_up.weight": table(1), "blk.1.ffn_down.weight": np.zeros(64)}
    write(tmp_path / "a.gguf", "first", "b.gguf", tables)
    rest = {"token_embd.weight": table(0), "blk.0.ffn_up.weight": table(1 if again else 2), "blk.1.x": np.zeros(64)}
    write(tmp_path / "b.gguf", "rest", "a.gguf", rest)
    contents = contents_of(tmp_path / "a.gguf")
    assert [(part.file, part.operators, part.blocks) for part in contents.parts] == [
        ("a.gguf", 3, {0: 1, 1: 1}),
        ("b.gguf", 3, {0: 1, 1: 1}),
    ]
    assert contents.weight_bytes == 4 * 64 * (3 if again else 4)  # zeros once, the embedding once
    (check,) = checks_of(tmp_path / "a.gguf", contents)
    assert (check.found, check.holds) == (("1", False) if again else ("0", True))


def table(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(64)


def write(file: Path, part: str, partner: str, tensors: dict[str, np.ndarray]) -> None:
    manifest = GgufManifest.model_validate(
        {
            "label": "draft-only",
            "part": part,
            "partner": partner,
            "exit_layer": 1,
            "precision": "fp32",
            "model": ModelRecord(
                source="x", name="x", family="llama", fingerprint="0" * 64, num_blocks=2, hidden_size=8, vocab_size=8
            ),
            "plan": PlanSummary(method="none", compensation="none", skip=[], num_blocks=2),
            "inputs": {},
            "versions": {},
            "created": "2026-01-01T00:00:00Z",
        }
    )
    writer = gguf.GGUFWriter(file, "deci")
    for key, value in manifest.to_metadata().items():
        writer.add_string(key, value)
    for name, values in tensors.items():
        writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
