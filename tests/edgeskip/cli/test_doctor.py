"""`edgeskip doctor`. Oracle: importlib.metadata, onnxruntime and os; made-up installs for what can go wrong."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from edgeskip.cli import doctor as diagnosis
from edgeskip.core import machine, requirements
from edgeskip.core.machine import Machine
from edgeskip.core.requirements import Requirement

Cli = Callable[..., Any]


def test_what_it_tells_of_this_machine(cli: Cli) -> None:
    report = json.loads(cli("doctor", "--json").out)
    assert report["versions"]["python"] == platform.python_version()
    assert report["versions"]["tokenizers"] == importlib.metadata.version("tokenizers")
    assert report["providers"] == onnxruntime.get_available_providers()
    assert report["machine"]["logical_cores"] == os.cpu_count()
    assert 1 <= report["machine"]["usable_cores"] <= report["machine"]["logical_cores"]
    assert "smollm2-135m-instruct" in report["fetched"]


def test_text_names_the_same(cli: Cli) -> None:
    text = " ".join(cli("doctor").out.split())
    assert f"onnxruntime {onnxruntime.__version__}" in text
    assert "CPUExecutionProvider" in text


def test_it_imports_neither_torch_nor_transformers() -> None:
    code = "import sys, edgeskip.cli.doctor as d; d.diagnose(); print({'torch', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


def test_cache_folder_follows_the_environment(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESKIP_CACHE", str(tmp_path))
    report = json.loads(cli("doctor", "--json").out)
    assert report["cache"] == str(tmp_path)
    assert report["fetched"] == {"smollm2-135m-instruct": []}


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes doctor believe in other packages, providers and GPUs."""

    def pretend(
        *, builds: dict[str, str] | None = None, missing: tuple[str, ...] = (), gpus: tuple[str, ...] = ()
    ) -> None:
        declared = tuple(
            Requirement(r.package, r.specifier, r.extra, None, False) if r.package in missing else r
            for r in requirements.requirements()
        )
        fake = Machine("Linux", "cpu", 2, 2, (), None, None, gpus)
        monkeypatch.setattr(diagnosis, "requirements", lambda: declared)
        monkeypatch.setattr(diagnosis, "this_machine", lambda: fake)
        if builds is not None:
            monkeypatch.setattr(diagnosis, "onnxruntime_builds", lambda: builds)

    return pretend


def test_two_onnxruntimes_are_a_conflict(cli: Cli, install: Callable[..., None]) -> None:
    install(builds={"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.31.1"})
    outcome = cli("doctor", "--json")
    assert outcome.code == 1
    (finding,) = json.loads(outcome.out)["findings"]
    assert "overwrite each other" in finding["problem"]
    assert finding["command"] == "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"


def test_onnxruntime_gpu_stands_in_for_onnxruntime(cli: Cli, install: Callable[..., None]) -> None:
    install(builds={"onnxruntime-gpu": "1.31.1"}, missing=("onnxruntime",))
    outcome = cli("doctor", "--json")
    assert (outcome.code, json.loads(outcome.out)["findings"]) == (0, [])


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this build has CUDA")
def test_a_gpu_that_onnxruntime_cannot_use(cli: Cli, install: Callable[..., None]) -> None:
    install(gpus=("NVIDIA X, 24 GiB, 550.1",))
    outcome = cli("doctor", "--json")
    assert outcome.code == 0  # it works, on the CPU
    (finding,) = json.loads(outcome.out)["findings"]
    assert "no CUDA provider" in finding["problem"]
    assert "onnxruntime-gpu" in finding["command"]


@pytest.mark.skipif(sys.platform != "linux", reason="only there does plain torch mean the CUDA build")
def test_missing_extras_and_their_commands(cli: Cli, install: Callable[..., None]) -> None:
    install(missing=("torch", "gguf", "matplotlib", "rouge-score", "llama-cpp-python"))
    outcome = cli("doctor", "--json")
    assert outcome.code == 0  # the runtime alone works
    export, plot, evaluation, llamacpp = json.loads(outcome.out)["findings"]
    assert "torch, gguf" in export["problem"]
    assert export["command"].endswith(" && pip install 'edgeskip[export]'")
    assert "/whl/cpu" in export["command"]  # no CUDA build where there is no GPU
    assert plot["command"] == "pip install 'edgeskip[plot]'"
    assert evaluation["command"] == "pip install 'edgeskip[eval]'"
    assert llamacpp["problem"] == "run FILE.gguf needs llama-cpp-python, gguf"
    assert llamacpp["command"] == "pip install 'edgeskip[llamacpp]'"


