"""Open one graph of an artifact with ONNX Runtime, and check that it is the graph that its manifest describes."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgeskip.artifacts.files import check_file
from edgeskip.artifacts.manifest import GraphRecord, Manifest
from edgeskip.artifacts.path_errors import MANIFEST_NAME
from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.engines.onnxruntime.linked_weights import follow_links
from edgeskip.runtime.engines.onnxruntime.providers import Provider, check_provider, find_provider
from edgeskip.runtime.engines.onnxruntime.runtime_graph import SWITCHES, rotary_positions, runtime_graph
from edgeskip.runtime.engines.threads import threads_or_default

_TENSORS = {"float32": "tensor(float)", "float16": "tensor(float16)"}


@dataclass(frozen=True)
class SessionConfig:
    """How every graph of an artifact is opened."""

    provider: Provider
    threads: int  # intra-op
    frugal: bool  # run straight from the mapped weight file, slower: no second copy in the kernels' own layout
    stop_spinning: bool = False  # worker threads go to sleep at the end of a run, for another session's to work
    profile: Path | None = None  # the session times its nodes until its profiling is ended; begin of the file's name


def session_config(provider: str, threads: int | None, *, frugal: bool) -> SessionConfig:
    """Return the config for the user's options.

    Raises EdgeSkipError if the provider or `threads` cannot be used here.
    """
    return SessionConfig(find_provider(provider), threads_or_default(threads), frugal)


@dataclass(frozen=True)
class GraphShape:
    """What an engine must know of one graph, and the graph must have.

    It reads token ids or, where `states_in`, exit states [1, n, hidden_size] in the caches' type; it gives logits
    [1, k, columns] and, where `states_out`, its own exit states. `switches` are its overridable initializers that the
    engine cannot do without.
    """

    file: str
    kv_layers: int
    kv_heads: int
    head_dim: int
    dtype: Literal["float32", "float16"]  # of the caches and exit states
    logits_dtype: Literal["float32", "float16"]
    columns: int
    context_length: int
    hidden_size: int = 0
    states_in: bool = False
    states_out: bool = False
    switches: frozenset[str] = frozenset()


def shape_of(graph: GraphRecord, *, switches: frozenset[str] = frozenset()) -> GraphShape:
    """Return the shape of the whole model's graph."""
    return GraphShape(
        file=graph.file,
        kv_layers=graph.num_kv_layers,
        kv_heads=graph.num_kv_heads,
        head_dim=graph.head_dim,
        dtype=graph.kv_dtype,
        logits_dtype=graph.logits_dtype,
        columns=graph.vocab_size,
        context_length=graph.context_length,
        switches=switches,
    )


def open_session(folder: Path, manifest: Manifest, shape: GraphShape, settings: SessionConfig) -> Any:
    """Return ONNX Runtime's session over `folder/shape.file`.

    Raises EdgeSkipError if it is damaged or has another shape.
    """
    path = folder / shape.file
    check_file(path, manifest.files.get(shape.file))
    _check_version(manifest)
    model = path.read_bytes()
    _check_context(model, path, shape.context_length)
    session = _open(model, path, settings)
    _check_shape(session, shape)
    return session


def switches_of(session: Any) -> set[str]:
    """Return those of `SWITCHES` that the session's graph has, optional or not."""
    values = [*session.get_overridable_initializers(), *session.get_inputs()]
    return {value.name for value in values} & SWITCHES


def _check_context(model: bytes, path: Path, context_length: int) -> None:
    """Raise EdgeSkipError if the manifest promises more positions than the graph's rotary tables have."""
    with suppress(ValueError):  # no ONNX model: opening it says so
        positions = rotary_positions(model)
        if positions is not None and context_length > positions:
            raise EdgeSkipError(
                f"{path.with_name(MANIFEST_NAME)} says that the context is {context_length} tokens, but {path.name} "
                f"covers {positions} positions: export again"
            )


def first_line(error: Exception) -> str:
    """Return the first line of ONNX Runtime's message, without its prefix."""
    line = str(error).strip().split("\n")[0]
    return re.sub(r"^(?:Error in execution: |\[ONNXRuntimeError\] : \d+ : \w+ : )+", "", line)


