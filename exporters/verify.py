"""The check after export: the artifact in a fresh process against the torch model under the same plan."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeskip.artifacts.manifest import GraphRecord, Precision, VerificationRecord
from edgeskip.core.child_exit import MemoryWatch, how_it_ended, signal_name
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.metrics import compare_logits
from edgeskip.core.plan_cost import DenseComparison
from edgeskip.exporters.reference import reference_logits
from edgeskip.exporters.tokenizer_check import (
    EXACT_TOKENIZER,
    TokenizerCases,
    TokenizerPolicy,
    check_tokenizer,
    tokenizer_cases,
)

if TYPE_CHECKING:
    from edgeskip.core.plan import Plan, Skip
    from edgeskip.models.source import ModelSource
    from edgeskip.planning.dense_cost import HeldOutText
    from edgeskip.profiles.exit_adapter import ExitAdapter

TOKENS = 256  # of the shipped text; fewer if the context is shorter
LEAST_TOKENS = 16  # a comparison of fewer would mean little
ROUNDING_KL = 1e-9  # nats per token; float32 exports of SmolLM2 are at 1e-11 to 1e-10


@dataclass(frozen=True)
class Bound:
    """What passes. fp16 and int4 round on purpose, so only a divergence that rounding cannot cause is a mismatch.

    `outlier`: what the greatest difference may be instead if the distributions are the same to ROUNDING_KL: a
    fine-tuned model can amplify float32's last bits at single logits of text that is unlike its training text.
    """

    max_abs_logit_difference: float | None = None
    kl_divergence: float | None = None
    outlier: float | None = None

    def holds(self, difference: float, kl: float) -> bool:
        # Written so that a NaN fails.
        if self.outlier is not None and difference <= self.outlier and kl <= ROUNDING_KL:
            return True
        return (self.max_abs_logit_difference is None or difference <= self.max_abs_logit_difference) and (
            self.kl_divergence is None or kl <= self.kl_divergence
        )

    def __str__(self) -> str:
        if self.max_abs_logit_difference is not None:
            outlier = "" if self.outlier is None else f", or {self.outlier:g} where KL ≤ {ROUNDING_KL:g}"
            return f"max |Δlogit| ≤ {self.max_abs_logit_difference:g}{outlier}"
        return "anything" if self.kl_divergence is None else f"KL ≤ {self.kl_divergence:g} nats per token"


BOUNDS: dict[Precision, Bound] = {
    "fp32": Bound(max_abs_logit_difference=1e-3, outlier=1e-2),
    "fp16": Bound(kl_divergence=0.02),
    "int4": Bound(kl_divergence=0.75),
}


@dataclass(frozen=True)
class Twin:
    """A copy of the artifact that its engine runs without rounding activations; it has to meet its own bound."""

    path: Path
    bound: Bound


@dataclass(frozen=True)
class DraftCheck:
    """A draft in place of the whole artifact; the plan is then the one it stands for (`exporters.split.exit_plan`).

    `which`: number of the draft that the artifact's engine runs; None = the artifact's own logits are the draft's.
    `adapter` is what stands between the exit state and its head, None = the model's own norm. `tokens` [V'] are the ids
    of a trimmed head's columns.
    """

    which: int | None = 0
    adapter: ExitAdapter | None = None
    tokens: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Measurement:
    """A comparison, and the likeliest token after each of the text's, by torch and by the artifact: ids int64 [n].

    `cost` is the artifact's distance from the dense model, if it was requested and could be measured.
    """

    record: VerificationRecord
    expected: NDArray[np.int64]
    found: NDArray[np.int64]
    cost: DenseComparison | None = None


def verify(
    source: ModelSource,
    plan: Plan,
    target: Path,
    *,
    bound: Bound,
    twin: Twin | None = None,
    frugal: bool = False,
    alone: bool = False,
    both: bool = False,
    graphs: Sequence[GraphRecord] = (),
    draft: DraftCheck | None = None,
    gates: Sequence[Skip] = (),
    context_length: int | None = None,
    dense: ModelSource | None = None,
    tokenizer: TokenizerPolicy = EXACT_TOKENIZER,
) -> Measurement:
    """Compare an artifact with the torch model: logits on a shipped text, tokenizer and chat template; let it generate.

    The torch model is loaded block by block.

    Args:
        source: The model.
        plan: What the artifact skips.
        target: An artifact folder or a GGUF; its tokenizer and chat template must do as transformers does on the
            model's own folder (`tokenizer_check`).
        bound: What the logits may differ by.
        twin: A second file to compare, and its bound.
        frugal: Run ONNX with less memory, slower.
        alone: Run one graph of several: the first half of a pair without the rest, a folder's `model.onnx`.
        both: Alone, and as the drafting engine runs it.
        graphs: Files of the folder that give the same logits to other runtimes. What is measured is that of the worst.
        draft: One of the artifact's drafts, instead of the whole.
        gates: FFNs of an online artifact that are left out, of which `plan` knows.
        context_length: The artifact's, in tokens, if it is shorter than the model's.
        dense: The model without skips, usually `source` itself, to compare with on held-out text as well.
        tokenizer: How the artifact's tokenizer is compared.

    Raises:
        EdgeSkipError: If the artifact does not even run, or its tokens or prompts differ.
    """
    with _scratch() as scratch:
        count = TOKENS if context_length is None else min(TOKENS, context_length - 1)
        tokens = shipped_tokens(source, count)
        cases = None
        if draft is None and not gates:
            cases = tokenizer_cases(source, tokenizer.skips)
        logits = scratch / "logits.npy"
        flags = ["--frugal"] * frugal
        ways = [["--alone"], []] if both else [["--alone"] * alone]
        if draft is not None and draft.which is not None:
            ways = [["--draft", str(draft.which)]]
        if gates:
            ways = [["--gates", json.dumps({str(skip.sublayer): skip.scale for skip in gates})]]
        ways += [["--graph", graph.model_dump_json()] for graph in graphs]
        files = [logits.with_name(f"logits-{number}.npy") for number in range(len(ways))]
        text = _held_out(dense, context_length)
        for way, file in zip(ways, files, strict=True):
            first = way is ways[0]
            questions = cases if first else None
            answer = _run_probe(target, tokens, file, flags + way, questions, text if first else None)
            if questions is not None:
                check_tokenizer(questions, answer, target.name, tokenizer.advice)
        if twin is not None:
            _run_probe(twin.path, tokens, logits.with_name("twin.npy"), flags + ways[0])
        reference, dense_rows, name = reference_logits(
            source,
            plan,
            tokens,
            text if dense is source else None,
            draft.adapter if draft else None,
            draft.tokens if draft else None,
        )
        found = [compare_logits(reference, _columns(file, draft)) for file in files]
        passed, twin_kl = all(bound.holds(difference, kl) for difference, kl, _ in found), None
        if twin is not None:
            twin_difference, twin_kl, _ = compare_logits(
                reference, np.load(logits.with_name("twin.npy"), mmap_mode="r")
            )
            passed &= twin.bound.holds(twin_difference, twin_kl)
        likeliest = [_likeliest(logits, draft) for logits in (reference, _columns(files[0], draft))]
        cost = None if dense is None or text is None else _cost(dense, text, dense_rows, files[0])
    differences, kls, agreements = np.array(found).T
    # numpy's max passes a NaN on.
    difference, kl, top1 = float(differences.max()), float(kls.max()), float(agreements.min())
    record = VerificationRecord(
        passed=passed,
        reference=name,
        tokens=len(tokens),
        max_abs_logit_difference=difference,
        kl_divergence=kl,
        top1_agreement=top1,
        widened_kl_divergence=twin_kl,
        bound=str(bound) if twin is None else f"{bound}; widened {twin.bound}",
    )
    expected, chosen = likeliest
    return Measurement(record, expected, chosen, cost)


def require_match(record: VerificationRecord, what: str = "exported model", *, allow_mismatch: bool) -> None:
    """Raise EdgeSkipError if the check failed and that is not allowed."""
    if not record.passed and not allow_mismatch:
        exact = record.widened_kl_divergence
        twin = "" if exact is None else f" ({exact:.3g} dequantized)"
        raise EdgeSkipError(
            f"the {what} does not match the torch model: max |Δlogit| {record.max_abs_logit_difference:.3g}, "
            f"KL {record.kl_divergence:.3g}{twin}, top-1 agreement {record.top1_agreement:.1%}, wanted {record.bound}: "
            "report this and try another --precision, or add --allow-mismatch to keep it"
        )


@contextmanager
def _scratch() -> Iterator[Path]:
    """Return a temporary folder.

    Its name is known before it is made, so that a signal that comes meanwhile leaves nothing.
    """
    folder = Path(tempfile.gettempdir()) / f"edgeskip-verify-{secrets.token_hex(8)}"
    try:
        folder.mkdir(mode=0o700)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _columns(file: Path, draft: DraftCheck | None) -> NDArray[np.float32]:
    """Return the logits in a file, of a trimmed head's tokens alone if a graph gives them among all others."""
    found: NDArray[np.float32] = np.load(file, mmap_mode="r")
    if draft is None or draft.tokens is None or found.shape[1] == len(draft.tokens):
        return found
    return found[:, draft.tokens]


