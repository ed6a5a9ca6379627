"""The processors that an artifact can run on, and the check that the requested one is used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.engines.onnxruntime.plugin_providers import plugin_devices, plugin_module
from edgeskip.runtime.engines.onnxruntime.provider_self_test import check_opens

if TYPE_CHECKING:
    import onnxruntime


@dataclass(frozen=True)
class Provider:
    """One `--provider` choice: ONNX Runtime's name for it, and the place of the KV cache."""

    name: str
    execution_provider: str
    device: str = "cpu"  # device type of the KV cache; "cpu" also for accelerators that take host memory
    threads_option: str | None = None  # its own option for the number of threads; None = it has none
    kinds: tuple[str, ...] = ()  # what may follow its name after a colon
    device_option: str | None = None  # its own option for the kind of device; None = it has one kind
    compiles: bool = True  # it takes the values of optional inputs for constants
    captures: bool = False  # decode steps are recorded once and replayed
    device_type: str | None = None  # cpu, gpu or npu, if one of several kinds was requested
    plugin: tuple[Any, ...] = ()  # ONNX Runtime's devices of a plugin; () = built into ONNX Runtime

    def options(self, threads: int) -> dict[str, str]:
        """Return the provider's own options, as ONNX Runtime takes them."""
        found = {}
        if self.threads_option and self.device_type in (None, "cpu"):
            found[self.threads_option] = str(threads)
        if self.device_option and not self.plugin:
            found[self.device_option] = (self.device_type or "cpu").upper()
        if self.captures:
            found["enable_cuda_graph"] = "1"
        return found


PROVIDERS = {
    provider.name: provider
    for provider in (
        Provider("cpu", "CPUExecutionProvider", compiles=False),
        Provider("cuda", "CUDAExecutionProvider", device="cuda", compiles=False, kinds=("graphs",)),
        Provider("migraphx", "MIGraphXExecutionProvider"),
        Provider("dml", "DmlExecutionProvider"),
        Provider("coreml", "CoreMLExecutionProvider"),
        Provider("nnapi", "NnapiExecutionProvider"),
        Provider("qnn", "QNNExecutionProvider"),
        Provider("xnnpack", "XnnpackExecutionProvider", threads_option="intra_op_num_threads"),
        Provider(
            "openvino",
            "OpenVINOExecutionProvider",
            threads_option="num_of_threads",
            kinds=("cpu", "gpu", "npu"),
            device_option="device_type",
        ),
        Provider("webgpu", "WebGpuExecutionProvider"),
    )
}
_INSTEAD = {"cuda": "onnxruntime-gpu", "dml": "onnxruntime-directml", "qnn": "onnxruntime-qnn"}
_PLUGINS = {"openvino": "onnxruntime-ep-openvino", "webgpu": "onnxruntime-ep-webgpu"}


def find_provider(name: str) -> Provider:
    """Return the provider called `name`; raises EdgeSkipError if neither onnxruntime nor a plugin has it.

    A provider for several kinds of device takes one after a colon, `openvino:gpu`; without, the CPU. `cuda:graphs`
    replays decode steps as CUDA graphs. One that ends the process it is opened in is refused: that is found out in a
    child, the first time that its build is used.
    """
    return locate_provider(name, check_opens)


def self_test_provider(name: str) -> None:
    """Run the self-test of the provider called `name`, if it is installed; raises EdgeSkipError if it fails."""
    provider = PROVIDERS.get(name.lower().partition(":")[0])
    if provider is not None and is_loaded_with_care(provider):
        check_opens(name.lower())


def is_loaded_with_care(provider: Provider) -> bool:
    """Return whether the provider is installed and loads its own libraries, which may crash."""
    import onnxruntime

    if provider.name == "cpu":
        return False
    installed = provider.execution_provider in onnxruntime.get_available_providers()
    return installed or plugin_module(provider.name.partition(":")[0]) is not None


def locate_provider(name: str, check: Callable[[str], None]) -> Provider:
    """Do what `find_provider` does; call `check` with the name before loading anything of an installed provider."""
    import onnxruntime

    installed = onnxruntime.get_available_providers()
    base, _, device_type = name.lower().partition(":")
    usable = ", ".join(p.name for p in PROVIDERS.values() if p.execution_provider in installed)
    provider = PROVIDERS.get(base)
    if provider is None:
        raise EdgeSkipError(f"unknown provider {name!r}: available here: {usable}")
    if device_type:
        if device_type not in provider.kinds:
            kinds = [f"{one.name}:{kind}" for one in PROVIDERS.values() for kind in one.kinds]
            raise EdgeSkipError(f"unknown provider {name!r}: what may follow a colon is {', '.join(kinds)}")
        captures = device_type == "graphs"
        device_type = "" if captures else device_type
        provider = replace(provider, name=name.lower(), device_type=device_type or None, captures=captures)
    if is_loaded_with_care(provider):
        check(provider.name)
    if provider.execution_provider in installed:
        return provider
    devices = plugin_devices(base, provider.execution_provider, provider.device_type)
    if devices:
        return replace(provider, plugin=devices)
    hint = ""
    if base in _INSTEAD:
        hint = f": pip install {_INSTEAD[base]} in place of onnxruntime"
    elif base in _PLUGINS:
        hint = f": pip install {_PLUGINS[base]}"
    raise EdgeSkipError(
        f"this onnxruntime was built without the provider {provider.name!r} (available here: {usable}){hint}"
    )


def check_provider(session: onnxruntime.InferenceSession, provider: Provider) -> None:
    """Raise EdgeSkipError if ONNX Runtime quietly fell back to another provider, for the session or for every node."""
    used = session.get_providers()
    if not used or used[0] != provider.execution_provider:
        raise EdgeSkipError(
            f"the provider {provider.name!r} could not start here and onnxruntime would use {', '.join(used)}: "
            "check its drivers and libraries with  edgeskip doctor,  or use the provider cpu"
        )
    if provider.name == "cpu":
        return
    nodes = nodes_by_provider(session)
    if nodes and not nodes.get(provider.name.partition(":")[0]):
        raise EdgeSkipError(
            f"the provider {provider.name!r} can run no part of this graph, all of it would run on the CPU: "
            "use the provider cpu"
        )


def nodes_by_provider(session: onnxruntime.InferenceSession) -> dict[str, int]:
    """Return the number of nodes that each provider runs, by our name for it; {} if ONNX Runtime does not report it.

    It reports what the session's options asked it to record; ours do for every provider but the CPU's.
    """
    names = {provider.execution_provider: provider.name for provider in PROVIDERS.values()}
    counts: Counter[str] = Counter()
    subgraphs: list[Any] = getattr(session, "get_provider_graph_assignment_info", list)()
    for subgraph in subgraphs:
        counts[names.get(subgraph.ep_name, subgraph.ep_name)] += len(subgraph.get_nodes())
    return dict(counts)
