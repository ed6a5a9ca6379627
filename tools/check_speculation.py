"""Checks that greedy speculation writes what plain greedy decoding writes, on real prompts, for every drafter and γ.

    python tools/check_speculation.py ARTIFACT … --log equality.jsonl [--prompts 100] [--tokens 128]

Prompts: half from spec_bench.jsonl (first turns, chat template), half from humaneval.jsonl (continued as they are), of
the folder EDGESKIP_DATA (default ../shared/data). A text that differs is listed with the position and the margin
between the two likeliest tokens there: batched verification and one-token steps round differently, so a near tie may
fall either way. The log is appended to, prompt by prompt; started again, the check goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).parent / "benchmarks"))  # what the checks share with them
from harness.prompts import Prompt, prompts_of

from edgeskip.runtime.comparison import NEAR_TIE, find_difference
from edgeskip.runtime.session import Session, load
from edgeskip.runtime.speculation.policy import Speculation


@dataclass(frozen=True)
class Found:
    """One prompt under one setting; position and margin are None where the text is plain decoding's."""

    artifact: str
    drafter: str
    num_speculations: int
    prompt: str
    tokens: int
    drafted: int
    accepted: int
    position: int | None = None
    margin: float | None = None


def drafters_of(session: Session) -> list[str]:
    return ["model", "ngram"] if session.drafts else ["ngram"]


def check(
    session: Session, artifact: str, prompts: Sequence[Prompt], gammas: Sequence[int], tokens: int,
    done: set[tuple[Any, ...]], drafters: Sequence[str],
) -> Iterator[Found]:  # fmt: skip
    """Every prompt under every setting that is not in `done`."""
    for prompt in prompts:
        settings = [
            (drafter, gamma)
            for drafter in drafters
            for gamma in gammas
            if (artifact, drafter, gamma, prompt.name) not in done
        ]
        if not settings:
            continue
        ids = session.encode(prompt.text, chat=prompt.chat)[: session.context_length - tokens]
        plain = session.generate(ids, max_tokens=tokens, strategy="plain").tokens
        for drafter, gamma in settings:
            policy = Speculation(drafter, gamma)  # type: ignore[arg-type]
            yield _run(session, artifact, prompt, ids, plain, drafter, policy, tokens)


def _run(
    session: Session, artifact: str, prompt: Prompt, ids: NDArray[np.int64], plain: tuple[int, ...], drafter: str,
    policy: Speculation, tokens: int,
) -> Found:  # fmt: skip
    generation = session.generate(ids, max_tokens=tokens, strategy="speculative", speculation=policy)
    counts = generation.stats.speculation
    assert counts is not None
    assert isinstance(policy.num_speculations, int)
    difference = find_difference(session, ids, plain, generation.tokens)
    found = Found(
        artifact, drafter, policy.num_speculations, prompt.name, len(generation.tokens), counts.drafted, counts.accepted
    )  # fmt: skip
    return found if difference is None else replace(found, position=difference.position, margin=difference.margin)


def report(found: Sequence[Found]) -> str:
    """A table of settings, then every text that differs."""
    groups: dict[tuple[str, str, int], list[Found]] = defaultdict(list)
    for one in found:
        groups[one.artifact, one.drafter, one.num_speculations].append(one)
    lines = [
        "| artifact | drafter | γ | prompts | tokens | accepted | identical | near ties | others |",
        "|---|---" + "|---:" * 7 + "|",
    ]
    for (artifact, drafter, gamma), some in sorted(groups.items()):
        ties = sum(one.margin is not None and one.margin < NEAR_TIE for one in some)
        same = sum(one.position is None for one in some)
        drafted = sum(one.drafted for one in some)
        accepted = sum(one.accepted for one in some) / drafted if drafted else 0.0
        lines.append(
            f"| {artifact} | {drafter} | {gamma} | {len(some)} | {sum(one.tokens for one in some)} | {accepted:.1%} | "
            f"{same} | {ties} | {len(some) - same - ties} |"
        )
    lines += [
        f"- {one.artifact}, {one.drafter}, γ {one.num_speculations}, {one.prompt}: token {one.position}, "
        f"margin {one.margin:.2g}"
        for one in found
        if one.position is not None
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "artifact", nargs="*", type=Path, help="artifact folders or .gguf files; none = report the log alone"
    )
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--num-speculations", default="1,2,4,8")
    parser.add_argument("--drafters", help="model,ngram (default: those the artifact has)")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    data = Path(os.environ.get("EDGESKIP_DATA", "../shared/data"))
    found = [Found(**json.loads(line)) for line in options.log.read_text().splitlines()] if options.log.exists() else []
    done: set[tuple[Any, ...]] = {(f.artifact, f.drafter, f.num_speculations, f.prompt) for f in found}
    gammas = [int(gamma) for gamma in options.num_speculations.split(",")]
    for path in options.artifact:
        with load(path, threads=options.threads) as session, options.log.open("a") as log:
            drafters = options.drafters.split(",") if options.drafters else drafters_of(session)
            prompts = prompts_of(data, options.prompts)
            for one in check(session, path.name, prompts, gammas, options.tokens, done, drafters):
                found.append(one)
                log.write(json.dumps(asdict(one)) + "\n")
                log.flush()
                print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    print(report(found))
    if any(one.margin is not None and one.margin >= NEAR_TIE for one in found):
        sys.exit(1)


if __name__ == "__main__":
    main()
