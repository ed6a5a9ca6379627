"""Export to GGUF as a whole, in this process. Oracles: the folder's listing, llama.cpp on the finished files, the gguf
package's reader, transformers under the same plan, and files that are wrong because the test made them so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from exports import export_gguf, refuse_gguf
from gguf_exports import CHECKED, UNCHECKED, early, engine_over, kinds_of, profile_of
from talking_gguf import talking_gguf
from tiny_gguf import Kind
from tiny_models import tiny_checkpoint
from variants import in_one_prefill, in_steps, torch_logits

import edgeskip.exporters.gguf.blocks as blocks_module
import edgeskip.exporters.gguf.check as check_module
import edgeskip.exporters.gguf.output_plan as outputs_module
import edgeskip.exporters.gguf.target as target_module
import edgeskip.exporters.gguf.tensors as tensors_module
from edgeskip.artifacts.gguf.header import read_gguf_header
from edgeskip.artifacts.gguf.manifest import VERIFICATION_KEY, read_gguf_manifest
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.metrics import compare_logits as compare
from edgeskip.core.plan import Plan, Skip
from edgeskip.core.sublayers import sublayers_of
from edgeskip.exporters.gguf.check import bound_of
from edgeskip.exporters.gguf.formats import gguf_format
from edgeskip.exporters.job import ExportResult
from edgeskip.exporters.options import ExportPolicy
from edgeskip.exporters.verify import Bound
from edgeskip.models.decoder import Decoder
from edgeskip.models.source import ModelSource, open_model
from edgeskip.models.torch_reference.load import load_torch_model
from edgeskip.models.torch_reference.skipping import skipped
from edgeskip.planning.planner import resolve
from edgeskip.runtime.engines.llamacpp.split import LlamaCppSplitEngine

SKIP = ("attn.0", "ffn.1", "attn.2")


@pytest.fixture
def source(tiny_llama: Path) -> ModelSource:
    return open_model(str(tiny_llama))


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    return open_model(str(tiny_checkpoint("qwen3", tmp_path_factory.mktemp("models") / "tiny-qwen3")))


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    """A Q4_1 GGUF whose head is its embedding."""
    path, _ = talking_gguf(tmp_path_factory.mktemp("models") / "tiny-llama.Q4_1.gguf", kind=Kind.Q4_1)
    return open_model(str(path))


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    """A folder for outputs; nothing else may be in it in the end."""
    folder = tmp_path / "out"
    folder.mkdir()
    yield folder
    assert {path.suffix for path in folder.iterdir()} <= {".gguf"}


def export(
    source: ModelSource,
    out: Path,
    precision: str = "f32",
    *,
    skip: tuple[str, ...] = (),
    compensation: Any = "affine",
    exit_layer: int | None = None,
    policy: ExportPolicy = CHECKED,
) -> list[ExportResult]:
    profile, vectors = profile_of(source, skip, compensation)
    form = gguf_format(precision, source.checkpoint.gguf)
    return export_gguf(source, profile, vectors, form, out, draft=early(exit_layer), policy=policy)


def plan_of(source: ModelSource, skip: tuple[str, ...], compensation: Any = "affine") -> Plan:
    return resolve(*profile_of(source, skip, compensation))


def expected_logits(source: ModelSource, plan: Plan) -> Any:
    model = load_torch_model(source)
    with torch.inference_mode(), skipped(model, plan):
        return torch_logits(model)


@pytest.mark.parametrize(
    ("skip", "exit_layer"), [((), None), (SKIP, None), ((), 2), (SKIP, 2)], ids=["dense", "skipped", "pair", "both"]
)
def test_files_say_what_they_are(source: ModelSource, out: Path, skip: tuple[str, ...], exit_layer: int | None) -> None:
    """The manifest in the file, read back, is the one that was returned, the check's record with it."""
    files = export(source, out, "f16", skip=skip, exit_layer=exit_layer)
    method = "explicit3-" if skip else ""
    names = (
        [f"tiny-llama-{method}F16.gguf"]
        if exit_layer is None
        else [f"tiny-llama-{method}exit2-F16.gguf", f"tiny-llama-{method}exit2-rest-F16.gguf"]
    )
    assert [file.path for file in files] == [out / name for name in names]
    assert {path.name for path in out.iterdir()} == set(names)
    label = "lossy-skip" if skip else "dense"
    for file, part, partner in zip(files, ("first", "rest"), names[::-1], strict=False):
        header = read_gguf_header(file.path)
        assert header.metadata["general.architecture"] == file.architecture
        manifest = read_gguf_manifest(header.metadata, "x")
        assert manifest == file.manifest
        assert manifest.verification is not None
        assert manifest.verification.passed
        assert manifest.verification.kl_divergence < 1e-4
        assert manifest.verification.tokens == 256
        assert manifest.verification.bound == "KL ≤ 0.001 nats per token"
        assert manifest.pair_label == label
        assert (manifest.precision, manifest.plan.skip) == ("F16", list(skip))
        assert manifest.plan.compensation == ("affine" if skip else "none")
        assert manifest.inputs["model"] == source.fingerprint == manifest.model.fingerprint
        assert set(manifest.versions) >= {"edgeskip", "python", "gguf", "torch", "transformers"}
        if exit_layer is None:
            assert (manifest.label, manifest.part, manifest.partner, manifest.exit_layer) == (
                label,
                "whole",
                None,
                None,
            )
        else:
            assert (manifest.part, manifest.partner, manifest.exit_layer) == (part, partner, 2)
            assert manifest.label == ("draft-only" if part == "first" else label)


