"""llama.cpp's self-test. Oracles: numpy over weights that the gguf package dequantises; the real library with a broken
instruction in it (`broken_llamacpp`), which dies as on a processor that it was not compiled for."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llama_cpp")

from broken_llamacpp import break_llamacpp

from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.engines import self_test_cache, self_test_runner
from edgeskip.runtime.engines.llamacpp import kernel_checks
from edgeskip.runtime.engines.llamacpp import self_test as llamacpp_self_test
from edgeskip.runtime.engines.llamacpp.build import Compiler
from edgeskip.runtime.engines.llamacpp.self_test import (
    CASES,
    ONE_ROW,
    SEVERAL_ROWS,
    TYPES,
    check_llamacpp,
    describe,
    known_cause,
    rebuild,
    self_test,
)

PRODUCTS = [f"{name}/{rows}" for name in (*TYPES, "model") for rows in (ONE_ROW, SEVERAL_ROWS)]
needs_x86 = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="the broken instruction is one of x86 in ELF"
)


@pytest.fixture(autouse=True)
def afresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No answer from before, none for others."""
    monkeypatch.setenv("EDGESKIP_CACHE", str(tmp_path / "cache"))
    check_llamacpp.cache_clear()
    yield
    check_llamacpp.cache_clear()


@pytest.fixture
def no_child(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def forbid() -> None:
        monkeypatch.setattr(llamacpp_self_test, "run_cases", lambda *_: pytest.fail("tests again"))

    return forbid


def test_the_library_here_passes_and_is_tested_once(no_child: Callable[[], None]) -> None:
    assert self_test() == {}
    no_child()
    assert self_test() == {}
    check_llamacpp()


def test_every_type_that_an_export_writes_is_tested() -> None:
    """Oracle: the gguf package's names and numbers, for each --precision and the types its mixtures consist of."""
    from gguf import GGMLQuantizationType

    from edgeskip.exporters.gguf.formats import PRECISIONS

    assert all(GGMLQuantizationType[name.upper()] == number for name, (number, _) in TYPES.items())
    bases = {name.rpartition("_")[0] if name[-2:] in ("_s", "_m", "_l") else name for name in PRECISIONS[1:]}
    assert bases <= {name.lower() for name in TYPES}
    assert {f"{name}/{rows}" for name in TYPES for rows in (1, 37)} < set(CASES)


@pytest.mark.parametrize("name", TYPES)
def test_products_are_those_of_the_dequantized_weights(name: str) -> None:
    """Oracle: gguf.dequantize and numpy. What is left is the rounding of activations to 8 bits (bfloat16, float16)."""
    from gguf import GGMLQuantizationType, dequantize

    number, most = TYPES[name]
    random = np.random.default_rng(3)
    weights = random.standard_normal((96, 512), np.float32)
    inputs = random.standard_normal((5, 512), np.float32)
    stored = kernel_checks.quantize(weights, number)
    exact = dequantize(stored if name != "f32" else weights, GGMLQuantizationType(number)).reshape(96, 512)
    for kind in kernel_checks._buffer_kinds():
        found = kernel_checks._multiplied(stored, number, inputs, kind)
        assert found is None or kernel_checks._error(found, inputs @ exact.T) < 0.03
    assert kernel_checks._error(exact, weights) < most


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("wrong", ["zeros", "nan", "one nan", "rows swapped", "half a block", "double"])
def test_a_wrong_product_is_caught(name: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: results as broken kernels give them, made from the right ones."""
    multiplied = kernel_checks._multiplied

    def broken(stored: Any, number: int, inputs: Any, kind: int) -> Any:
        if wrong == "half a block":
            inputs = np.where(np.arange(inputs.shape[1]) % 32 < 16, inputs, 0)
        right = multiplied(stored, number, np.ascontiguousarray(inputs), kind)
        if right is None or wrong == "half a block":
            return right
        one = right.copy()
        one.flat[7] = np.nan
        return {"zeros": right * 0, "nan": right * np.nan, "one nan": one, "rows swapped": right[:, ::-1]}.get(
            wrong, 2 * right
        )

    monkeypatch.setattr(kernel_checks, "_multiplied", broken)
    error, most = kernel_checks.run_case(f"{name}/{SEVERAL_ROWS}")
    assert not error <= most


def test_wrong_attention_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    compute = kernel_checks._Graph.compute
    monkeypatch.setattr(kernel_checks._Graph, "compute", lambda *arguments: 0.9 * compute(*arguments))
    error, most = kernel_checks.run_case("attention/1")
    assert error > most


@needs_x86
@pytest.mark.parametrize("how", ["SIGSEGV", "SIGILL", "wrong"])
def test_a_broken_library_fails_in_its_products_alone(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_child: Callable[[], None]
) -> None:
    """The look-ups and the attention of the same library still work, and are said to."""
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(break_llamacpp(tmp_path / "lib", how)))
    if how != "SIGSEGV":  # all cases once are enough
        some = ["f16/lookup", *(f"{name}/{rows}" for name in TYPES for rows in (ONE_ROW, SEVERAL_ROWS)), "model/1"]
        monkeypatch.setattr(llamacpp_self_test, "CASES", some[:7] + some[-1:])
    answer = self_test()
    assert answer == {case: how for case in PRODUCTS if case in llamacpp_self_test.CASES}
    no_child()
    with pytest.raises(EdgeSkipError) as raised:
        check_llamacpp()
    line = str(raised.value)
    ends = "gives wrong numbers" if how == "wrong" else f"ends in {how}"
    types = "every weight type, a whole model" if how == "SIGSEGV" else "f32, f16, bf16"
    assert f"computing with {types} (1 and 37 rows) {ends}" in line
    assert "; compiled by " in line
    assert line.endswith(rebuild(answer))
    assert "\n" not in line


@needs_x86
def test_the_amx_defect_is_named_with_the_command_that_rebuilds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Debian 12 and a processor with AMX: gcc 12.2 in the library's .comment, amx_tile among the flags."""
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(break_llamacpp(tmp_path / "lib", "SIGSEGV")))
    monkeypatch.setattr(llamacpp_self_test, "CASES", ["q4_0/1", "f16/37"])
    monkeypatch.delenv("CMAKE_ARGS", raising=False)
    for module in ("core.machine", "runtime.engines.llamacpp.self_test"):
        monkeypatch.setattr(f"edgeskip.{module}.processor_flags", lambda: frozenset({"avx2", "amx_tile", "amx_int8"}))
    monkeypatch.setattr(llamacpp_self_test, "compilers_of", lambda files: [Compiler("gcc", (12, 2, 0))])
    with pytest.raises(EdgeSkipError) as raised:
        check_llamacpp()
    off = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
    assert "compiled by gcc 12.2.0, which passes 8 of the 64 bytes of the tile configuration" in str(raised.value)
    assert "(gcc bug 114098)" in str(raised.value)
    command = f"CMAKE_ARGS=\"-DCMAKE_C_FLAGS='{off}' -DCMAKE_CXX_FLAGS='{off}'\" {sys.executable} -m pip install "
    assert f"; build it again:  {command}" in str(raised.value)


def test_causes_by_signal_compiler_and_processor() -> None:
    bad, good = Compiler("gcc", (12, 2, 0)), Compiler("gcc", (14, 2, 0))
    assert known_cause({"SIGSEGV"}, [bad], {"amx_tile"})[1]
    assert known_cause({"SIGSEGV"}, [good], {"amx_tile"}) == (
        "compiled by gcc 14.2.0; perhaps it is this processor's AMX, which the command leaves out",
        True,
    )
    assert known_cause({"SIGSEGV"}, [bad], {"avx2"}) == ("compiled by gcc 12.2.0; the cause is not known", False)
    assert "instructions that this one does not have" in known_cause({"SIGILL"}, [good], {"avx2"})[0]
    assert known_cause({"wrong"}, [], {"amx_tile"}) == (
        "compiled by an unknown compiler; the cause is not known",
        False,
    )


def test_what_fails_is_told_by_type_and_rows() -> None:
    answer = {"f16/1": "SIGSEGV", "f16/37": "SIGSEGV", "q4_0/37": "SIGSEGV", "q6_K/lookup": "wrong"}
    told = describe(answer)
    assert "computing with f16 (1 and 37 rows) ends in SIGSEGV, computing with q4_0 (37 rows) ends in SIGSEGV, " in told
    assert "computing with q6_K (lookup) gives wrong numbers; compiled by " in told
    assert "loading it ends in SIGILL; compiled by " in describe({"load": "SIGILL"})


def package(folder: Path, code: str) -> Path:
    """A package `llama_cpp` that does `code` when it is imported, with a library beside it."""
    (folder / "llama_cpp" / "lib").mkdir(parents=True)
    (folder / "llama_cpp" / "__init__.py").write_text("")
    (folder / "llama_cpp" / "llama_cpp.py").write_text(code)
    (folder / "llama_cpp" / "lib" / "libllama.so").write_bytes(b"\x7fELF")
    return folder


@pytest.mark.parametrize("number", [signal.SIGILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS])
def test_a_library_that_dies_when_it_is_loaded(number: signal.Signals, tmp_path: Path) -> None:
    """As one whose first constructor uses an instruction that is not there; the process of the user goes on."""
    path = package(tmp_path / "site", f"import os; os.kill(os.getpid(), {int(number)})")
    code = "from edgeskip.runtime.engines.llamacpp.library import llama\ntry: llama()\nexcept Exception as e: print(e)"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"llama.cpp does not work here: loading it ends in {number.name}; compiled by")


