"""The graphs of an early exit, run by plain sessions and chained by hand.

Oracles: transformers on the same checkpoint, cut at the exit by hooks, its exit state taken through map and head in
numpy; the graph of the whole model; and the onnx package's reading of what lies in the files.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from lowering import rounded, rounded_model, run_graph
from tiny_models import FAMILIES, tiny_checkpoint
from variants import SKIPPED, TOKENS, VARIANTS, Case, case_of, random_plan

from edgeskip.artifacts.manifest import DraftRecord
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.metrics import compare_logits as compare
from edgeskip.core.plan import Plan
from edgeskip.exporters.bake import bake
from edgeskip.exporters.draft import ChosenHead, ExitDraft, draft_head
from edgeskip.exporters.onnx.drafts import lower_early_exit
from edgeskip.exporters.onnx.formats import WeightFormat, weight_format
from edgeskip.exporters.onnx.lower import lower
from edgeskip.exporters.split import exit_plan
from edgeskip.models.source import ModelSource, open_model
from edgeskip.models.torch_reference.skipping import skipped
from edgeskip.profiles.exit_adapter import ExitAdapter

FP32 = WeightFormat("fp32")
KNOWN = np.arange(1, 320, 3)  # the tokens of a trimmed head
COUNT = len(TOKENS)


def exit_map(seed: int = 0) -> Any:
    """Near enough to the identity that logits stay of their size, far enough to be felt."""
    return (np.eye(64) + np.random.default_rng(seed).normal(scale=0.1, size=(64, 64))).astype(np.float32)


def lowered(
    source: ModelSource, plan: Plan, maps: dict[int, Any], tokens: Any, form: WeightFormat, folder: Path
) -> DraftRecord:
    """Exits after the layers of `maps`, None = the model's own head."""
    decoder = bake(source.decoder, plan)
    chosen = {
        n: ChosenHead() if found is None else ChosenHead("ridge", ExitAdapter(found)) for n, found in maps.items()
    }
    exits = [ExitDraft(layer, draft_head(decoder, found, tokens), chosen[layer]) for layer, found in maps.items()]
    folder.mkdir(exist_ok=True)
    return lower_early_exit(decoder, form, folder, exits)[1]


def chained(folder: Path, record: DraftRecord, **feeds: Any) -> tuple[list[Any], Any]:
    """Logits [n, V'] of every exit, and of the verifier at the end of the chain."""
    drafts, states = [], {"input_ids": TOKENS[None]}
    for found in record.exits:
        logits, after = run_graph(folder / found.file, ["logits", "exit_states"], COUNT, **states, **feeds)
        drafts.append(logits[0])
        states = {"hidden_states": after}
    (logits,) = run_graph(folder / str(record.verify), ["logits"], COUNT, **states, **feeds)
    return drafts, logits[0]


def expected(model: Any, plan: Plan, layer: int, mapped: Any, head: Any, tokens: Any, form: WeightFormat = FP32) -> Any:
    """What a draft's logits should be; `head` [V, d] as in the checkpoint, before anything is rounded."""
    states = {}
    hook = model.model.norm.register_forward_pre_hook(lambda _, args: states.update(exit=args[0][0]))
    with torch.inference_mode(), skipped(model, exit_plan(plan, layer)):
        normed = model.model(torch.from_numpy(TOKENS)[None]).last_hidden_state[0].numpy()
    hook.remove()
    if mapped is not None:
        x = states["exit"].numpy()
        normed = x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + model.config.rms_norm_eps)
    if tokens is not None:  # a matrix of its own, the map in it
        rows = head[tokens] if mapped is None else head[tokens] @ mapped
        return normed @ rounded(rows, form, 8).T
    if mapped is not None:
        normed = normed @ rounded(mapped, form, 8).T
    return normed @ rounded(head, form, form.head_bits).T


def head_of(source: ModelSource) -> Any:
    decoder = source.decoder
    return (decoder.head.weight if decoder.head else decoder.embedding).read()