def test_a_family_without_a_stub_gives_a_draft_alone(qwen3: ModelSource, out: Path) -> None:
    """Its manifest promises no partner. Oracle: transformers with every later sublayer skipped."""
    (file,) = export(qwen3, out, skip=("attn.0", "ffn.0"), compensation="scale", exit_layer=2)
    assert [path.name for path in out.iterdir()] == ["tiny-qwen3-explicit2-exit2-F32.gguf"]
    manifest = file.manifest
    assert (file.architecture, manifest.label, manifest.part) == ("qwen3", "draft-only", "first")
    assert (manifest.partner, manifest.exit_layer) == (None, 2)
    assert manifest.verification is not None
    assert manifest.verification.passed
    early = plan_of(qwen3, ("attn.0", "ffn.0"), "scale").skips
    late = tuple(Skip(sublayer) for sublayer in sublayers_of(4) if sublayer.block >= 2)
    expected = expected_logits(qwen3, Plan(4, early + late))
    assert compare(expected, in_one_prefill(engine_over(file.path)))[1] < 1e-4
    assert compare(expected, expected_logits(qwen3, Plan(4, early)))[1] > 0.1


@pytest.mark.parametrize("skip", [(), ("attn.0", "ffn.1", "ffn.2")], ids=["dense", "skipped"])
def test_the_first_part_is_a_draft_of_its_own(source: ModelSource, out: Path, skip: tuple[str, ...]) -> None:
    """In llama.cpp alone, as any program would load it. Oracle: transformers with every later sublayer skipped."""
    first, _ = export(source, out, skip=skip, exit_layer=2, policy=UNCHECKED)
    early = [s for s in plan_of(source, skip).skips if s.sublayer.block < 2]
    late = [Skip(sublayer) for sublayer in sublayers_of(4) if sublayer.block >= 2]
    expected = expected_logits(source, Plan(4, (*early, *late)))
    for logits in (in_one_prefill(engine_over(first.path)), in_steps(engine_over(first.path))):
        assert compare(expected, logits)[0] < 0.05


@pytest.mark.parametrize("precision", ["f16", "q4_0"])
@pytest.mark.parametrize("skip", [(), SKIP, ("attn.1", "ffn.1", "attn.2", "ffn.3")], ids=["dense", "skipped", "cut"])
def test_a_pair_is_the_whole_to_the_bit(source: ModelSource, out: Path, precision: str, skip: tuple[str, ...]) -> None:
    """Oracle: the whole file in the same llama.cpp. "cut": sublayers are skipped on both sides of the exit layer."""
    (whole,) = export(source, out, precision, skip=skip, policy=UNCHECKED)
    first, rest = export(source, out, precision, skip=skip, exit_layer=2, policy=UNCHECKED)
    pair = LlamaCppSplitEngine(first.path, rest.path, threads=1)
    engine = engine_over(whole.path)
    np.testing.assert_array_equal(in_one_prefill(pair), in_one_prefill(engine))
    np.testing.assert_array_equal(in_steps(pair), in_steps(engine))


