"""The ONNX Runtime engine against a numpy layer: prefill, steps, growing, rolling back, and every refusal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_graph import CONTEXT, VOCAB, TinyArtifact, build_tiny_artifact

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import sha256_of
from edgeskip.runtime.engines.onnxruntime.engine import OnnxRuntimeEngine

TOKENS = np.random.default_rng(1).integers(0, VOCAB, CONTEXT)


def open_engine(tiny: TinyArtifact, **options: object) -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine(tiny.folder, tiny.manifest, threads=1, **options)  # type: ignore[arg-type]


def test_prefill_gives_the_oracles_logits_at_every_position(tiny_artifact: TinyArtifact) -> None:
    """Oracle: numpy causal attention."""
    engine = open_engine(tiny_artifact)
    logits = engine.step(TOKENS[:50], logits=0)
    np.testing.assert_allclose(logits, tiny_artifact.logits(TOKENS[:50]), rtol=1e-4, atol=1e-4)
    assert logits.dtype == np.float32
    assert engine.length == 50


@pytest.mark.parametrize("cuts", [[1] * 40, [17, 1, 1, 9, 12], [39, 1]])
def test_steps_of_any_size_equal_one_prefill(tiny_artifact: TinyArtifact, cuts: list[int]) -> None:
    """Oracle: numpy over the whole sequence; each step's last row is compared."""
    expected = tiny_artifact.logits(TOKENS[:40])
    engine = open_engine(tiny_artifact)
    for count in cuts:
        start = engine.length
        logits = engine.step(TOKENS[start : start + count])
        assert logits.shape == (1, VOCAB)
        np.testing.assert_allclose(logits[0], expected[start + count - 1], rtol=1e-4, atol=1e-4)


def test_the_last_k_positions(tiny_artifact: TinyArtifact) -> None:
    """Oracle: numpy, last 3 of 20 rows, on a non-empty cache."""
    engine = open_engine(tiny_artifact)
    engine.step(TOKENS[:10])
    logits = engine.step(TOKENS[10:20], logits=3)
    np.testing.assert_allclose(logits, tiny_artifact.logits(TOKENS[:20])[17:], rtol=1e-4, atol=1e-4)


def test_growing_past_the_first_capacity_keeps_the_cache(tiny_artifact: TinyArtifact) -> None:
    """Oracle: numpy at the last position of a full context; the cache starts at 256 and grows twice."""
    engine = open_engine(tiny_artifact)
    for start in range(0, CONTEXT, 100):
        logits = engine.step(TOKENS[start : start + 100])
    np.testing.assert_allclose(logits[0], tiny_artifact.logits(TOKENS)[-1], rtol=1e-4, atol=1e-4)


def test_truncate_forgets_what_followed(tiny_artifact: TinyArtifact) -> None:
    """Oracle: numpy over the tokens that remain."""
    engine = open_engine(tiny_artifact)
    engine.step(TOKENS[:30])
    engine.truncate(12)
    logits = engine.step(TOKENS[100:105])
    expected = tiny_artifact.logits(np.concatenate([TOKENS[:12], TOKENS[100:105]]))
    np.testing.assert_allclose(logits[0], expected[-1], rtol=1e-4, atol=1e-4)
    assert engine.length == 17
    with pytest.raises(ValueError, match="truncate"):
        engine.truncate(18)


