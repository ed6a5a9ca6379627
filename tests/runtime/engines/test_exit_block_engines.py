"""Engines over drafts with a trained block of their own, whose cache has to follow every step, draft and rollback.
Oracle: a second engine over the same artifact that drafts the same tokens from an empty cache, one by one."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
from drafting_artifacts import NOTHING, random_walk
from exit_adapters import adapted_profile, random_adapter
from exports import export_gguf, export_onnx
from tiny_models import tiny_checkpoint

from edgeskip.exporters.gguf.formats import gguf_format
from edgeskip.exporters.onnx.formats import weight_format
from edgeskip.exporters.options import DraftRequest, ExportPolicy
from edgeskip.models.source import open_model
from edgeskip.runtime.engines.interface import DraftingEngine, Engine
from edgeskip.runtime.loader import open_artifact

UNCHECKED = ExportPolicy(check=False)
TOKENS = np.random.default_rng(3).integers(2, 300, 60)
Both = tuple[DraftingEngine, DraftingEngine, Engine]


@pytest.fixture(scope="module", params=["onnx", "onnx, trimmed", "gguf", "gguf, trimmed"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    """Two engines over one artifact that drafts, and the dense model alone."""
    folder = tmp_path_factory.mktemp("artifact")
    source = open_model(str(tiny_checkpoint("llama", folder / "model")))
    profile, vectors = adapted_profile(source, folder / "p.json", {2: random_adapter(source, "block")})
    draft = DraftRequest("early-exit", (2,), 40 if "trimmed" in request.param else None)
    out = folder / "out"
    path = dense = out
    if request.param.startswith("onnx"):
        export_onnx(source, profile, vectors, weight_format("fp32"), out, draft=draft, policy=UNCHECKED)
    else:
        out.mkdir()
        form = gguf_format("f32", None)
        path = export_gguf(source, profile, vectors, form, out, draft=draft, policy=UNCHECKED)[0].path
        dense = export_gguf(source, profile, vectors, form, folder / "dense.gguf", policy=UNCHECKED)[0].path

    def open_one() -> DraftingEngine:
        return cast(DraftingEngine, open_artifact(path, threads=1).engine)

    return open_one(), open_one(), open_artifact(dense, threads=1, alone=True).engine


@pytest.mark.parametrize("seed", range(3))
def test_the_whole_model_stands_through_any_walk(both: Both, seed: int) -> None:
    random_walk(both[0], both[2], TOKENS, seed)


@pytest.mark.parametrize("seed", range(4))
def test_drafts_after_any_walk(both: Both, seed: int) -> None:
    engine, fresh, _ = both
    rng = np.random.default_rng(seed)
    engine.truncate(0)
    for _ in range(12):
        position = engine.length
        new = TOKENS[position : position + int(rng.integers(1, 6))]
        move = rng.choice(["draft", "step", "verify", "truncate"])
        if move == "truncate" or len(new) < 2:
            engine.truncate(max(0, position - 3))
        elif move == "draft":
            engine.draft(new)
        elif move == "step":
            engine.step(new)
        else:
            engine.draft(new[:1])
            engine.verify(NOTHING if len(new) % 2 else new[1:])
    engine.truncate(min(engine.length, len(TOKENS) - 1))
    length = engine.length
    found = engine.draft(TOKENS[length : length + 1])
    fresh.truncate(0)
    for position in range(length + 1):
        expected = fresh.draft(TOKENS[position : position + 1])
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.02)
