"""What `--target`, `--precision`, `--draft` and `--online` ask for, one choice for each target."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, get_args

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.whole_number import whole_numbers
from edgeskip.exporters.split import check_exit_layer

if TYPE_CHECKING:
    from edgeskip.profiles.schema import Profile

DraftKind = Literal["early-exit", "skip-plan"]
DRAFTS: tuple[DraftKind, ...] = get_args(DraftKind)

TARGETS = ("onnx", "gguf")
_ONNX_PRECISIONS = {"fp32": "fp32", "f32": "fp32", "fp16": "fp16", "f16": "fp16", "int4": "int4"}


@dataclass(frozen=True)
class Targets:
    """What is exported; `gguf_precision` None = the default for the model."""

    onnx: bool
    gguf: bool
    onnx_precision: str = "fp32"
    gguf_precision: str | None = None


def targets_of(target: str, precision: str | None) -> Targets:
    """`onnx,gguf` and `int4,q4_k_m` → Targets. EdgeSkipError for an unknown target, or a precision too many."""
    wanted = list(dict.fromkeys(name.strip().lower() for name in target.split(",")))
    for name in wanted:
        if name not in TARGETS:
            raise EdgeSkipError(f"--target {name or target} is unknown: choose onnx, gguf or onnx,gguf")
    onnx, gguf = "onnx" in wanted, "gguf" in wanted
    if precision is None:
        return Targets(onnx, gguf)
    names = [name.strip().lower() for name in precision.split(",")]
    if len(names) == 1 and not gguf:
        return Targets(onnx, gguf, _ONNX_PRECISIONS.get(names[0], names[0]))
    if len(names) == 1 and not onnx:
        return Targets(onnx, gguf, gguf_precision=names[0])
    if len(names) == 1 and names[0] in ("fp32", "f32", "fp16", "f16"):  # the same in both
        return Targets(onnx, gguf, _ONNX_PRECISIONS[names[0]], names[0])
    if not (onnx and gguf) or len(names) != 2:
        raise EdgeSkipError(
            f"--precision {precision} does not fit --target {target}: give one for each target, as in "
            "--target onnx,gguf --precision int4,q4_k_m"
        )
    by_target = dict(zip(wanted, names, strict=True))
    return Targets(onnx, gguf, _ONNX_PRECISIONS.get(by_target["onnx"], by_target["onnx"]), by_target["gguf"])


@dataclass(frozen=True)
class DraftRequest:
    """What the artifact shall draft with. `exit_layers`: early-exit, shallow first, () = the profile's own.

    `vocabulary`: tokens the draft's head shall know, None = all of them or, with the profile's exit, what it says.
    """

    kind: DraftKind
    exit_layers: tuple[int, ...] = ()
    vocabulary: int | None = None


def draft_of(
    draft: str | None, exit_layer: str | None, draft_vocab: int | None, targets: Targets
) -> DraftRequest | None:
    """`early-exit`, `4,8` and 8192 → DraftRequest, None for no draft. EdgeSkipError where the options do not fit."""
    if draft is None:
        for option, value in (("--exit-layer", exit_layer), ("--draft-vocab", draft_vocab)):
            if value is not None:
                raise EdgeSkipError(f"{option} {value} is of an early-exit draft: add --draft early-exit")
        return None
    kind = next((known for known in DRAFTS if known == draft.strip().lower()), None)
    if kind is None:
        raise EdgeSkipError(f"--draft {draft} is unknown: choose {' or '.join(DRAFTS)}")
    if kind == "skip-plan":
        if exit_layer is not None:
            raise EdgeSkipError("--exit-layer is of --draft early-exit: a skip-plan draft runs the profile's plan")
        if draft_vocab is not None:
            raise EdgeSkipError("--draft-vocab is of --draft early-exit: a skip-plan draft shares the model's own head")
        return DraftRequest(kind)
    layers = _exit_layers(exit_layer) if exit_layer is not None else ()
    if targets.gguf and len(layers) > 1:
        raise EdgeSkipError(f"--exit-layer {exit_layer}: a GGUF pair has one exit, name one (several are for onnx)")
    return DraftRequest(kind, layers, draft_vocab)


def _exit_layers(text: str) -> tuple[int, ...]:
    layers = whole_numbers(text)
    if layers is None:
        raise EdgeSkipError(
            f"--exit-layer {text:.60} is no number of blocks: give one, as in 8, or several, as in 4,8,12"
        )
    if any(deeper <= shallower for shallower, deeper in pairwise(layers)):
        raise EdgeSkipError(f"--exit-layer {text}: name the exits shallow first, each once, as in 4,8,12")
    return tuple(layers)


def settled(request: DraftRequest, profile: Profile) -> DraftRequest:
    """The request with what it leaves to the profile: the exit layer and vocabulary that its sweep found best, or, of
    exits that are named, the vocabulary that their adapters were trained for.

    EdgeSkipError where the profile has none, has no plan for a skip-plan draft, or its model no such exit.
    """
    if request.kind == "skip-plan":
        if not (profile.plan and profile.plan.skip):
            raise EdgeSkipError("--draft skip-plan needs a plan in the profile: make one with  edgeskip plan")
        return request
    swept = profile.speculation
    if not request.exit_layers:
        if swept is None:
            raise EdgeSkipError(
                "--draft early-exit needs an exit layer and the profile has no sweep: add --exit-layer E (blocks the "
                "draft runs) or find the best one with  edgeskip sweep"
            )
        vocabulary = swept.draft_vocab if request.vocabulary is None else request.vocabulary
        request = replace(request, exit_layers=(swept.exit_layer,), vocabulary=vocabulary)
    elif request.vocabulary is None:
        trained = {found.adapter_vocab for found in profile.exits if found.layer in request.exit_layers}
        request = replace(request, vocabulary=max((size for size in trained if size is not None), default=None))
    blocks, tokens = profile.model.num_blocks, profile.model.vocab_size
    for layer in request.exit_layers:
        check_exit_layer(layer, blocks)
    if request.vocabulary is not None and not 1 <= request.vocabulary <= tokens:
        raise EdgeSkipError(f"--draft-vocab {request.vocabulary} is not possible: the model has {tokens} tokens")
    return request


@dataclass(frozen=True)
class OnlineRequest:
    """FFNs shall be skipped online; None = P and β as the profile's plan says, P = 20 where it says none."""

    window: int | None = None
    threshold: float | None = None


def online_of(
    online: bool, window: int | None, beta: float | None, draft: str | None, targets: Targets
) -> OnlineRequest | None:
    """`--online`, `--window` and `--beta` → OnlineRequest, None for no gates. EdgeSkipError where they do not fit."""
    if not online:
        for option, value in (("--window", window), ("--beta", beta)):
            if value is not None:
                raise EdgeSkipError(f"{option} {value} is of online skipping: add --online")
        return None
    if not targets.onnx and beta is not None:
        raise EdgeSkipError(f"--beta {beta} is of --target onnx: llama.cpp skips the plan's decode set")
    if draft is not None:
        raise EdgeSkipError(f"--online and --draft {draft} do not go together: export an artifact for each")
    if window is not None and window < 1:
        raise EdgeSkipError(f"--window {window} is not possible: watch at least 1 token")
    if beta is not None and not -1 <= beta <= 1:
        raise EdgeSkipError(f"--beta {beta} is no similarity: give a number from -1 to 1")
    return OnlineRequest(window, beta)
