"""The llama.cpp engine against transformers and llama-cpp-python's own class: prefill, steps, growing, refusals."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray
from talking_gguf import byte_level_metadata, talking_gguf
from tiny_gguf import write_tiny_gguf
from tiny_models import tiny_model

from edgeskip.core.errors import EdgeSkipError, MissingExtraError
from edgeskip.runtime.engines.llamacpp import library as llamacpp_library
from edgeskip.runtime.engines.llamacpp import model as llamacpp_model
from edgeskip.runtime.engines.llamacpp.context import BATCH
from edgeskip.runtime.engines.llamacpp.engine import LlamaCppEngine
from edgeskip.runtime.engines.llamacpp.library import llama

CONTEXT = 700  # more than one batch


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    return talking_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", max_position_embeddings=CONTEXT)


@pytest.fixture(scope="module")
def tokens(tiny: tuple[Path, Any]) -> NDArray[np.int64]:
    return np.random.default_rng(1).integers(0, tiny[1].config.vocab_size, CONTEXT)


def open_engine(tiny: tuple[Path, Any], **options: Any) -> LlamaCppEngine:
    return LlamaCppEngine(tiny[0], **{"threads": 1, **options})


def transformers_logits(model: Any, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    import torch

    with torch.inference_mode():
        logits: NDArray[np.float32] = model(torch.from_numpy(tokens)[None]).logits[0].numpy()
    return logits


def assert_close(logits: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    """llama.cpp keeps the KV cache in float16: logits of size 10 agree to some hundredths, the worst of many to 0.2."""
    np.testing.assert_allclose(logits, expected, atol=0.2)
    assert np.abs(logits - expected).mean() < 0.01
    assert np.abs(expected).mean() > 1


def test_prefill_gives_transformers_logits_at_every_position(tiny: tuple[Path, Any], tokens: NDArray[np.int64]) -> None:
    """Oracle: transformers on the weights that the float32 file was written from."""
    engine = open_engine(tiny)
    logits = engine.step(tokens[:60], logits=0)
    assert_close(logits, transformers_logits(tiny[1], tokens[:60]))
    assert logits.dtype == np.float32
    assert (engine.length, engine.vocab_size, engine.context_length) == (60, tiny[1].config.vocab_size, CONTEXT)
    assert (engine.name, engine.provider, engine.threads) == ("llama.cpp", "cpu", 1)
    assert engine.run_s > 0


@pytest.mark.parametrize("cuts", [[1] * 40, [17, 1, 1, 9, 12], [39, 1]])
def test_steps_of_any_size_equal_one_prefill(
    tiny: tuple[Path, Any], tokens: NDArray[np.int64], cuts: list[int]
) -> None:
    """Oracle: transformers over the whole sequence; each step's last row is compared."""
    expected = transformers_logits(tiny[1], tokens[:40])
    engine = open_engine(tiny)
    for count in cuts:
        start = engine.length
        logits = engine.step(tokens[start : start + count])
        assert logits.shape == (1, engine.vocab_size)
        assert_close(logits[0], expected[start + count - 1])


@pytest.mark.parametrize("wanted", [0, 1, 3, BATCH, BATCH + 40])
def test_the_rows_asked_for_across_batches(tiny: tuple[Path, Any], tokens: NDArray[np.int64], wanted: int) -> None:
    """Oracle: transformers; a step longer than a batch, whose wanted rows begin in either batch."""
    count = BATCH + 60
    engine = open_engine(tiny)
    engine.step(tokens[:20])
    logits = engine.step(tokens[20 : 20 + count], logits=wanted)
    assert logits.shape[0] == (wanted or count)
    assert_close(logits, transformers_logits(tiny[1], tokens[: 20 + count])[-(wanted or count) :])


def test_logits_are_those_of_llama_cpp_pythons_own_class(smollm2_gguf: Path) -> None:
    """Oracle: llama_cpp.Llama with logits_all on the real 4-bit file, to the bit: the same batch goes through."""
    import llama_cpp

    tokens = np.random.default_rng(3).integers(0, 49152, 24)
    theirs = llama_cpp.Llama(
        str(smollm2_gguf), n_ctx=256, n_batch=512, n_ubatch=512, n_threads=1, n_threads_batch=1, logits_all=True,
        flash_attn=True, verbose=False,
    )  # fmt: skip
    theirs.eval(tokens.tolist())
    expected = np.array(theirs.scores[: len(tokens)])
    theirs.close()
    engine = LlamaCppEngine(smollm2_gguf, threads=1)
    np.testing.assert_array_equal(engine.step(tokens, logits=0), expected)
    engine.close()


