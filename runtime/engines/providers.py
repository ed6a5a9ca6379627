"""Names of the processors an artifact can run on, and the check that the one asked for is the one used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeskip.errors import EdgeSkipError

if TYPE_CHECKING:
    import onnxruntime


@dataclass(frozen=True)
class Provider:
    """One `--provider` choice: ONNX Runtime's name for it, and where the KV cache lives."""

    name: str
    execution_provider: str
    device: str = "cpu"  # device type of the KV cache; "cpu" also for accelerators that take host memory


PROVIDERS = {
    provider.name: provider
    for provider in (
        Provider("cpu", "CPUExecutionProvider"),
        Provider("cuda", "CUDAExecutionProvider", device="cuda"),
        Provider("migraphx", "MIGraphXExecutionProvider"),
        Provider("dml", "DmlExecutionProvider"),
        Provider("coreml", "CoreMLExecutionProvider"),
        Provider("nnapi", "NnapiExecutionProvider"),
        Provider("qnn", "QNNExecutionProvider"),
        Provider("xnnpack", "XnnpackExecutionProvider"),
        Provider("openvino", "OpenVINOExecutionProvider"),
        Provider("webgpu", "WebGpuExecutionProvider"),
    )
}


def find_provider(name: str) -> Provider:
    """The provider called `name`, if the installed onnxruntime has it; EdgeSkipError lists those it has."""
    import onnxruntime

    installed = onnxruntime.get_available_providers()
    usable = ", ".join(p.name for p in PROVIDERS.values() if p.execution_provider in installed)
    provider = PROVIDERS.get(name.lower())
    if provider is None:
        raise EdgeSkipError(f"unknown provider {name!r}: available here: {usable}")
    if provider.execution_provider not in installed:
        hint = ": pip install onnxruntime-gpu in place of onnxruntime" if provider.name == "cuda" else ""
        raise EdgeSkipError(
            f"this onnxruntime was built without the provider {provider.name!r} (available here: {usable}){hint}"
        )
    return provider


def check_provider(session: onnxruntime.InferenceSession, provider: Provider) -> None:
    """EdgeSkipError where ONNX Runtime quietly fell back to another provider, for the session or for every node."""
    used = session.get_providers()
    if not used or used[0] != provider.execution_provider:
        raise EdgeSkipError(
            f"the provider {provider.name!r} could not start here and onnxruntime would use {', '.join(used)}: "
            "check its drivers and libraries with  edgeskip doctor,  or pass --provider cpu"
        )
    if provider.name == "cpu":
        return
    subgraphs: list[Any] = getattr(session, "get_provider_graph_assignment_info", list)()
    if subgraphs and all(subgraph.ep_name != provider.execution_provider for subgraph in subgraphs):
        raise EdgeSkipError(
            f"the provider {provider.name!r} can run no part of this graph, all of it would run on the CPU: "
            "pass --provider cpu"
        )