@pytest.mark.parametrize("untied", [False, True])
def test_a_kept_pair_is_the_whole_to_the_bit(tmp_path: Path, out: Path, untied: bool) -> None:
    path, _ = talking_gguf(tmp_path / "m.gguf", kind=Kind.Q5_1, tie_word_embeddings=not untied)
    source = open_model(str(path))
    (whole,) = export(source, out, "keep", skip=SKIP, policy=UNCHECKED)
    first, rest = export(source, out, "keep", skip=SKIP, exit_layer=1, policy=UNCHECKED)
    pair = LlamaCppSplitEngine(first.path, rest.path, threads=1)
    np.testing.assert_array_equal(in_one_prefill(pair), in_one_prefill(engine_over(whole.path)))


@pytest.mark.parametrize(
    ("precision", "body", "head", "file_type"),
    [
        ("f32", "F32", "F32", 0),
        ("f16", "F16", "F16", 1),
        ("bf16", "BF16", "BF16", 32),
        ("q8_0", "Q8_0", "Q8_0", 7),
        ("q4_0", "Q4_0", "Q8_0", 2),
        ("q5_1", "Q5_1", "Q8_0", 9),
    ],
)
def test_precisions(source: ModelSource, out: Path, precision: str, body: str, head: str, file_type: int) -> None:
    """Every matrix has the type, the head eight bits at least; the check passes within what rounding may do."""
    (file,) = export(source, out, precision, skip=("ffn.1", "attn.2"))
    kinds = kinds_of(file.path)
    assert kinds.pop("token_embd.weight") == head
    assert {name for name, kind in kinds.items() if kind == "F32"} >= {name for name in kinds if "norm" in name}
    matrices = {kind for name, kind in kinds.items() if "norm" not in name and not name.endswith(".bias")}
    assert matrices == {body}
    assert read_gguf_header(file.path).metadata["general.file_type"] == file_type
    record = file.manifest.verification
    assert record is not None
    assert record.passed
    assert record.widened_kl_divergence is None


@pytest.mark.parametrize("exit_layer", [None, 2])
def test_llamacpps_mixtures(out: Path, tmp_path: Path, exit_layer: int | None) -> None:
    """Made by llama.cpp's own quantizer: its types, our metadata, and nothing of the F16 file left."""
    model = tiny_checkpoint("llama", tmp_path / "m", hidden_size=256, intermediate_size=256, num_hidden_layers=4)
    files = export(open_model(str(model)), out, "q4_k_m", skip=SKIP, exit_layer=exit_layer)
    assert len(list(out.iterdir())) == len(files) == (1 if exit_layer is None else 2)
    for file in files:
        kinds = kinds_of(file.path)
        assert "Q4_K" in kinds.values()
        assert kinds["token_embd.weight"] == "Q6_K"
        metadata = read_gguf_header(file.path).metadata
        assert metadata["general.file_type"] == 15
        assert read_gguf_manifest(metadata, "x") == file.manifest
        assert "llama-cpp-python" in file.manifest.versions
        assert file.manifest.verification is not None


@pytest.mark.parametrize("kind", ["F32", "BF16", "Q8_0", "Q4_0", "Q4_1"])
def test_kept_blocks(kind: str, tmp_path: Path, out: Path) -> None:
    """Dense: every tensor's bytes are the model's. Skipped: those of every tensor that is not folded into are."""
    path, _ = talking_gguf(tmp_path / f"m.{kind}.gguf", kind=Kind[kind])
    source = open_model(str(path))
    before = {tensor.name: (tensor.tensor_type, tensor.data.tobytes()) for tensor in gguf.GGUFReader(path).tensors}
    (dense,) = export(source, out, "keep", policy=UNCHECKED)
    assert dense.path.name == f"m-{kind}.gguf"
    after = {tensor.name: (tensor.tensor_type, tensor.data.tobytes()) for tensor in gguf.GGUFReader(dense.path).tensors}
    assert after == before
    np.testing.assert_array_equal(in_one_prefill(engine_over(dense.path)), in_one_prefill(engine_over(path)))

    (file,) = export(source, out, "keep", skip=("attn.1", "ffn.1"), compensation="scale")
    assert file.architecture == "llama"
    for tensor in gguf.GGUFReader(file.path).tensors:
        block = int(tensor.name.split(".")[1]) if tensor.name.startswith("blk.") else 0
        name = tensor.name if block == 0 else tensor.name.replace(f"blk.{block}", f"blk.{block + 1}")
        folded = block > 0 and ("attn_output" in name or "ffn_down" in name)
        assert tensor.tensor_type == before[name][0]
        assert (tensor.data.tobytes() == before[name][1]) != folded
    record = file.manifest.verification
    assert record is not None
    assert record.passed
    assert record.widened_kl_divergence is not None
    assert record.widened_kl_divergence < 1e-3
    assert record.bound == "KL ≤ 0.25 nats per token; widened KL ≤ 0.001 nats per token"