def _likeliest(logits: NDArray[np.float32], draft: DraftCheck | None) -> NDArray[np.int64]:
    """Return token ids [n] of the greatest of each row's logits [n, V']."""
    columns: NDArray[np.int64] = logits.argmax(axis=-1)
    return columns if draft is None or draft.tokens is None else draft.tokens[columns]


def shipped_tokens(source: ModelSource, count: int) -> NDArray[np.int64]:
    """Return the first tokens of the shipped text, at most `count`; ids [n]."""
    ids = source.encoder().encode(shipped_text(count)).ids
    config = source.decoder.config
    count = min(count, config.max_positions - 1)  # a generated token must still fit
    if count < LEAST_TOKENS:
        raise EdgeSkipError(
            f"{source.reference}: a context of {count + 1} tokens is too short to check: add --no-check"
        )
    # A tokenizer of another model would be caught here.
    ids = [i for i in ids if i < config.vocab_size][:count]
    if len(ids) < LEAST_TOKENS:
        raise EdgeSkipError(f"{source.reference}: the tokenizer gives no usable tokens: is it this model's tokenizer?")
    return np.array(ids, dtype=np.int64)


def shipped_text(count: int) -> str:
    """Return enough of the shipped text for `count` tokens of any tokenizer."""
    from edgeskip.calibration.corpus import corpus_named

    return "\n\n".join(corpus_named(()).documents)[: 16 * count]