def test_growing_keeps_the_cache(tiny: tuple[Path, Any], tokens: NDArray[np.int64]) -> None:
    """Oracle: an engine that had the room from the start, to the bit; the cache starts at 256 and grows twice."""
    grown, roomy = open_engine(tiny), open_engine(tiny)
    roomy.reserve(CONTEXT)
    for start in range(0, CONTEXT, 100):
        chunk = tokens[start : start + 100]
        logits = grown.step(chunk)
        np.testing.assert_array_equal(logits, roomy.step(chunk))
    assert_close(logits[0], transformers_logits(tiny[1], tokens)[-1])


def test_truncate_forgets_what_followed(tiny: tuple[Path, Any], tokens: NDArray[np.int64]) -> None:
    """Oracle: a fresh engine over the tokens that remain, to the bit."""
    engine, fresh = open_engine(tiny), open_engine(tiny)
    engine.step(tokens[:12])
    engine.step(tokens[12:30])
    engine.truncate(12)
    fresh.step(tokens[:12])
    np.testing.assert_array_equal(engine.step(tokens[100:105], logits=0), fresh.step(tokens[100:105], logits=0))
    assert engine.length == 17
    engine.truncate(0)
    np.testing.assert_array_equal(engine.step(tokens[:12]), open_engine(tiny).step(tokens[:12]))
    with pytest.raises(ValueError, match="truncate"):
        engine.truncate(18)