@pytest.fixture(scope="module", params=VARIANTS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    family, overrides = VARIANTS[request.param]
    return case_of(tmp_path_factory.mktemp("case"), family, **overrides)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return case_of(tmp_path_factory.mktemp("llama"), "llama")


@pytest.mark.parametrize("tokens", [None, KNOWN], ids=["whole", "trimmed"])
@pytest.mark.parametrize("mapped", [False, True], ids=["plain", "map"])
@pytest.mark.parametrize("skip", [[], SKIPPED[1]], ids=["dense", "skipped"])
def test_drafts_and_the_rest(case: Case, skip: list[str], mapped: bool, tokens: Any, tmp_path: Path) -> None:
    """Two exits, the second through the model's own head; with the plan, the first exit stands before a skip."""
    plan, maps = case.plan(skip), {1: exit_map() if mapped else None, 3: None}
    record = lowered(case.source, plan, maps, tokens, FP32, tmp_path)
    drafts, verified = chained(tmp_path, record)
    for logits, (layer, found) in zip(drafts, maps.items(), strict=True):
        wanted = expected(case.oracle, plan, layer, found, head_of(case.source), tokens)
        np.testing.assert_allclose(logits, wanted, rtol=0, atol=1e-3)
    np.testing.assert_allclose(verified, case.expected(plan), rtol=0, atol=1e-3)
    (whole,) = run_graph(tmp_path / "model.onnx", ["logits"], COUNT, input_ids=TOKENS[None])
    np.testing.assert_allclose(verified, whole[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("tokens", [None, KNOWN], ids=["whole", "trimmed"])
@pytest.mark.parametrize("mapped", [False, True], ids=["plain", "map"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("precision", ["fp16", "int4"])
def test_lower_precisions(family: str, precision: str, mapped: bool, tokens: Any, tmp_path: Path) -> None:
    """Oracle: a model whose weights are what the stored ones stand for."""
    form = weight_format(precision, accuracy_level=1)
    source = open_model(str(tiny_checkpoint(family, tmp_path / "model")))
    model = rounded_model(family, form)
    if precision == "fp16":
        for parameter in model.parameters():
            parameter.data.copy_(parameter.data.half().float())
    plan, maps = Plan(4), {2: exit_map() if mapped else None}
    record = lowered(source, plan, maps, tokens, form, tmp_path / "artifact")
    (draft,), verified = chained(tmp_path / "artifact", record)
    wanted = expected(model, plan, 2, maps[2], head_of(source), tokens, form)
    with torch.inference_mode():
        whole = model(torch.from_numpy(TOKENS)[None]).logits[0].numpy()
    for logits, reference in ((draft, wanted), (verified, whole)):
        difference, kl, _ = compare(reference, logits.astype(np.float32))
        assert difference < (0.25 if precision == "fp16" else 1e-3)
        assert kl < 1e-3


def test_positions_that_are_asked_for(llama: Case, tmp_path: Path) -> None:
    """k = the last k, a large negative number = none; exit states of all positions whatever is asked."""
    record = lowered(llama.source, Plan(4), {2: None}, None, FP32, tmp_path)
    (every,), verified = chained(tmp_path, record)
    for kept, rows in ((1, 1), (5, 5), (-(2**31), 0)):
        (logits,), last = chained(tmp_path, record, logits_to_keep=np.array([kept]))
        np.testing.assert_allclose(logits, every[COUNT - rows :], rtol=0, atol=1e-5)
        np.testing.assert_allclose(last, verified[COUNT - rows :], rtol=0, atol=1e-4)


def test_inputs_and_outputs(llama: Case, tmp_path: Path) -> None:
    """Oracle: the onnx package's reading. Caches count from 0 in each graph; attn.1 is gone."""
    plan = random_plan(["attn.1"], "scale", num_blocks=4, hidden_size=64)
    record = lowered(llama.source, plan, {2: None, 3: None}, None, FP32, tmp_path)
    assert [(e.layer, e.file, e.num_kv_layers, e.head) for e in record.exits] == [
        (2, "draft.onnx", 1, "plain"),
        (3, "draft-3.onnx", 1, "plain"),
    ]
    assert (record.verify, record.verify_kv_layers, record.vocabulary) == ("verify.onnx", 1, None)
    common = {"attention_mask", "past_key_values.0.key", "past_key_values.0.value"}
    given = {"logits", "present.0.key", "present.0.value"}
    for file, source, states in (
        ("draft.onnx", "input_ids", {"exit_states"}),
        ("draft-3.onnx", "hidden_states", {"exit_states"}),
        ("verify.onnx", "hidden_states", set()),
    ):
        graph = onnx.load(tmp_path / file, load_external_data=False).graph
        assert {value.name for value in graph.input} == common | (
            {source, "position_ids"} if source == "input_ids" else {source}
        )
        assert {value.name for value in graph.output} == given | states
        assert graph.output[0].name == "logits"


def test_a_trimmed_heads_files(llama: Case, tmp_path: Path) -> None:
    """The ids of its rows, and a draft for other runtimes: the same logits, the lowest number for other tokens."""
    record = lowered(llama.source, Plan(4), {2: exit_map()}, KNOWN, FP32, tmp_path)
    assert record.vocabulary == "draft_tokens.npy"
    ids = np.load(tmp_path / "draft_tokens.npy")
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(ids, KNOWN)
    (draft,), _ = chained(tmp_path, record)
    (wide,) = run_graph(tmp_path / "draft-genai.onnx", ["logits"], COUNT, input_ids=TOKENS[None])
    np.testing.assert_allclose(wide[0][:, KNOWN], draft, rtol=0, atol=1e-5)
    others = np.setdiff1d(np.arange(320), KNOWN)
    assert (wide[0][:, others] == np.finfo(np.float32).min).all()


def external(path: Path) -> dict[str, tuple[int, int]]:
    """Name → (offset, length) of a graph's tensors in the data file."""
    found = {}
    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        entry = {pair.key: pair.value for pair in tensor.external_data}
        if entry:
            assert entry["location"] == "model.onnx.data"
            found[tensor.name] = int(entry["offset"]), int(entry["length"])
    return found


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int4"])
def test_nothing_is_computed_or_stored_twice(precision: str, tied: bool, tmp_path: Path) -> None:
    """Oracle: operators and bytes, counted by the onnx package. The verifier has nothing of blocks 0 and 1 but the
    tied head's matrix; every byte of the data file is of one tensor or of the padding between them; besides a dense
    artifact's weights there are the map alone, and with a trimmed head that head."""
    form = weight_format(precision)
    source = open_model(str(tiny_checkpoint("llama", tmp_path / "model", tie_word_embeddings=tied)))
    (tmp_path / "dense").mkdir()
    lower(source.decoder, form, tmp_path / "dense")
    dense = (tmp_path / "dense" / "model.onnx.data").stat().st_size
    value = {"fp32": 4, "fp16": 2, "int4": 1}[precision]  # bytes of a number in a draft's own matrix
    for name, tokens in (("whole", None), ("trimmed", KNOWN)):
        folder = tmp_path / name
        lowered(source, Plan(4), {2: exit_map()}, tokens, form, folder)
        graphs = {path.name: onnx.load(path, load_external_data=False).graph for path in folder.glob("*.onnx")}
        verify = [node.name for node in graphs["verify.onnx"].node] + [
            t.name for t in graphs["verify.onnx"].initializer
        ]
        assert any(name.startswith("attn.2") for name in verify)
        assert not [name for name in verify if name.startswith(("attn.0", "ffn.0", "attn.1", "ffn.1", "exit"))]
        assert {name for name in verify if name.startswith("embedding")} <= (
            {"embedding.weight", "embedding.scales", "embedding.zero_points"} if tied else set()
        )
        assert not [node for node in graphs["verify.onnx"].node if node.op_type.startswith("Gather")]
        drafted = [node.name for node in graphs["draft.onnx"].node]
        assert not [name for name in drafted if name.startswith(("attn.2", "ffn.2", "attn.3", "ffn.3"))]
        # Each name is the same bytes in every graph, and no two ranges overlap but by being the same.
        found: dict[str, tuple[int, int]] = {}
        for file in graphs:
            for tensor, where in external(folder / file).items():
                assert found.setdefault(tensor, where) == where
        ranges = sorted(set(found.values()))
        size = (folder / "model.onnx.data").stat().st_size
        assert all(
            end <= start
            for (_, end), (start, _) in zip(
                [(offset, offset + length) for offset, length in ranges], ranges[1:], strict=False
            )
        )
        padding = size - sum(length for _, length in ranges)
        assert 0 <= padding < 64 * len(ranges)
        extra = 64 * 64 * value
        if tokens is not None:
            extra = len(tokens) * 64 * value + 320 * 4  # rows, and the column of each token for other runtimes
        grid = len(tokens) * 5 if precision == "int4" and tokens is not None else 64 * 5 if precision == "int4" else 0
        norm = 64 * 4
        assert extra <= size - dense <= extra + grid + norm + 64 * 8


def test_an_exit_between_skipped_sublayers(llama: Case, tmp_path: Path) -> None:
    """Whole blocks after the exit are gone: eps and bias at the exit are those of the stream that the rest reads."""
    plan = llama.plan(["attn.2", "ffn.2"])
    wide = case_of(tmp_path / "wide", "llama", rms_norm_eps=0.3)  # so that a wrong eps is felt
    record = lowered(wide.source, plan, {2: exit_map()}, None, FP32, tmp_path / "artifact")
    (draft,), verified = chained(tmp_path / "artifact", record)
    wanted = expected(wide.oracle, plan, 2, exit_map(), head_of(wide.source), None)
    np.testing.assert_allclose(draft, wanted, rtol=0, atol=1e-3)
    np.testing.assert_allclose(verified, wide.expected(plan), rtol=0, atol=1e-3)


def test_a_part_without_a_sublayer(llama: Case, tmp_path: Path) -> None:
    plan = llama.plan(["attn.1", "ffn.1"], "none")
    with pytest.raises(EdgeSkipError, match="every sublayer between the exit layers: choose another --exit-layer"):
        lowered(llama.source, plan, {1: None, 2: None}, None, FP32, tmp_path)
    assert not list(tmp_path.glob("*.onnx*"))


def test_one_head_for_all_plain_exits(llama: Case, tmp_path: Path) -> None:
    """A trimmed head without a map is the same matrix at every exit, so it is stored once."""
    sizes = []
    for maps in ({2: None}, {2: None, 3: None}):
        lowered(llama.source, Plan(4), maps, KNOWN, replace(FP32), tmp_path)
        sizes.append((tmp_path / "model.onnx.data").stat().st_size)
    assert sizes[0] == sizes[1]