def test_a_full_context_is_refused_before_it_happens(tiny_artifact: TinyArtifact) -> None:
    """By hand: the cache is untouched by the refused step, so the last position can still be used."""
    engine = open_engine(tiny_artifact)
    engine.step(TOKENS[: CONTEXT - 1])
    with pytest.raises(EdgeSkipError, match=rf"{CONTEXT - 1} \+ 2 tokens, the model holds {CONTEXT}"):
        engine.step(TOKENS[:2])
    with pytest.raises(EdgeSkipError, match="context"):
        engine.reserve(CONTEXT + 1)
    np.testing.assert_allclose(engine.step(TOKENS[-1:])[0], tiny_artifact.logits(TOKENS)[-1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("token", [-1, VOCAB])
def test_token_ids_outside_the_vocabulary_are_refused(tiny_artifact: TinyArtifact, token: int) -> None:
    """By hand: Gather would read outside its table or wrap around."""
    with pytest.raises(EdgeSkipError, match="token ids"):
        open_engine(tiny_artifact).step(np.array([3, token]))


def test_running_out_of_memory_is_an_error_of_the_user(
    tiny_artifact: TinyArtifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand: onnxruntime's allocation failure becomes one line, any other failure another."""
    import onnxruntime

    def fail(message: str) -> None:
        def run(*_: object) -> None:
            raise RuntimeError(f"[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : {message}")

        monkeypatch.setattr(onnxruntime.InferenceSession, "run_with_iobinding", run)

    engine = open_engine(tiny_artifact)
    fail("Failed to allocate memory for requested buffer of size 9")
    with pytest.raises(EdgeSkipError, match=r"not enough memory for 3 tokens on cpu \(Failed to allocate"):
        engine.step(TOKENS[:3])
    fail("shapes differ")
    with pytest.raises(
        EdgeSkipError, match=r"^model.onnx failed on the provider 'cpu' \(shapes differ\): export again"
    ):
        engine.step(TOKENS[:3])
    assert engine.length == 0


def test_provider_used_is_reported_and_a_missing_one_is_refused(tiny_artifact: TinyArtifact) -> None:
    """By hand: the CPU wheel of onnxruntime has no CUDA; the error names what it has."""
    import onnxruntime

    assert open_engine(tiny_artifact).provider == "cpu"
    with pytest.raises(EdgeSkipError, match=r"unknown provider 'tpu': available here: .*cpu"):
        open_engine(tiny_artifact, provider="tpu")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(EdgeSkipError, match=r"'cuda' \(available here: .*cpu"):
            open_engine(tiny_artifact, provider="cuda")


def test_a_fall_back_is_an_error(tiny_artifact: TinyArtifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: onnxruntime claims to have CUDA but the session comes up on the CPU."""
    import onnxruntime

    real = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda model, options, providers, enable_fallback: real(model, options, providers=["CPUExecutionProvider"]),
    )
    with pytest.raises(EdgeSkipError, match=r"'cuda' could not start here .* would use CPUExecutionProvider"):
        open_engine(tiny_artifact, provider="cuda")


@pytest.mark.parametrize("location", ["../model.onnx.data", "{absolute}"])
def test_weights_outside_the_folder_are_refused(tmp_path: Path, location: str) -> None:
    """By hand: the file exists and holds the right bytes, it is only in the wrong place."""
    outside = tmp_path / "model.onnx.data"
    tiny = build_tiny_artifact(tmp_path / "artifact", data_location=location.format(absolute=outside))
    outside.write_bytes((tiny.folder / "model.onnx.data").read_bytes())
    with pytest.raises(EdgeSkipError, match=r"onnxruntime cannot load .*[Ee]xternal data"):
        open_engine(tiny)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    """By hand: model.onnx.data is a symbolic link to a file outside the folder."""
    tiny = build_tiny_artifact(tmp_path / "artifact")
    data = tiny.folder / "model.onnx.data"
    data.rename(tmp_path / "outside")
    data.symlink_to(tmp_path / "outside")
    with pytest.raises(EdgeSkipError, match="escapes"):
        open_engine(tiny)


def test_an_artifact_in_the_hugging_face_cache_runs(tmp_path: Path) -> None:
    """Oracle: the same artifact without links. Every file is a link to one that is called by its hash."""
    tiny = build_tiny_artifact(tmp_path / "artifact")
    tokens = np.arange(5, dtype=np.int64)
    wanted = open_engine(tiny).step(tokens)
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(tiny.folder.iterdir())):
        file.rename(blobs / f"{number:064}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number:064}")
    np.testing.assert_array_equal(OnnxRuntimeEngine(snapshot, tiny.manifest).step(tokens), wanted)
    folder = tmp_path / "link"
    folder.symlink_to(snapshot)
    np.testing.assert_array_equal(OnnxRuntimeEngine(folder, tiny.manifest).step(tokens), wanted)
    (snapshot / "model.onnx.data").unlink()
    (snapshot / "model.onnx.data").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_bytes((blobs / f"{2:064}").read_bytes())
    with pytest.raises(EdgeSkipError, match="escapes"):
        OnnxRuntimeEngine(snapshot, tiny.manifest)


def test_damaged_files_are_refused_in_one_line(tmp_path: Path) -> None:
    """By hand: each file cut short or missing, and a graph that is not the manifest's."""
    tiny = build_tiny_artifact(tmp_path / "artifact")
    graph, data = tiny.folder / "model.onnx", tiny.folder / "model.onnx.data"
    whole = {path: path.read_bytes() for path in (graph, data)}

    def refusal(manifest_changes: dict[str, object] | None = None) -> str:
        manifest = tiny.manifest.model_copy(update=manifest_changes or {})
        with pytest.raises(EdgeSkipError) as caught:
            OnnxRuntimeEngine(tiny.folder, manifest)
        assert "\n" not in str(caught.value)
        for path, content in whole.items():
            path.write_bytes(content)
        return str(caught.value)

    data.write_bytes(whole[data][:-4])
    assert "out of bounds" in refusal()
    data.unlink()
    assert "model.onnx.data" in refusal()
    graph.write_bytes(whole[graph][:-20])
    assert "sha256 differs" in refusal()
    graph.write_bytes(whole[graph][:-20])
    assert "this ONNX model is cut off" in refusal({"files": {"model.onnx": sha256_of(graph)}})
    graph.unlink()
    assert "missing" in refusal()
    other = tiny.manifest.graph.model_copy(update={"num_kv_layers": 2})
    assert "than its manifest describes" in refusal({"graph": other})


def test_a_buffer_of_another_shape_is_not_called_lack_of_memory(tiny_artifact: TinyArtifact) -> None:
    """Oracle: what was done to it. ONNX Runtime's words for it have "pre-allocated" in them."""
    engine = open_engine(tiny_artifact)
    engine.step(TOKENS[:5])
    wrong = np.zeros((1, 2, VOCAB), np.float32)
    engine._runner._binding.bind_output("logits", "cpu", 0, np.float32, wrong.shape, wrong.ctypes.data)
    with pytest.raises(
        EdgeSkipError, match=r"^model.onnx failed on the provider 'cpu' \(.*pre-allocated.*export again, "
    ):
        engine.step(TOKENS[5:6])


@pytest.mark.parametrize(
    "text",
    [
        "Failed to allocate memory for requested buffer of size 549755813888",
        "std::bad_alloc",
        "CUDA failure 2: out of memory ; GPU=0",
        "Available memory of 5 is smaller than requested bytes of 9",
        "8007000E Not enough memory resources are available to complete this operation.",
    ],
)
def test_lack_of_memory_is_called_that(tiny_artifact: TinyArtifact, text: str) -> None:
    """Oracle: what the allocators of ONNX Runtime, C++, CUDA and DirectML say (their sources)."""

    class Failing:
        def run_with_iobinding(self, *arguments: object) -> None:
            raise RuntimeError(f"[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : {text}")

    engine = open_engine(tiny_artifact)
    whole = engine._runner._session  # what is bound belongs to it, so it must live
    engine._runner._session = Failing()
    with pytest.raises(EdgeSkipError, match="not enough memory for 5 tokens on cpu"):
        engine.step(TOKENS[:5])
    assert whole is not None