def test_a_step_that_was_interrupted_leaves_no_trace(
    tiny: tuple[Path, Any], tokens: NDArray[np.int64], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand: Ctrl-C comes after llama.cpp ran the batch and before it was counted."""
    engine = open_engine(tiny)
    engine.step(tokens[:12])
    library = llamacpp_library.llama()

    def interrupt(_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(library, "llama_get_logits", interrupt)
        with pytest.raises(KeyboardInterrupt):
            engine.step(tokens[12:20])
    assert engine.length == 12
    fresh = open_engine(tiny)
    fresh.step(tokens[:12])
    np.testing.assert_array_equal(engine.step(tokens[12:20]), fresh.step(tokens[12:20]))


def test_a_full_context_is_refused_before_it_happens(tiny: tuple[Path, Any], tokens: NDArray[np.int64]) -> None:
    """By hand: the cache is untouched by the refused step, so the last position can still be used."""
    engine = open_engine(tiny)
    engine.step(tokens[: CONTEXT - 1])
    with pytest.raises(EdgeSkipError, match=rf"{CONTEXT - 1} \+ 2 tokens, the model holds {CONTEXT}"):
        engine.step(tokens[:2])
    with pytest.raises(EdgeSkipError, match="context"):
        engine.reserve(CONTEXT + 1)
    assert_close(engine.step(tokens[-1:])[0], transformers_logits(tiny[1], tokens)[-1])


def test_what_makes_no_step_is_refused(tiny: tuple[Path, Any]) -> None:
    """By hand: llama.cpp would read outside its tables."""
    engine = open_engine(tiny)
    for token in (-1, engine.vocab_size):
        with pytest.raises(EdgeSkipError, match="token ids"):
            engine.step(np.array([3, token]))
    with pytest.raises(ValueError, match="last 3"):
        engine.step(np.array([3, 4]), logits=3)
    with pytest.raises(EdgeSkipError, match="threads"):
        open_engine(tiny, threads=0)


def test_a_provider_that_cannot_be_used_is_refused(tiny: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: a build for the CPU, then one that says it has CUDA."""
    monkeypatch.setattr(llamacpp_model, "_devices", dict)
    with pytest.raises(EdgeSkipError, match=r"cannot run on 'cuda' \(available here: cpu\).*provider cpu"):
        open_engine(tiny, provider="cuda")
    monkeypatch.setattr(llamacpp_model, "_devices", lambda: {"cuda": [1]})
    with pytest.raises(EdgeSkipError, match=r"cannot run on 'vulkan' \(available here: cpu, cuda\)"):
        open_engine(tiny, provider="vulkan")


def test_devices_are_listed_by_their_registries_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: ggml's registry with a CPU, a Metal and two CUDA devices in it."""
    registries = [b"CPU", b"MTL", b"CUDA", b"BLAS", b"CUDA"]
    answers = {
        "ggml_backend_dev_count": lambda: len(registries),
        "ggml_backend_dev_get": lambda index: index,
        "ggml_backend_dev_backend_reg": lambda device: device,
        "ggml_backend_reg_name": lambda registry: registries[registry],
    }

    class GpuBuild:
        def llama_supports_gpu_offload(self) -> bool:
            return True

    monkeypatch.setattr(llamacpp_model, "llama", GpuBuild)
    monkeypatch.setattr(llamacpp_model, "ggml_function", lambda name, *_: answers[name])
    assert llamacpp_model.find_devices("CUDA") == [2, 4]
    assert llamacpp_model.find_devices("metal") == [1]
    assert llamacpp_model.find_devices("cpu") == []


def test_running_out_of_memory_is_an_error_of_the_user(
    tiny: tuple[Path, Any], tokens: NDArray[np.int64], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand: llama_decode's status -2 is "not enough memory", any other is told with its number."""
    engine = open_engine(tiny)
    engine.step(tokens[:4])
    library = llamacpp_library.llama()
    for status, complaint in ((-2, "not enough memory for 7 tokens on cpu"), (-3, r"cannot run .*status -3")):
        monkeypatch.setattr(library, "llama_decode", lambda *_, status=status: status)
        with pytest.raises(EdgeSkipError, match=complaint):
            engine.step(tokens[4:7])
    monkeypatch.undo()
    assert engine.length == 4
    with monkeypatch.context() as patch:
        patch.setattr(library, "llama_init_from_model", lambda *_: None)
        with pytest.raises(EdgeSkipError, match="KV cache of 600 tokens"):
            engine.reserve(600)
    assert_close(engine.step(tokens[4:7])[0], transformers_logits(tiny[1], tokens[:7])[-1])


def refusal(path: Path) -> str:
    with pytest.raises(EdgeSkipError) as caught:
        LlamaCppEngine(path, threads=1)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(path), "FILE")


def test_damaged_and_foreign_files_are_refused_in_one_line(tiny: tuple[Path, Any], tmp_path: Path) -> None:
    """By hand: the reason is in the line, llama.cpp's log is not."""
    whole = tiny[0].read_bytes()
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(whole[:-1000])
    assert "lies beyond the end" in refusal(broken)
    broken.write_bytes(whole[:300])
    assert "it promises more than its 300 bytes hold" in refusal(broken)
    broken.write_bytes(b"PK\x03\x04" + whole[4:])
    assert refusal(broken) == "FILE is not a GGUF file"
    assert refusal(tmp_path / "absent.gguf") == "FILE is not a file"


def test_another_users_log_callback_hides_no_reason(tiny: tuple[Path, Any], tmp_path: Path) -> None:
    """llama_cpp.Llama and others set llama.cpp's one log callback too."""
    path = write_tiny_gguf(tiny_model("llama"), tmp_path / "x.gguf", metadata={"tokenizer.ggml.merges": None})
    llama().llama_log_set(llama().llama_log_callback(), None)  # llama.cpp's own, which prints
    assert "cannot find tokenizer merges" in refusal(path)


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"general.architecture": "spaghetti"}, "'spaghetti.block_count' is missing"),
        ({"tokenizer.ggml.merges": None}, "merges"),
        ({"llama.context_length": 0}, "'llama.context_length' is 0"),
        ({"llama.block_count": 5}, "'llama.block_count' is 5, expected 4"),
    ],
)
def test_files_that_are_no_model(tmp_path: Path, metadata: dict[str, Any], reason: str) -> None:
    """By hand."""
    keys = {**byte_level_metadata(), **metadata}
    model = tiny_model("llama", vocab_size=len(keys["tokenizer.ggml.tokens"]))
    if arch := keys.pop("general.architecture", None):
        path = tmp_path / "other.gguf"
        writer = gguf.GGUFWriter(path, arch)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    else:
        path = write_tiny_gguf(model, tmp_path / "model.gguf", metadata=keys)
    assert reason in refusal(path)


