"""The one line each error gets. Oracle: errors that the system and the libraries raise themselves."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeskip.core.errors import EdgeSkipError, MissingExtraError
from edgeskip.core.user_errors import explain

FULL = Path("/dev/full")  # every write to it fails as on a full disk
needs_dev_full = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full on this system")


def caught(action: Callable[[], object]) -> BaseException:
    with pytest.raises(BaseException) as info:  # noqa: PT011 (whatever the library raises is the point)
        action()
    return info.value


def test_our_own_errors_are_told_as_they_are() -> None:
    assert explain(EdgeSkipError("what\nto do")) == "what to do"
    assert explain(MissingExtraError("torch", "export")) == (
        "this needs the package 'torch': run pip install 'edgeskip[export]'"
    )


def test_defects_are_not_explained() -> None:
    assert explain(ValueError("no")) is None
    assert explain(KeyError("no")) is None
    assert explain(RuntimeError("no")) is None


@needs_dev_full
def test_full_disk_as_python_reports_it() -> None:
    def write() -> None:
        with FULL.open("wb", buffering=0) as file:
            file.write(b"x")

    line = explain(caught(write))
    assert line is not None
    assert "No space left on device: free some space" in line


@needs_dev_full
def test_full_disk_as_numpy_reports_it() -> None:
    def write() -> None:
        with FULL.open("wb") as file:
            np.zeros(1 << 20).tofile(file)

    line = explain(caught(write))
    assert line is not None
    assert "No space left on device" in line


@needs_dev_full
def test_full_disk_as_rust_libraries_report_it() -> None:
    """safetensors and tokenizers raise exceptions of their own with '(os error 28)' in the text."""
    from tokenizers import Tokenizer, models

    line = explain(caught(lambda: Tokenizer(models.BPE()).save(str(FULL))))
    assert line is not None
    assert "No space left on device: free some space" in line


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOENT, errno.EISDIR, errno.ENOTDIR])
def test_os_errors_name_the_path_and_a_remedy(number: int) -> None:
    line = explain(OSError(number, os.strerror(number), "/some/where"))
    assert line is not None
    assert line.startswith(f"/some/where: {os.strerror(number)}: ")


def test_a_copy_to_a_full_disk_names_the_copy() -> None:
    """shutil.copyfile's error names source and target."""
    line = explain(OSError(errno.ENOSPC, "No space left on device", "/source", None, "/target"))
    assert line is not None
    assert line.startswith("/target: No space left on device")


def test_memory() -> None:
    line = explain(caught(lambda: np.zeros(1 << 60, np.uint8)))
    assert line is not None
    assert line.startswith("not enough memory (Unable to allocate")


def test_memory_as_torch_reports_it() -> None:
    torch = pytest.importorskip("torch")
    line = explain(caught(lambda: torch.zeros(1 << 60, dtype=torch.uint8)))
    assert line is not None
    assert line.startswith("not enough memory")


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("torch", "torch", "export"),
        ("transformers", "transformers", "export"),
        ("onnx_ir", "onnx-ir", "export"),
        ("gguf", "gguf", "export"),
        ("huggingface_hub", "huggingface-hub", "export"),
        ("matplotlib", "matplotlib", "plot"),
    ],
)
def test_a_missing_package_names_its_extra(
    monkeypatch: pytest.MonkeyPatch, module: str, package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # what Python does then is what it does for a missing package
    line = explain(caught(lambda: __import__(module)))
    assert line == f"this needs the package {package!r}: run pip install 'edgeskip[{extra}]'"


def test_an_installed_package_that_does_not_import_is_told_apart() -> None:
    line = explain(ImportError("libcudart.so.12: cannot open shared object file", name="numpy"))
    assert line is not None
    assert "the installed package 'numpy' does not work here (libcudart.so.12" in line


def test_an_import_error_of_our_own_modules_is_a_defect() -> None:
    assert explain(caught(lambda: __import__("edgeskip.no_such_module"))) is None
