"""What a user can choose about an export, parsed: targets and precisions, a draft, online skipping, int4's details."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, get_args

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.lists import parse_names, parse_numbers
from edgeskip.exporters.split import check_exit_layer

if TYPE_CHECKING:
    from edgeskip.profiles.schema import Profile

DraftKind = Literal["early-exit", "skip-plan"]
DRAFTS: tuple[DraftKind, ...] = get_args(DraftKind)

TARGETS = ("onnx", "gguf")
_COMMON_PRECISIONS = ("fp32", "f32", "fp16", "f16")  # names that mean the same to every target


@dataclass(frozen=True)
class DraftRequest:
    """What the artifact drafts with.

    Attributes:
        kind: `early-exit` or `skip-plan`.
        exit_layers: Early exit: blocks that the draft runs, shallow first; () = the profile's own.
        vocabulary: Tokens in the draft's head; None = all, or as many as the profile's exit was trained for.
    """

    kind: DraftKind
    exit_layers: tuple[int, ...] = ()
    vocabulary: int | None = None


@dataclass(frozen=True)
class OnlineRequest:
    """FFNs are skipped online; None = P and β of the profile's plan, P = 20 if it has none."""

    window: int | None = None
    threshold: float | None = None


@dataclass(frozen=True)
class Int4Options:
    """How int4 weights are stored; see `exporters.onnx.formats.WeightFormat`."""

    block_size: int = 64
    symmetric: bool = False
    head_bits: int = 4
    accuracy_level: int = 4


@dataclass(frozen=True)
class ExportPolicy:
    """How an export is checked and what it may replace.

    Attributes:
        overwrite: Whether what is at the output may be replaced.
        check: Whether the artifact is compared with the torch model.
        allow_mismatch: Whether an artifact that fails the check is kept.
    """

    overwrite: bool = False
    check: bool = True
    allow_mismatch: bool = False


DEFAULT_POLICY = ExportPolicy()


@dataclass(frozen=True)
class ExportOptions:
    """All that a user can choose about an export.

    Attributes:
        precisions: The targets, in the order in which they are written, each with its precision; None = the default.
        draft: What the artifact drafts with; None for no draft.
        online: What is skipped online; None for nothing.
        int4: Details of `int4`.
        policy: How the result is checked and what it may replace.
    """

    precisions: Mapping[str, str | None]
    draft: DraftRequest | None = None
    online: OnlineRequest | None = None
    int4: Int4Options = field(default_factory=Int4Options)
    policy: ExportPolicy = DEFAULT_POLICY


def export_options(
    *,
    target: str = "onnx",
    precision: str | None = None,
    draft: str | None = None,
    exit_layer: str | int | Sequence[int] | None = None,
    draft_vocab: int | None = None,
    online: bool = False,
    window: int | None = None,
    beta: float | None = None,
    block_size: int = 64,
    symmetric: bool = False,
    head_bits: int = 4,
    accuracy_level: int = 4,
    overwrite: bool = False,
    check: bool = True,
    allow_mismatch: bool = False,
) -> ExportOptions:
    """Return the options for the words and numbers that a user gives to `edgeskip export`.

    Raises:
        EdgeSkipError: If a word is unknown or options do not go together.
    """
    precisions = parse_targets(target, precision)
    return ExportOptions(
        precisions=precisions,
        draft=parse_draft(draft, exit_layer, draft_vocab, precisions),
        online=parse_online(online, window, beta, draft, precisions),
        int4=Int4Options(block_size, symmetric, head_bits, accuracy_level),
        policy=ExportPolicy(overwrite, check, allow_mismatch),
    )


def parse_targets(target: str, precision: str | None) -> dict[str, str | None]:
    """Return the precision of each target: `onnx,gguf` and `int4,q4_k_m` → {"onnx": "int4", "gguf": "q4_k_m"}.

    Precisions belong to the targets in the order in which both are named; targets come in the order of `TARGETS`.

    Raises:
        EdgeSkipError: If a target is unknown, or there are more or fewer precisions than targets.
    """
    wanted = parse_names(target, "--target", TARGETS)
    names: list[str | None] = [None] * len(wanted)
    if precision is not None:
        given = [name.strip().lower() for name in precision.split(",")]
        if len(given) == 1 and given[0] in _COMMON_PRECISIONS:
            given *= len(wanted)
        if len(given) != len(wanted):
            raise EdgeSkipError(
                f"--precision {precision} does not fit --target {target}: give one for each target, as in "
                "--target onnx,gguf --precision int4,q4_k_m"
            )
        names = [*given]
    by_target = dict(zip(wanted, names, strict=True))
    return {name: by_target[name] for name in TARGETS if name in by_target}