def _held_out(dense: ModelSource | None, context_length: int | None) -> HeldOutText | None:
    from edgeskip.models.source import is_large
    from edgeskip.planning.dense_cost import held_out_text

    return None if dense is None else held_out_text(dense, positions=context_length, large=is_large(dense))


def _cost(
    dense: ModelSource, text: HeldOutText, dense_rows: list[NDArray[np.float32]], logits: Path
) -> DenseComparison | None:
    """Return the artifact's logits beside the file `logits` against `dense_rows`; the dense model is run if there are
    none.
    """
    from edgeskip.models.torch_reference.load import load_torch_model
    from edgeskip.planning.dense_cost import compare_windows, dense_logits

    if not dense_rows:
        dense_rows = list(dense_logits(load_torch_model(dense, stream=True), text))
    return compare_windows(text, dense_rows, np.load(_windows_file(logits), mmap_mode="r"))


def _windows_file(logits: Path) -> Path:
    return logits.with_name(f"held-out-{logits.name}")


def _run_probe(
    target: Path,
    tokens: NDArray[np.int64],
    logits: Path,
    flags: list[str],
    cases: TokenizerCases | None = None,
    text: HeldOutText | None = None,
) -> dict[str, Any]:
    """Write the logits [n, V] of `tokens` [n], and of the windows of `text` beside them, and return what the probe
    prints."""
    tokens_file, questions_file = logits.with_name("tokens.npy"), logits.with_name("questions.json")
    np.save(tokens_file, tokens)
    if cases is not None:
        questions_file.write_text(json.dumps(cases.questions()), encoding="utf-8")
        flags = [*flags, "--questions", str(questions_file)]
    # -P: nothing that lies in the current folder is imported; it may be one that someone else made.
    command = [sys.executable, "-P", "-m", "edgeskip.runtime.probe", str(target)]
    command += [str(tokens_file), str(logits), *flags]
    if text is not None:
        windows_file = logits.with_name("windows.npy")
        np.save(windows_file, text.windows)
        command += ["--held-out", str(windows_file), str(_windows_file(logits))]
    watch = MemoryWatch()
    result = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if signal_name(result.returncode) is not None:
        raise EdgeSkipError(f"the process that runs the exported model {how_it_ended(result.returncode, watch)}")
    if result.returncode:
        lines = result.stderr.strip().splitlines() or ["no message"]
        reason = lines[-1].removeprefix(f"{EdgeSkipError.__module__}.{EdgeSkipError.__name__}: ")
        raise EdgeSkipError(f"the exported model does not run in a fresh process: {reason}")
    answer: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return answer