def test_the_model_is_freed_when_the_engine_goes(tiny: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: what llama.cpp is told to free, in this order; nothing is freed twice."""
    library = llamacpp_library.llama()
    freed: list[str] = []
    for name in ("llama_free", "llama_model_free"):
        real = getattr(library, name)
        monkeypatch.setattr(library, name, lambda pointer, name=name, real=real: (freed.append(name), real(pointer)))
    engine = open_engine(tiny)
    engine.reserve(10)
    engine.close()
    engine.close()
    assert freed == ["llama_free", "llama_model_free"]
    freed.clear()
    engine = open_engine(tiny)
    engine.reserve(10)
    gone = weakref.ref(engine)
    del engine
    gc.collect()
    assert gone() is None
    assert freed == ["llama_free", "llama_model_free"]


def test_nothing_is_printed_by_llama_cpp(tiny: tuple[Path, Any]) -> None:
    """By hand: a fresh process loads, runs, fails to load; file descriptors 1 and 2 stay silent."""
    code = (
        "import sys, numpy as np, pathlib\n"
        "from edgeskip.core.errors import EdgeSkipError\n"
        "from edgeskip.runtime.engines.llamacpp.engine import LlamaCppEngine\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "engine = LlamaCppEngine(path, threads=1)\n"
        "engine.step(np.arange(5))\n"
        "cut = path.with_name('cut.gguf')\n"
        "cut.write_bytes(path.read_bytes()[:-1000])\n"
        "try:\n    LlamaCppEngine(cut)\nexcept EdgeSkipError:\n    print('refused')\n"
    )
    answer = subprocess.run([sys.executable, "-c", code, str(tiny[0])], capture_output=True, text=True, timeout=60)
    assert (answer.stdout, answer.stderr, answer.returncode) == ("refused\n", "", 0)


@pytest.fixture
def fresh_library() -> Any:
    """`llama()` looks again, now and after the test."""
    llamacpp_library.llama.cache_clear()
    llamacpp_library.load.cache_clear()
    yield
    llamacpp_library.llama.cache_clear()
    llamacpp_library.load.cache_clear()


@pytest.mark.usefixtures("fresh_library")
def test_a_missing_package_names_its_extra(tiny: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand."""
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    monkeypatch.setitem(sys.modules, "llama_cpp.llama_cpp", None)
    with pytest.raises(MissingExtraError, match=r"'llama-cpp-python': run  pip install 'edgeskip\[llamacpp\]'"):
        open_engine(tiny)


@pytest.mark.usefixtures("fresh_library")
@pytest.mark.parametrize("name", ["llama_memory_seq_rm", "llama_vocab_is_eog", "llama_get_memory"])
def test_a_package_that_lacks_a_function_is_too_old(
    tiny: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """By hand: 0.3.9 has no llama_get_memory."""
    import llama_cpp.llama_cpp as library

    monkeypatch.delattr(library, name)
    with pytest.raises(EdgeSkipError, match=rf"is too old: it lacks {name}; run  pip install -U llama-cpp-python"):
        open_engine(tiny)


@pytest.mark.usefixtures("fresh_library")
def test_a_package_that_lacks_a_field_is_too_old(tiny: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: a context without `cb_eval`."""
    import ctypes

    import llama_cpp.llama_cpp as library

    class Parameters(ctypes.Structure):
        _fields_ = [field for field in library.llama_context_params._fields_ if field[0] != "cb_eval"]

    monkeypatch.setattr(library, "llama_context_params", Parameters)
    with pytest.raises(EdgeSkipError, match=r"lacks llama_context_params\.cb_eval"):
        open_engine(tiny)


@pytest.mark.usefixtures("fresh_library")
def test_a_package_that_does_not_load_is_told(tiny: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: its shared library is gone, as after a broken build."""
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", "/nowhere")
    for name in [name for name in sys.modules if name.partition(".")[0] == "llama_cpp"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(EdgeSkipError, match=r"llama-cpp-python does not load \(.*--force-reinstall llama-cpp-python"):
        open_engine(tiny)


def test_rows_of_an_f32_file_are_the_same_alone_and_in_a_batch(tmp_path: Path) -> None:
    """Oracle: the same engine, token by token. With llama.cpp's F16 cache and fused attention they differ a thousand
    times more, and greedy speculation parts from plain decoding at every other tie."""
    path, _ = talking_gguf(tmp_path / "f32.gguf")
    engine = LlamaCppEngine(path, threads=1)
    tokens = np.random.default_rng(0).integers(0, engine.vocab_size, 40)
    batch = engine.step(tokens, logits=0).copy()
    engine.truncate(0)
    alone = np.concatenate([engine.step(tokens[i : i + 1]).copy() for i in range(len(tokens))])
    np.testing.assert_allclose(batch, alone, rtol=0, atol=1e-4)