def test_keep_of_another_family(tmp_path: Path, out: Path) -> None:
    """qwen2's blocks with rows reordered for deci, and biases."""
    path, _ = talking_gguf(tmp_path / "m.gguf", family="qwen2", kind=Kind.Q4_1)
    (file,) = export(open_model(str(path)), out, "keep", skip=SKIP)
    assert file.architecture == "deci"
    assert file.manifest.verification is not None
    assert file.manifest.verification.passed


def lost_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    real = blocks_module.kept_bytes
    monkeypatch.setattr(tensors_module, "kept_bytes", lambda blocks, name: real(replace(blocks, factor=1.0), name))


def lost_minimum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Q4_1's second number in a block is not multiplied."""
    monkeypatch.setitem(blocks_module._SCALES, "Q4_1", (0,))


def swapped_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """q and k are not reordered for the rotation of adjacent pairs."""
    monkeypatch.setattr(tensors_module, "paired_up", lambda rows, heads: rows)


def lost_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    real = outputs_module.bake

    def wrong(decoder: Decoder, plan: Plan) -> Decoder:
        return real(decoder, replace(plan, skips=tuple(replace(skip, bias=None) for skip in plan.skips)))

    monkeypatch.setattr(outputs_module, "bake", wrong)


def wrong_order(monkeypatch: pytest.MonkeyPatch) -> None:
    real = outputs_module.lay_out

    def wrong(decoder: Decoder, **options: Any) -> Any:
        layout = real(decoder, **options)
        first, second, *others = layout.blocks
        return replace(layout, blocks=(second, first, *others))

    monkeypatch.setattr(outputs_module, "lay_out", wrong)


DAMAGES = [lost_factor, lost_minimum, swapped_rows, lost_bias, wrong_order]


@pytest.mark.parametrize(("damage", "exit_layer"), [*((damage, None) for damage in DAMAGES), (lost_factor, 2)])
def test_a_mismatch_of_kept_blocks_leaves_nothing(
    quantized: ModelSource, out: Path, monkeypatch: pytest.MonkeyPatch, damage: Any, exit_layer: int | None
) -> None:
    damage(monkeypatch)
    with pytest.raises(EdgeSkipError, match=r"does not match the torch model: .* dequantized\).*--allow-mismatch"):
        export(quantized, out, "keep", skip=SKIP, exit_layer=exit_layer)
    assert list(out.iterdir()) == []


def test_a_plan_across_the_exit_layer_passes_both_checks(source: ModelSource, out: Path) -> None:
    """The bias of what is skipped right after the exit is in the draft, as both halves together need it."""
    first, _ = export(source, out, skip=("attn.1", "ffn.1", "attn.2", "ffn.3"), exit_layer=2)
    assert first.manifest.verification is not None
    assert first.manifest.verification.passed


