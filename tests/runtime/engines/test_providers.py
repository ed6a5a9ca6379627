"""Which provider runs, and what is said where one cannot. Oracle: ONNX Runtime's own lists, or fakes of its plugins."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from tiny_graph import TinyArtifact

from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.engines.onnxruntime import plugin_providers, providers
from edgeskip.runtime.engines.onnxruntime.engine import OnnxRuntimeEngine
from edgeskip.runtime.engines.onnxruntime.providers import PROVIDERS, find_provider, nodes_by_provider

TOKENS = np.arange(1, 20)


class FakeDevice:
    """As ONNX Runtime describes a device of a plugin."""

    def __init__(self, kind: str) -> None:
        self.ep_name = "OpenVINOExecutionProvider"
        self.device = types.SimpleNamespace(type=f"OrtHardwareDeviceType.{kind}")


@pytest.fixture(autouse=True)
def no_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is faked here is not there for a child."""
    monkeypatch.setattr(providers, "check_opens", lambda name: None)


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An installed plugin for openvino with a CPU and a GPU; what was registered with ONNX Runtime."""
    module = types.ModuleType("onnxruntime_ep_openvino")
    module.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]  # that there is one is all that is asked
    module.get_library_path = lambda: "/plugin.so"  # type: ignore[attr-defined]
    registered: list[str] = []
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_openvino", module)
    monkeypatch.setattr(plugin_providers, "_registered", set())
    monkeypatch.setattr(
        onnxruntime, "register_execution_provider_library", lambda name, path: registered.append(f"{name} {path}")
    )
    monkeypatch.setattr(onnxruntime, "get_ep_devices", lambda: [FakeDevice("GPU"), FakeDevice("CPU")])
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    return registered


def test_a_plugin_is_registered_once_and_its_cpu_comes_first(plugin: list[str]) -> None:
    for _ in range(2):
        found = find_provider("openvino")
        assert [str(device.device.type) for device in found.plugin] == ["OrtHardwareDeviceType.CPU"]
    assert plugin == ["edgeskip.openvino /plugin.so"]
    assert found.options(3) == {"num_of_threads": "3"}


def test_a_kind_of_device_can_be_named(plugin: list[str]) -> None:
    found = find_provider("OpenVINO:gpu")
    assert (found.name, str(found.plugin[0].device.type)) == ("openvino:gpu", "OrtHardwareDeviceType.GPU")
    assert found.options(3) == {}  # threads are the CPU's
    with pytest.raises(EdgeSkipError, match=r"finds no npu device it supports here \(it found: cpu, gpu\)"):
        find_provider("openvino:npu")


def test_a_plugin_that_finds_nothing_says_what_to_do(plugin: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_ep_devices", list)
    with pytest.raises(EdgeSkipError, match="takes Intel's processors only: onnxruntime-openvino, in place of"):
        find_provider("openvino")


def test_a_broken_plugin(plugin: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str, path: str) -> None:
        raise RuntimeError("undefined symbol\nin libx")

    monkeypatch.setattr(onnxruntime, "register_execution_provider_library", fail)
    with pytest.raises(EdgeSkipError, match=r"cannot be loaded \(undefined symbol in libx\).*onnxruntime-ep-openvino"):
        find_provider("openvino")


def test_built_in_openvino_is_told_its_device_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys are those of ONNX Runtime's page on the OpenVINO execution provider."""
    built_in = ["OpenVINOExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: built_in)
    assert find_provider("openvino").options(2) == {"num_of_threads": "2", "device_type": "CPU"}
    assert find_provider("openvino:npu").options(2) == {"device_type": "NPU"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tpu", "unknown provider 'tpu': available here: cpu"),
        ("cuda:gpu", "what may follow a colon is cuda:graphs, openvino:cpu, openvino:gpu, openvino:npu"),
        ("openvino:tpu", "openvino:cpu"),
        ("webgpu", "pip install onnxruntime-ep-webgpu"),
        ("qnn", "pip install onnxruntime-qnn in place of onnxruntime"),
        ("coreml", "built without the provider 'coreml'"),
    ],
)
def test_what_is_not_there_is_one_line(name: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(plugin_providers.importlib.util, "find_spec", lambda module: None)
    with pytest.raises(EdgeSkipError) as raised:
        find_provider(name)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_nodes_are_counted_by_our_names() -> None:
    """Oracle: by hand."""

    def part(name: str, nodes: int) -> Any:
        return types.SimpleNamespace(ep_name=name, get_nodes=lambda: [None] * nodes)

    told = [part("OpenVINOExecutionProvider", 5), part("CPUExecutionProvider", 2), part("OpenVINOExecutionProvider", 4)]
    session: Any = types.SimpleNamespace(get_provider_graph_assignment_info=lambda: told)
    assert nodes_by_provider(session) == {"openvino": 9, "cpu": 2}


def test_a_provider_that_compiles_gets_required_inputs(tiny_artifact: TinyArtifact, tmp_path: Path) -> None:
    """The CPU provider, said to compile, over the graph without its optional inputs' values. Oracle: numpy."""
    from dataclasses import replace

    from edgeskip.runtime.engines.onnxruntime import session as module

    compiles = replace(PROVIDERS["cpu"], compiles=True)
    settings = module.SessionConfig(compiles, threads=1, frugal=False)
    shape = module.shape_of(tiny_artifact.manifest.graph, switches=frozenset({"logits_to_keep"}))
    session = module.open_session(tiny_artifact.folder, tiny_artifact.manifest, shape, settings)
    assert "logits_to_keep" in {value.name for value in session.get_inputs()}
    from edgeskip.runtime.engines.onnxruntime.graph import GraphRunner

    runner = GraphRunner(session, shape, compiles)
    np.testing.assert_allclose(runner.append_tokens(TOKENS, 3), tiny_artifact.logits(TOKENS)[-3:], rtol=1e-4, atol=1e-4)


def test_the_cpu_runs_every_node_and_none_is_counted(tiny_artifact: TinyArtifact) -> None:
    engine = OnnxRuntimeEngine(tiny_artifact.folder, tiny_artifact.manifest, threads=1)
    assert engine.nodes == {}


@pytest.mark.parametrize(
    ("version", "quantisation", "hidden", "refused"),
    [
        ("1.26.0", {"block_size": 64, "symmetric": False, "head_bits": 4}, 576, True),  # 9 blocks a row
        ("1.27.0", {"block_size": 64, "symmetric": False, "head_bits": 4}, 576, False),
        ("1.26.0", {"block_size": 32, "symmetric": False, "head_bits": 4}, 576, False),  # 18
        ("1.26.0", {"block_size": 64, "symmetric": True, "head_bits": 4}, 576, False),
        ("1.26.0", {"block_size": 64, "symmetric": False, "head_bits": 8}, 576, False),
        ("1.26.0", {}, 576, False),
    ],
)
def test_int4_embeddings_that_an_old_onnxruntime_reads_wrongly_are_refused(
    tiny_artifact: TinyArtifact,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    quantisation: dict[str, str | int | bool],
    hidden: int,
    refused: bool,
) -> None:
    """Oracle: onnxruntime 1.24 to 1.26 gave nonsense for such an export of SmolLM2, 1.27 did not."""
    from edgeskip.runtime.engines.onnxruntime import session as module

    manifest = tiny_artifact.manifest
    manifest = manifest.model_copy(
        update={
            "graph": manifest.graph.model_copy(update={"quantisation": quantisation}),
            "model": manifest.model.model_copy(update={"hidden_size": hidden}),
        }
    )
    monkeypatch.setattr(onnxruntime, "__version__", version)
    if refused:
        with pytest.raises(EdgeSkipError, match=r"1\.27 or newer, or export with  --block-size 32"):
            module._check_version(manifest)
    else:
        module._check_version(manifest)


def test_the_openvino_plugin_itself(tiny_artifact: TinyArtifact) -> None:
    """Oracle: numpy. Where the plugin is installed and takes this processor."""
    pytest.importorskip("onnxruntime_ep_openvino", reason="needs the package onnxruntime-ep-openvino")
    try:
        engine = OnnxRuntimeEngine(tiny_artifact.folder, tiny_artifact.manifest, provider="openvino", threads=1)
    except EdgeSkipError as error:
        pytest.skip(str(error))
    expected = tiny_artifact.logits(TOKENS)
    np.testing.assert_allclose(engine.step(TOKENS, logits=3), expected[-3:], rtol=1e-3, atol=1e-3)
    assert engine.nodes["openvino"] > 0