def test_with_a_gpu_plain_torch_will_do(cli: Cli, install: Callable[..., None]) -> None:
    install(missing=("torch",), gpus=("NVIDIA X",))
    commands = [finding["command"] for finding in json.loads(cli("doctor", "--json").out)["findings"]]
    assert "pip install 'edgeskip[export]'" in commands


def test_a_broken_base_install_exits_1(cli: Cli, install: Callable[..., None]) -> None:
    install(missing=("tokenizers",))
    outcome = cli("doctor")
    assert outcome.code == 1
    assert "the base install lacks tokenizers" in outcome.out
    assert "pip install 'tokenizers>=" in outcome.out


def test_a_provider_that_crashes_is_a_finding(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: what the self-test of providers would have found."""
    from edgeskip.runtime.engines.onnxruntime import provider_self_test

    monkeypatch.setattr(provider_self_test, "run_cases", lambda *_: {"xnnpack": "SIGSEGV"})
    monkeypatch.setattr(provider_self_test.SelfTestSubject, "recall", lambda _: None)
    monkeypatch.setattr(provider_self_test.SelfTestSubject, "remember", lambda *_: None)
    built_in = ["XnnpackExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: built_in)
    provider_self_test._check.cache_clear()
    (finding,) = json.loads(cli("doctor", "--json").out)["findings"]
    provider_self_test._check.cache_clear()
    assert finding["problem"].startswith("the provider 'xnnpack' does not work here: opening it ends in SIGSEGV (")
    assert finding["command"] == "update its drivers or reinstall onnxruntime, or pass --provider cpu"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({}, "self-test passed: every weight type that an export writes, one row and several"),
        ({"f16/1": "SIGSEGV"}, "self-test failed, see below"),
        (None, "not tested: no process can be started"),
    ],
)
def test_what_it_tells_of_llamacpp(answer: Any, told: str, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: answers of the self-test. A failure does not make the base install broken."""
    from edgeskip.runtime.engines.llamacpp import self_test as llamacpp_self_test

    monkeypatch.setattr(llamacpp_self_test, "self_test", lambda **_: answer)
    monkeypatch.setattr(llamacpp_self_test, "library_files", lambda: (Path("libggml.so"),))
    outcome = cli("doctor", "--json")
    report = json.loads(outcome.out)
    assert (outcome.code, report["llamacpp"]) == (0, told)
    assert len(report["findings"]) == bool(answer)
    if answer:
        assert "computing with f16 (1 row) ends in SIGSEGV" in report["findings"][0]["problem"]
        assert "--force-reinstall" in report["findings"][0]["command"]


def test_requirements_and_the_extras_they_belong_to() -> None:
    found = {(r.package, r.extra) for r in requirements.requirements()}
    assert found >= {("numpy", None), ("torch", "export"), ("matplotlib", "plot"), ("onnxruntime-gpu", "gpu")}
    assert ("llama-cpp-python", "llamacpp") in found
    assert found.isdisjoint({("edgeskip", "dev"), ("torch", None), ("torch", "dev")})


@pytest.mark.parametrize(
    ("quota", "expected"), [("max 100000", 8), ("200000 100000", 2), ("50000 100000", 1), ("", 8), ("junk", 8)]
)
def test_cores_left_by_a_container(monkeypatch: pytest.MonkeyPatch, quota: str, expected: int) -> None:
    monkeypatch.setattr(machine, "_read", lambda path: quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert machine.usable_cores() == expected


def test_nvidia_smi_that_fails_means_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed' ; exit 9\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert machine.nvidia_gpus() == ()
    tool.write_text("#!/bin/sh\necho 'NVIDIA H100, 81559 MiB, 550.54'\n")
    assert machine.nvidia_gpus() == ("NVIDIA H100, 81559 MiB, 550.54",)


def test_what_a_killed_process_left_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: one folder of unfinished work, one of what was to be replaced; not what a live process makes."""
    from edgeskip.cli.doctor import _find_leftovers
    from edgeskip.core.locks import claim

    for name in (".out.abcdefgh.edgeskip-part", ".old.12345678.edgeskip-old", ".mine.edgeskip-part", ".a.tmp"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    found = [finding.problem for finding in _find_leftovers()]
    assert len(found) == 2
    assert ".old.12345678.edgeskip-old" in found[0]
    assert ".out.abcdefgh.edgeskip-part" in found[1]
    with claim(tmp_path / "out"):
        assert len(_find_leftovers()) == 1
