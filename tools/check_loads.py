"""Do our folders load in other people's runtimes, and do they generate the same greedy tokens there?

    python tools/check_loads.py DIR…          each artifact in onnxruntime-genai; the fp32 ones in Optimum too

With an artifact that drafts for itself onnxruntime-genai speculates, as the folder's config says; the others decode
plainly. It verifies several tokens at once, which in int4 rounds otherwise than one by one: there a difference is
reported and does not count. Environments are those of peer_runtimes.py (made if missing). Exits 1 if tokens differ.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

sys.path.append(str(Path(__file__).parent / "benchmarks"))  # what the checks share with them
from harness.command import Threads, Work, cache_folder, main, prompt_ids
from harness.peers import environment
from harness.runtimes import Contestant, our_contestant, run_afresh

from edgeskip.artifacts.manifest import read_manifest
from edgeskip.core.held_out import HELD_OUT_TEXT


def check_loads(
    artifacts: Annotated[list[Path], typer.Argument(help="Artifact folders.")],
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of the prompt.")] = 64,
    new_tokens: Annotated[int, typer.Option(min=2, help="Tokens to generate and compare.")] = 64,
    threads: Threads = 2,
    work: Work = None,
    genai_python: Annotated[Path | None, typer.Option(help="Python that has onnxruntime-genai.")] = None,
    optimum_python: Annotated[Path | None, typer.Option(help="Python that has optimum-onnx.")] = None,
) -> None:
    """Compare greedy tokens of artifacts between this runtime and others; a line each to stdout."""
    work = (work or cache_folder()).resolve()
    genai = genai_python or environment("genai", work)
    differ = 0
    for folder in artifacts:
        manifest, folder = read_manifest(folder), folder.resolve()
        others = [Contestant("onnxruntime-genai", genai, "genai_worker.py", folder)]
        if manifest.graph.precision == "fp32":
            optimum = optimum_python or environment("optimum", work)
            others.append(Contestant("optimum-onnx", optimum, "optimum_worker.py", folder))
        ids = prompt_ids(folder, HELD_OUT_TEXT, prompt_tokens)
        expected = generated(our_contestant(folder), ids, new_tokens, threads, work)
        for other in others:
            tokens = generated(other, ids, new_tokens, threads, work)
            same = next((i for i, (a, b) in enumerate(zip(tokens, expected, strict=True)) if a != b), new_tokens)
            drafts = manifest.draft is not None and other.worker == "genai_worker.py"
            differ += same < new_tokens and not (drafts and manifest.graph.precision == "int4")
            how = f", {manifest.draft.kind} draft" if drafts and manifest.draft else ""
            print(f"{folder.name} ({manifest.label}{how}) in {other.name}: {same} of {new_tokens} tokens the same")
    if differ:
        raise typer.Exit(1)


def generated(contestant: Contestant, ids: list[int], new_tokens: int, threads: int, work: Path) -> tuple[int, ...]:
    """Greedy continuation of `ids` by one runtime, in a process of its own."""
    logs = work / "logs"
    return run_afresh(contestant, ids, new_tokens, threads=threads, logs=logs, warm_up_tokens=0).tokens


if __name__ == "__main__":
    main(check_loads)