def test_a_draft_with_a_wrong_head_leaves_nothing(
    source: ModelSource, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first half's norm and head: both halves together never use them."""
    real = outputs_module.first_part

    def wrong(decoder: Decoder, exit_layer: int, *more: Any) -> Decoder:
        part = real(decoder, exit_layer, *more)
        return replace(part, norm=decoder.sublayers[0].norm)

    monkeypatch.setattr(outputs_module, "first_part", wrong)
    with pytest.raises(EdgeSkipError, match="does not match"):
        export(source, out, exit_layer=2)
    assert list(out.iterdir()) == []
    first, rest = export(source, out, exit_layer=2, policy=ExportPolicy(allow_mismatch=True))
    assert first.manifest.draft_verification is not None
    assert not first.manifest.draft_verification.passed
    for file in (first, rest):
        assert file.manifest.verification is not None
        assert file.manifest.verification.passed  # both halves together match


@pytest.mark.parametrize(("precision", "damage"), [("f16", swapped_rows), ("f16", lost_bias), ("q8_0", lost_bias)])
def test_a_mismatch_leaves_what_was_there(
    source: ModelSource, out: Path, monkeypatch: pytest.MonkeyPatch, precision: str, damage: Any
) -> None:
    (before,) = export(source, out, precision, skip=SKIP)
    content = before.path.read_bytes()
    damage(monkeypatch)
    with pytest.raises(EdgeSkipError, match="does not match"):
        export(source, out, precision, skip=SKIP, policy=ExportPolicy(overwrite=True))
    assert [path.read_bytes() for path in out.iterdir()] == [content]


def test_a_mismatch_may_be_kept(quantized: ModelSource, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost_factor(monkeypatch)
    files = export(quantized, out, "keep", skip=SKIP, exit_layer=2, policy=ExportPolicy(allow_mismatch=True))
    for file in files:
        manifest = read_gguf_manifest(read_gguf_header(file.path).metadata, "x")
        assert manifest == file.manifest
        assert manifest.verification is not None
        assert not manifest.verification.passed


def test_a_check_that_was_switched_off(source: ModelSource, out: Path) -> None:
    (file,) = export(source, out, policy=UNCHECKED)
    metadata = read_gguf_header(file.path).metadata
    assert file.manifest.verification is None
    assert read_gguf_manifest(metadata, "x") == file.manifest
    assert metadata[VERIFICATION_KEY].strip() == "null"


@pytest.mark.parametrize(
    ("place", "moment"),
    [("target", "write_gguf"), ("check", "verify"), ("target", "patch_string"), ("check", "write_dequantized")],
)
@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("no")])
def test_whatever_happens_half_way_leaves_nothing(
    quantized: ModelSource, out: Path, monkeypatch: pytest.MonkeyPatch, place: str, moment: str, error: BaseException
) -> None:
    """In the second of two files where there are two."""
    module = {"target": target_module, "check": check_module}[place]
    real, calls = getattr(module, moment), []

    def fails(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        if len(calls) == (1 if moment == "verify" else 2):
            raise error
        return real(*arguments, **options)

    monkeypatch.setattr(module, moment, fails)
    with pytest.raises(type(error)):
        export(quantized, out / "new", "keep", skip=SKIP, exit_layer=2)
    assert calls
    assert list(out.iterdir()) == []


def test_a_name_of_its_own(source: ModelSource, out: Path) -> None:
    (file,) = export(source, out / "mine.gguf", policy=UNCHECKED)
    assert [path.name for path in out.iterdir()] == ["mine.gguf"]
    assert file.path == out / "mine.gguf"
    with pytest.raises(EdgeSkipError, match=r"mine\.gguf exists: .*--overwrite"):
        export(source, out / "mine.gguf", policy=UNCHECKED)
    before = file.path.stat().st_size
    export(source, out / "mine.gguf", "f16", policy=ExportPolicy(overwrite=True, check=False))
    assert file.path.stat().st_size < before
    with pytest.raises(EdgeSkipError, match="an early exit is two files: give -o a folder"):
        export(source, out / "pair.gguf", exit_layer=2)


def test_a_folder_called_gguf(source: ModelSource, out: Path) -> None:
    folder = out / "folder.gguf"
    folder.mkdir()
    export(source, folder, exit_layer=2, policy=UNCHECKED)
    assert len(list(folder.iterdir())) == 2


def test_the_model_itself_is_never_replaced(out: Path) -> None:
    """Not even where what exists may be overwritten: the profile would be left without its model."""
    path, _ = talking_gguf(out / "tiny-llama-Q8_0.gguf", kind=Kind.Q8_0)
    before, source = path.read_bytes(), open_model(str(path))
    with pytest.raises(EdgeSkipError, match=r"Q8_0\.gguf is the model itself, so it is not replaced"):
        export(source, out, "keep", policy=replace(UNCHECKED, overwrite=True))
    assert path.read_bytes() == before


def test_blocks_without_scales_are_refused_before_any_work(tmp_path: Path, out: Path) -> None:
    """MXFP4's scales are powers of two, without room for a factor (ggml-common.h); dense it is kept as it is."""
    path, _ = talking_gguf(tmp_path / "tiny.gguf", kind=Kind.MXFP4)
    source, form = open_model(str(path)), gguf_format("keep", open_model(str(path)).checkpoint.gguf)
    for skip in ((), ("attn.1",)):
        arguments = (source, *profile_of(source, skip, "scale"), form, out)
        if skip:
            with pytest.raises(EdgeSkipError, match=r"is MXFP4, whose scales cannot take .* another --precision"):
                refuse_gguf(*arguments, policy=UNCHECKED)
        else:
            refuse_gguf(*arguments, policy=UNCHECKED)


@pytest.mark.parametrize("there", ["first", "rest"])
def test_one_half_of_a_pair_exists(source: ModelSource, out: Path, there: str) -> None:
    name = "tiny-llama-exit2-F32.gguf" if there == "first" else "tiny-llama-exit2-rest-F32.gguf"
    (out / name).write_text("mine")
    with pytest.raises(EdgeSkipError, match=f"{name} exists"):
        export(source, out, exit_layer=2)
    assert [path.read_text() for path in out.iterdir()] == ["mine"]


def test_a_profile_of_other_weights(source: ModelSource, out: Path, tmp_path: Path) -> None:
    other = open_model(str(tiny_checkpoint("llama", tmp_path / "other", seed=1)))
    profile, vectors = profile_of(source, (), "none")
    with pytest.raises(EdgeSkipError, match="made for other weights"):
        export_gguf(other, profile, vectors, gguf_format("f32", None), out, policy=UNCHECKED)
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("exit_layer", [0, 4, -1])
def test_an_exit_layer_out_of_range(source: ModelSource, out: Path, exit_layer: int) -> None:
    with pytest.raises(EdgeSkipError, match=f"--exit-layer {exit_layer} is not possible: .*choose 1 … 3"):
        export(source, out, exit_layer=exit_layer)
    assert list(out.iterdir()) == []


def test_a_window_shorter_than_the_text_of_the_check(out: Path, tmp_path: Path) -> None:
    """llama.cpp has no window in this architecture, so the file's context ends with it: the check keeps inside."""
    source = open_model(str(tiny_checkpoint("mistral", tmp_path / "m", sliding_window=40)))
    (file,) = export(source, out)
    assert file.manifest.verification is not None
    assert file.manifest.verification.passed
    assert file.manifest.verification.tokens == 39
    tiny = open_model(str(tiny_checkpoint("mistral", tmp_path / "n", sliding_window=9)))
    with pytest.raises(EdgeSkipError, match="a context of 9 tokens is too short to check: add --no-check"):
        export(tiny, out)


def test_a_description_that_reads_like_our_key(out: Path, tmp_path: Path) -> None:
    """The check's record is written over our own string, not over what looks like its name before it."""
    path, _ = talking_gguf(tmp_path / "m.gguf", {"general.description": VERIFICATION_KEY})
    (file,) = export(open_model(str(path)), out, "keep")
    metadata = read_gguf_header(file.path).metadata
    assert metadata["general.description"] == VERIFICATION_KEY
    assert read_gguf_manifest(metadata, "x") == file.manifest


def test_exports_as_a_source(quantized: ModelSource, out: Path) -> None:
    """Of a dense one a plan can be made; one that lacks sublayers would be called dense, so it is refused."""
    (dense,) = export(quantized, out, "keep", policy=UNCHECKED)
    export(open_model(str(dense.path)), out / "again.gguf", "keep", policy=UNCHECKED)
    (skips,) = export(quantized, out, "keep", skip=("attn.1", "ffn.1"), compensation="scale", policy=UNCHECKED)
    assert skips.architecture == "llama"  # an ordinary file of three blocks
    halves = export(quantized, out, "keep", exit_layer=2, policy=UNCHECKED)
    (deci,) = export(quantized, out, "keep", skip=SKIP, policy=UNCHECKED)
    told = ("lossy-skip", "lossy-skip", "first part of an early exit", "rest part of an early exit")
    for file, what in zip((skips, deci, *halves), told, strict=True):
        with pytest.raises(EdgeSkipError) as info:
            open_model(str(file.path))
        assert str(info.value) == (
            f"{file.path} is an export of EdgeSkip ({what}): use the model it was made from, {quantized.reference}"
        )


def test_bounds() -> None:
    """By hand: exact where only floats are rounded; wider the fewer bits."""
    exact = Bound(kl_divergence=1e-3)
    assert [bound_of(gguf_format(name, None)) for name in ("f32", "f16")] == [exact, exact]
    wide = [bound_of(gguf_format(name, None)).kl_divergence for name in ("q8_0", "q6_k", "q4_0", "q4_k_m", "q2_k")]
    assert wide == [0.25, 0.25, 0.75, 0.75, 2.0]