def test_one_that_is_ended_from_outside_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL and SIGTERM say nothing about the library: the next process tests again."""
    path = package(tmp_path / "site", "import os; os.kill(os.getpid(), 9)")
    monkeypatch.setenv("PYTHONPATH", str(path))
    with pytest.raises(EdgeSkipError, match=r"self-test of llama.cpp was ended by SIGKILL \(.*\); try again$"):
        self_test()
    assert not (tmp_path / "cache").exists()


def test_one_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(package(tmp_path / "site", "import time; time.sleep(60)")))
    monkeypatch.setattr(self_test_runner, "LIMIT_S", 1.0)
    with pytest.raises(EdgeSkipError, match="took longer than 1 s"):
        self_test()


def test_a_package_without_its_library_is_told_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(tmp_path))
    with pytest.raises(EdgeSkipError, match=r"^llama-cpp-python does not load \(.*not found"):
        self_test()


def test_one_that_fails_in_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: a package of this name that is another thing."""
    code = "from edgeskip.runtime.engines.llamacpp import library as l; l._check_features = lambda _: None\n"
    code += "class Anything:\n def __getattr__(self, name): raise ValueError('nonsense')\n"
    code += "import sys; sys.modules[__name__] = Anything()"
    monkeypatch.setenv("PYTHONPATH", str(package(tmp_path / "site", code)))
    with pytest.raises(EdgeSkipError, match="nonsense"):
        self_test()