def _open(model: bytes, path: Path, settings: SessionConfig) -> Any:
    import onnxruntime

    provider, threads = settings.provider, settings.threads
    onnxruntime.disable_telemetry_events()  # builds that have telemetry send none from here
    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    # Constant folding would keep widened copies of fp16 weights; int4 kernels exist in their own layout only.
    options.graph_optimization_level = levels.ORT_DISABLE_ALL if settings.frugal else levels.ORT_ENABLE_ALL
    if settings.frugal:
        options.add_session_config_entry("session.disable_prepacking", "1")
        # The CPU widens fp16 weights with a Cast each; by priority a Cast runs right before its use, not all at first.
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL  # a decoder is a chain
    options.inter_op_num_threads = 1
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # fatal: errors are raised, so they need not be printed as well
    # Worker threads spin through the gaps between operators and between decode steps: waking them costs more.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if threads > 1 else "0")
    if settings.stop_spinning:
        options.add_session_config_entry("session.force_spinning_stop", "1")
    if settings.profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(settings.profile)
    providers: list[Any] = [(provider.execution_provider, provider.options(threads))]
    if provider.name != "cpu":
        providers.append("CPUExecutionProvider")  # shape arithmetic
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if provider.plugin:
        options.add_provider_for_devices(list(provider.plugin), provider.options(threads))
        providers = []  # the options name them; the CPU's is there anyway
    try:
        model, folder = follow_links(runtime_graph(model, required=provider.compiles), path)
    except ValueError as error:
        raise EdgeSkipError(f"{path} is damaged ({error}): export again") from None
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    try:
        session = onnxruntime.InferenceSession(model, options, providers=providers or None, enable_fallback=0)
    except Exception as error:  # onnxruntime's own classes share no base but Exception
        if provider.name == "cpu":
            raise EdgeSkipError(f"onnxruntime cannot load {path}: {first_line(error)}: export again") from error
        why = first_line(error)
        # Providers name their own files and functions first and the problem last.
        why = why if len(why) < 300 else f"… {why[-300:]}"
        raise EdgeSkipError(
            f"the provider {provider.name!r} cannot load {path}: {why}: it may lack what the graph needs, "
            "use the provider cpu"
        ) from error
    check_provider(session, provider)
    return session


def _check_version(manifest: Manifest) -> None:
    """Raise EdgeSkipError if this onnxruntime reads the artifact's int4 embedding wrongly.

    Two 4-bit zero points share a byte. Where a row has an odd number of blocks, GatherBlockQuantized before 1.27 takes
    those of another row (onnxruntime pull request 26506), and the text is nonsense.
    """
    import onnxruntime
    from packaging.version import Version

    quantisation = manifest.graph.quantisation
    if quantisation.get("head_bits") != 4 or quantisation.get("symmetric"):
        return
    blocks = manifest.model.hidden_size // int(quantisation.get("block_size", 1))
    if blocks % 2 and Version(onnxruntime.__version__) < Version("1.27"):
        raise EdgeSkipError(
            f"onnxruntime {onnxruntime.__version__} reads this artifact's int4 embedding wrongly: "
            "install onnxruntime 1.27 or newer, or export with  --block-size 32"
        )


def _check_shape(session: Any, shape: GraphShape) -> None:
    inputs = {value.name: value for value in session.get_inputs() if value.name not in SWITCHES}
    outputs = {value.name: value for value in session.get_outputs()}
    caches = [value for name, value in inputs.items() if name.startswith("past_key_values.")]
    source = "hidden_states" if shape.states_in else "input_ids"
    wanted = {source, "attention_mask"}
    for layer in range(min(shape.kv_layers, len(caches))):
        wanted |= {f"past_key_values.{layer}.key", f"past_key_values.{layer}.value"}
    states = [inputs.get("hidden_states")] * shape.states_in + [outputs.get("exit_states")] * shape.states_out
    logits = outputs.get("logits")
    fits = (
        set(inputs) == wanted
        and len(caches) == 2 * shape.kv_layers
        and all((value.shape[1], value.shape[3]) == (shape.kv_heads, shape.head_dim) for value in caches)
        and all(value.type == _TENSORS[shape.dtype] for value in caches)
        and all(
            value is not None and (value.shape[-1], value.type) == (shape.hidden_size, _TENSORS[shape.dtype])
            for value in states
        )
        and logits is not None
        and (logits.shape[-1], logits.type) == (shape.columns, _TENSORS[shape.logits_dtype])
        and shape.switches <= switches_of(session)
    )
    if not fits:
        raise EdgeSkipError(f"{shape.file} has other inputs and outputs than its manifest describes: export again")
