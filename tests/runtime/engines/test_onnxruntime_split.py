"""The chain of graphs cut at the exits. Oracles: the dense engine over the same artifact's `model.onnx` for everything
verified, transformers' hidden states through norm, map and head for the drafts."""

from __future__ import annotations

import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drafting_artifacts import NOTHING, Tokens, early_exit_artifact, random_walk, rows_of
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import VOCAB_SIZE, tiny_checkpoint

from edgeskip.artifacts.manifest import Manifest
from edgeskip.artifacts.path_errors import MANIFEST_NAME
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import sha256_of
from edgeskip.exporters.onnx.formats import WeightFormat
from edgeskip.models.source import open_model
from edgeskip.runtime.engines.interface import DraftingEngine
from edgeskip.runtime.engines.onnxruntime.engine import OnnxRuntimeEngine
from edgeskip.runtime.engines.onnxruntime.graph import GraphRunner
from edgeskip.runtime.engines.onnxruntime.split import OnnxRuntimeSplitEngine
from edgeskip.runtime.loader import open_artifact

BLOCKS, LAYERS = 6, (1, 3, 4)
TOKENS = np.random.default_rng(1).integers(2, VOCAB_SIZE, 512)
TRIMMED = np.array([1, 5, 6, 17, 100, 101, 250, 319])


@dataclass(frozen=True)
class Case:
    folder: Path
    manifest: Manifest
    dense: OnnxRuntimeEngine
    split: OnnxRuntimeSplitEngine


def case_of(folder: Path, manifest: Manifest) -> Case:
    return Case(
        folder,
        manifest,
        OnnxRuntimeEngine(folder, manifest, threads=1),
        OnnxRuntimeSplitEngine(folder, manifest, threads=1),
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("llama", tmp_path_factory.mktemp("model"), num_hidden_layers=BLOCKS)


@pytest.fixture(scope="module")
def maps() -> list[Any]:
    rng = np.random.default_rng(3)
    return [rng.normal(scale=0.2, size=(64, 64)).astype(np.float32) for _ in LAYERS]


@pytest.fixture(scope="module", params=["one exit", "three exits", "three maps, trimmed"])
def case(request: pytest.FixtureRequest, checkpoint: Path, maps: list[Any], tmp_path_factory: Any) -> Case:
    folder, source = tmp_path_factory.mktemp("artifact"), open_model(str(checkpoint))
    if request.param == "one exit":
        return case_of(folder, early_exit_artifact(source, folder, [2]))
    if request.param == "three exits":
        return case_of(folder, early_exit_artifact(source, folder, LAYERS))
    return case_of(folder, early_exit_artifact(source, folder, LAYERS, maps=maps, tokens=TRIMMED))


@pytest.fixture(scope="module")
def three(checkpoint: Path, tmp_path_factory: Any) -> Case:
    folder = tmp_path_factory.mktemp("three")
    return case_of(folder, early_exit_artifact(open_model(str(checkpoint)), folder, LAYERS))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_random_calls(case: Case, seed: int) -> None:
    """Oracle: the dense engine, for each row that the whole model gives, and counting by hand."""
    random_walk(case.split, case.dense, TOKENS, seed)


def test_drafts_are_the_exits_of_transformers(checkpoint: Path, maps: list[Any], tmp_path: Path) -> None:
    """Oracle: transformers' hidden state after E blocks, RMS-normalized, through the map and the tied head's rows;
    the deeper drafts run over what the shallower ones left."""
    from transformers import AutoModelForCausalLM

    oracle = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    with torch.inference_mode():
        hidden = oracle(torch.from_numpy(TOKENS[:30])[None], output_hidden_states=True).hidden_states
        heads = oracle.lm_head.weight.numpy()
        weight, eps = oracle.model.norm.weight.numpy(), oracle.config.rms_norm_eps
    source = open_model(str(checkpoint))
    for number, (matrices, rows) in enumerate([(None, None), (maps, None), (None, TRIMMED), (maps, TRIMMED)]):
        folder = tmp_path / str(number)
        split = case_of(folder, early_exit_artifact(source, folder, LAYERS, maps=matrices, tokens=rows)).split
        assert split.drafts == 3
        np.testing.assert_array_equal(split.draft_tokens, rows)
        split.step(TOKENS[:20])
        for position, which in zip(range(20, 30), (0, 1, 0, 0, 2, 1, 0, 2, 2, 0), strict=True):
            state = hidden[LAYERS[which]][0, position].numpy()
            normed = state / np.sqrt((state**2).mean() + eps)
            normed = normed * weight if matrices is None else matrices[which] @ normed
            expected = (heads if rows is None else heads[rows]) @ normed
            found = split.draft(TOKENS[position : position + 1], which=which)
            np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-4)
        assert (split.length, split.drafted) == (30, 10)