def test_the_tiny_model_is_a_gguf_file(tmp_path: Path) -> None:
    """Oracle: the gguf package's reader."""
    from gguf import GGUFReader

    from edgeskip.runtime.engines.llamacpp import tiny_model as tiny

    tensors = tiny._tensors()
    (tmp_path / "x.gguf").write_bytes(tiny.gguf_bytes(tensors))
    reader = GGUFReader(tmp_path / "x.gguf")
    assert {tensor.name for tensor in reader.tensors} == set(tensors)
    for tensor in reader.tensors:
        np.testing.assert_array_equal(tensor.data, tensors[tensor.name])
    assert reader.get_field("llama.vocab_size").contents() == 48  # type: ignore[union-attr]


@pytest.mark.parametrize("rows", [ONE_ROW, SEVERAL_ROWS])
def test_a_model_whose_logits_are_wrong_is_caught(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: the last token's logits are another's; one is not a number."""
    from edgeskip.runtime.engines.llamacpp import tiny_model as tiny

    run = tiny._run
    for wrong in (lambda found: np.roll(found, 1), lambda found: np.where(np.arange(48) == 3, np.nan, found)):
        monkeypatch.setattr(tiny, "_run", lambda path, prompt, wrong=wrong: wrong(run(path, prompt)))
        error, most = kernel_checks.run_case(f"model/{rows}")
        assert not error <= most


def test_what_the_library_lacks_is_its_own_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(package(tmp_path / "site", "x = 1")))
    with pytest.raises(EdgeSkipError, match="is too old: it lacks llama_backend_init"):
        self_test()


def test_without_a_library_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_child: Callable[[], None]
) -> None:
    no_child()
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    assert self_test() is None
    check_llamacpp()


def test_where_no_child_can_be_started_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python inside another program; one that finds EdgeSkip only by what this process added to its path."""
    monkeypatch.setattr(llamacpp_self_test, "CHILD", "edgeskip.no_such_module")
    check_llamacpp()
    monkeypatch.undo()
    monkeypatch.setenv("EDGESKIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "executable", "")
    check_llamacpp.cache_clear()
    check_llamacpp()
    assert not (tmp_path / "cache").exists()


@pytest.fixture
def subject(tmp_path: Path) -> self_test_cache.SelfTestSubject:
    files = (tmp_path / "a.so", tmp_path / "b.so")
    for file in files:
        file.write_text(file.name)
    return self_test_cache.SelfTestSubject("x", files, "about")


def test_answers_are_kept_by_content(subject: self_test_cache.SelfTestSubject, monkeypatch: pytest.MonkeyPatch) -> None:
    assert subject.recall() is None
    subject.remember({"q4_0/1": "SIGSEGV"})
    assert subject.recall() == {"q4_0/1": "SIGSEGV"}
    assert self_test_cache.SelfTestSubject("x", subject.files, "another processor").recall() is None
    os.utime(subject.files[0], (1, 1))  # touched, the same content
    assert subject.recall() == {"q4_0/1": "SIGSEGV"}
    with monkeypatch.context() as patched:
        patched.setattr(self_test_cache, "sha256_of", lambda path: pytest.fail("hashes though nothing changed"))
        assert subject.recall() == {"q4_0/1": "SIGSEGV"}
    subject.files[1].write_text("B.so")  # as long as before
    assert subject.recall() is None
    subject.files[1].unlink()
    assert subject.recall() is None
    subject.remember({})  # of a file that is gone: nothing to keep, no error


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", "null", '{"answer": {}}', '{"stats": 1, "sha256": 2, "answer": {}}', "[" * 9999]
)
def test_a_damaged_note_counts_as_none(subject: self_test_cache.SelfTestSubject, damage: str, tmp_path: Path) -> None:
    subject.remember({})
    (note,) = (tmp_path / "cache" / "self-tests").iterdir()
    note.write_text(damage)
    assert subject.recall() is None
    note.write_bytes(b"\xff\xfe")
    assert subject.recall() is None
    for answer in ([], {"a": 1}, "x"):
        note.write_text(json.dumps({"stats": subject._stats(), "sha256": subject._digest(), "answer": answer}))
        assert subject.recall() is None


def test_a_cache_that_cannot_be_written_is_no_error(
    subject: self_test_cache.SelfTestSubject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGESKIP_CACHE", str(tmp_path / "file"))
    subject.remember({})
    assert subject.recall() is None