def parse_draft(
    draft: str | None,
    exit_layer: str | int | Sequence[int] | None,
    draft_vocab: int | None,
    targets: Mapping[str, str | None] | Sequence[str],
) -> DraftRequest | None:
    """Return the draft for `early-exit`, `4,8` and 8192; None for no draft.

    Raises:
        EdgeSkipError: If the kind is unknown or the options do not go together.
    """
    if draft is None:
        for option, value in (("--exit-layer", exit_layer), ("--draft-vocab", draft_vocab)):
            if value is not None:
                raise EdgeSkipError(f"{option} {value} requires --draft early-exit; add it or leave {option} out")
        return None
    kind = next((known for known in DRAFTS if known == draft.strip().lower()), None)
    if kind is None:
        raise EdgeSkipError(f"--draft {draft} is unknown: choose {' or '.join(DRAFTS)}")
    if kind == "skip-plan":
        for option, value, why in (
            ("--exit-layer", exit_layer, "runs the profile's plan"),
            ("--draft-vocab", draft_vocab, "shares the model's own head"),
        ):
            if value is not None:
                raise EdgeSkipError(
                    f"{option} requires --draft early-exit: a skip-plan draft {why}; leave {option} out"
                )
        return DraftRequest(kind)
    layers = _exit_layers(exit_layer) if exit_layer is not None else ()
    if "gguf" in targets and len(layers) > 1:
        raise EdgeSkipError(f"--exit-layer {exit_layer}: a GGUF pair has one exit; name one (several need onnx)")
    return DraftRequest(kind, layers, draft_vocab)


def _exit_layers(given: str | int | Sequence[int]) -> tuple[int, ...]:
    if isinstance(given, int):
        return (given,)
    layers = parse_numbers(given, "--exit-layer") if isinstance(given, str) else given
    repeated = isinstance(given, str) and len(layers) <= given.count(",")
    if repeated or any(deeper <= shallower for shallower, deeper in pairwise(layers)):
        raise EdgeSkipError(f"--exit-layer {given}: name the exits shallow first, each once, as in 4,8,12")
    return tuple(layers)


def parse_online(
    online: bool,
    window: int | None,
    beta: float | None,
    draft: str | None,
    targets: Mapping[str, str | None] | Sequence[str],
) -> OnlineRequest | None:
    """Return what `--online`, `--window` and `--beta` ask for; None without `--online`.

    Raises:
        EdgeSkipError: If a number is out of range or the options do not go together.
    """
    if not online:
        for option, value in (("--window", window), ("--beta", beta)):
            if value is not None:
                raise EdgeSkipError(f"{option} {value} requires --online; add it or leave {option} out")
        return None
    if "onnx" not in targets and beta is not None:
        raise EdgeSkipError(
            f"--beta {beta} requires --target onnx: llama.cpp skips the plan's decode set; leave --beta out"
        )
    if draft is not None:
        raise EdgeSkipError(f"--online and --draft {draft} do not go together: export an artifact for each")
    if window is not None and window < 1:
        raise EdgeSkipError(f"--window {window} is not possible: watch at least 1 token")
    if beta is not None and not -1 <= beta <= 1:
        raise EdgeSkipError(f"--beta {beta} is not a similarity: give a number from -1 to 1")
    return OnlineRequest(window, beta)


def resolve_draft(request: DraftRequest, profile: Profile) -> DraftRequest:
    """Return the request with what it leaves to the profile.

    That is the exit layer and vocabulary that the profile's sweep found best or, for exits that are named, the
    vocabulary that their adapters were trained for.

    Raises:
        EdgeSkipError: If the profile has no sweep, no plan for a skip-plan draft, or its model no such exit.
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