def test_nothing_is_computed_twice(three: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: the positions that each graph runs, and the logits asked of it, in a prefill, a round and a step."""
    split, runs = three.split, []
    real = GraphRunner._run

    def run(self: GraphRunner, count: int, kept: int, states: Any) -> Any:
        runs.append((self._shape.file, count, kept))
        return real(self, count, kept, states)

    monkeypatch.setattr(GraphRunner, "_run", run)
    split.truncate(0)
    split.step(TOKENS[:20])
    assert runs == [("draft.onnx", 20, 0), ("draft-3.onnx", 20, 0), ("draft-4.onnx", 20, 0), ("verify.onnx", 20, 1)]
    runs.clear()
    for position, which in ((20, 0), (21, 1), (22, 0)):
        split.draft(TOKENS[position : position + 1], which=which)
    split.verify(TOKENS[23:24])
    split.truncate(22)
    split.step(TOKENS[22:23])
    assert runs == [
        ("draft.onnx", 1, 1),
        ("draft.onnx", 1, 0),
        ("draft-3.onnx", 2, 1),
        ("draft.onnx", 1, 1),
        ("draft.onnx", 1, 0),
        ("draft-3.onnx", 2, 0),
        ("draft-4.onnx", 4, 0),
        ("verify.onnx", 4, 4),
        *((file, 1, file == "verify.onnx") for file in ("draft.onnx", "draft-3.onnx", "draft-4.onnx", "verify.onnx")),
    ]


def test_the_caches_grow_and_the_context_fills(three: Case) -> None:
    """Oracle: the dense engine at the end of a full context of 512; drafts wait while the room for exit states grows
    from 64 rows, and the caches from 256 tokens."""
    split, dense = OnnxRuntimeSplitEngine(three.folder, three.manifest, threads=1), three.dense
    expected = rows_of(dense, TOKENS)
    for start, end in ((0, 150), (150, 300)):
        for position in range(start, end):
            split.draft(TOKENS[position : position + 1], which=position % 2)
        np.testing.assert_allclose(split.verify(NOTHING), expected[start:end], rtol=0, atol=1e-4)
    split.draft(TOKENS[300:511])
    with pytest.raises(EdgeSkipError, match=r"context is full: 511 \+ 2 tokens, the model holds 512"):
        split.draft(TOKENS[:2])
    with pytest.raises(EdgeSkipError, match="context"):
        split.reserve(513)
    np.testing.assert_allclose(split.verify(TOKENS[511:]), expected[300:], rtol=0, atol=1e-4)
    with pytest.raises(EdgeSkipError, match="context"):
        split.step(TOKENS[:1])


def test_reserved_engines_allocate_nothing(three: Case) -> None:
    """By hand: the caches' memory is the same before and after 300 tokens."""
    split = OnnxRuntimeSplitEngine(three.folder, three.manifest, threads=1)
    split.reserve(300)
    caches = [buffer.ctypes.data for graph in split._graphs for buffer in graph._cache.values()]
    split.step(TOKENS[:300])
    assert [buffer.ctypes.data for graph in split._graphs for buffer in graph._cache.values()] == caches
    assert len(caches) == 2 * BLOCKS


def test_an_interrupt_between_graphs_is_as_if_it_had_not_been_called(
    three: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the dense engine over the tokens that remained, for an interrupt before each graph of a step or draft."""
    split, dense = three.split, three.dense
    real = GraphRunner._run
    for stop in range(8):
        left = [stop]

        def run(self: GraphRunner, count: int, kept: int, states: Any, left: list[int] = left) -> Any:
            if left[0] == 0:
                signal.raise_signal(signal.SIGINT)
            left[0] -= 1
            return real(self, count, kept, states)

        split.truncate(0)
        split.step(TOKENS[:10])
        split.draft(TOKENS[10:12], which=1)
        monkeypatch.setattr(GraphRunner, "_run", run)
        with pytest.raises(KeyboardInterrupt):
            draft_and_verify(split)
        monkeypatch.setattr(GraphRunner, "_run", real)
        # Three graphs of a draft, then the four of a verify: what was drafted before the interrupt stays.
        length = 15 if 3 <= stop < 7 else 12
        assert (split.length, split.drafted) == (length, length - (12 if stop == 7 else 10))
        found = split.verify(TOKENS[60:63])
        expected = rows_of(dense, np.concatenate([TOKENS[:length], TOKENS[60:63]]))
        np.testing.assert_allclose(found, expected[-len(found) :], rtol=0, atol=1e-4)


def draft_and_verify(split: OnnxRuntimeSplitEngine) -> None:
    """Two rounds of seven runs; the second one begins with what the first one left."""
    for _ in range(2):
        split.draft(TOKENS[12:15], which=2)
        split.verify(TOKENS[15:16])
        split.truncate(12)


def test_what_cannot_be_asked(three: Case) -> None:
    """By hand: an exit that is not there, nothing to verify, another model's token, more than is held."""
    split = three.split
    split.truncate(0)
    with pytest.raises(ValueError, match="no draft 3: the artifact has 3"):
        split.draft(TOKENS[:1], which=3)
    with pytest.raises(ValueError, match="nothing to verify"):
        split.verify(NOTHING)
    for ask in (split.step, split.draft, split.verify):
        with pytest.raises(EdgeSkipError, match="token ids"):
            ask(np.array([VOCAB_SIZE]))
    with pytest.raises(ValueError, match="truncate"):
        split.truncate(1)
    assert (split.length, split.drafted) == (0, 0)


def test_half_precision_states(checkpoint: Path, tmp_path: Path) -> None:
    """Oracle: the dense fp16 graph, whose rounding decides the bound; logits are float32 all the same."""
    manifest = early_exit_artifact(open_model(str(checkpoint)), tmp_path, LAYERS, form=WeightFormat("fp16"))
    case = case_of(tmp_path, manifest)
    assert manifest.graph.kv_dtype == "float16"
    case.split.step(TOKENS[:20])
    case.split.draft(TOKENS[20:22])
    drafted = case.split.draft(TOKENS[22:23], which=2)
    assert drafted.dtype == np.float32
    found = case.split.verify(TOKENS[23:24])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, rows_of(case.dense, TOKENS[:24])[20:], rtol=0, atol=0.1)


def test_an_early_exit_folder_opens_as_an_engine_that_drafts(three: Case, checkpoint: Path, tmp_path: Path) -> None:
    """By hand: the engine by the manifest; `alone` is the whole model's graph as other runtimes see it."""
    folder = copy_of(three, tmp_path)
    shutil.copytree(checkpoint, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors"))
    opened = open_artifact(folder, threads=1)
    assert isinstance(opened.engine, DraftingEngine)
    assert isinstance(opened.engine, OnnxRuntimeSplitEngine)
    assert opened.label == "dense"
    alone = open_artifact(folder, threads=1, alone=True).engine
    assert isinstance(alone, OnnxRuntimeEngine)
    assert not isinstance(alone, DraftingEngine)


def copy_of(case: Case, folder: Path) -> Path:
    folder = Path(shutil.copytree(case.folder, folder / "copy"))
    (folder / MANIFEST_NAME).write_text(case.manifest.model_dump_json(), encoding="utf-8")
    return folder


@pytest.mark.parametrize("file", ["draft.onnx", "draft-3.onnx", "verify.onnx"])
def test_a_missing_or_damaged_graph_is_one_line(three: Case, tmp_path: Path, file: str) -> None:
    """By hand: each graph of the chain cut short, cut short with the manifest's blessing, and missing."""
    folder = copy_of(three, tmp_path)

    def refusal(manifest: Manifest) -> str:
        with pytest.raises(EdgeSkipError) as caught:
            OnnxRuntimeSplitEngine(folder, manifest)
        assert "\n" not in str(caught.value)
        assert str(folder / file) in str(caught.value)
        return str(caught.value)

    (folder / file).write_bytes((folder / file).read_bytes()[:-20])
    assert "sha256 differs" in refusal(three.manifest)
    files = three.manifest.files | {file: sha256_of(folder / file)}
    assert "this ONNX model is cut off" in refusal(three.manifest.model_copy(update={"files": files}))
    (folder / file).unlink()
    assert "is missing: export again" in refusal(three.manifest)


def test_graphs_that_are_not_the_manifests_are_one_line(three: Case, tmp_path: Path) -> None:
    """By hand: graphs in another order, another share of the caches, a graph left out, other sizes."""
    record, model = three.manifest.draft, three.manifest.model
    assert record is not None
    folder = copy_of(three, tmp_path)
    np.save(folder / "ids.npy", TRIMMED.astype(np.int32))
    swapped = [record.exits[1], record.exits[0], record.exits[2]]
    moved = [record.exits[0].model_copy(update={"num_kv_layers": 0}), record.exits[1], record.exits[2]]
    mismatches: list[dict[str, object]] = [
        {"draft": record.model_copy(update={"exits": swapped})},
        {"draft": record.model_copy(update={"exits": moved, "verify_kv_layers": 3})},
        {"draft": record.model_copy(update={"verify": "model.onnx"})},
        {"draft": record.model_copy(update={"vocabulary": "ids.npy"})},
        {"model": model.model_copy(update={"hidden_size": 32})},
    ]
    for changes in mismatches:
        with pytest.raises(EdgeSkipError, match=r"^[\w.-]+ has other inputs and outputs than its manifest describes"):
            OnnxRuntimeSplitEngine(folder, three.manifest.model_copy(update=changes))
    for part in ({"exits": record.exits[:1]}, {"verify_kv_layers": 3}):
        manifest = three.manifest.model_copy(update={"draft": record.model_copy(update=part)})
        with pytest.raises(EdgeSkipError, match="the graphs that draft and verify are not the whole model"):
            OnnxRuntimeSplitEngine(folder, manifest)
    for changes in ({"draft": None}, {"draft": record.model_copy(update={"verify": None})}):
        with pytest.raises(
            EdgeSkipError, match=r"no early-exit draft: export it with  edgeskip export --draft early-exit$"
        ):
            OnnxRuntimeSplitEngine(folder, three.manifest.model_copy(update=changes))


def test_a_damaged_draft_vocabulary_is_one_line(three: Case, tmp_path: Path) -> None:
    """By hand: missing, another's, no array, an array of objects, ids that are none of this model's."""
    folder, record = copy_of(three, tmp_path), three.manifest.draft
    assert record is not None
    manifest = three.manifest.model_copy(update={"draft": record.model_copy(update={"vocabulary": "ids.npy"})})
    path = folder / "ids.npy"

    def refusal(manifest: Manifest = manifest) -> str:
        with pytest.raises(EdgeSkipError) as caught:
            OnnxRuntimeSplitEngine(folder, manifest)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "ids.npy is missing" in refusal()
    path.write_bytes(b"")
    assert "ids.npy is damaged" in refusal()
    ids: list[Tokens] = [TOKENS.reshape(2, -1), TRIMMED.astype(float), NOTHING, np.array([VOCAB_SIZE]), np.array([-1])]
    for wrong in ids:
        np.save(path, wrong)
        assert "not a list of this model's token ids" in refusal()
    np.save(path, np.array([object()]), allow_pickle=True)
    assert "ids.npy is damaged" in refusal()
    files = three.manifest.files | {"ids.npy": "0" * 64}
    assert "sha256 differs" in refusal(manifest.model_copy(update={"files": files}))
