"""Our files in llama.cpp's own programs, built from the source of the installed llama-cpp-python.

Oracles: the programs themselves, and for the original file and ours the same text's perplexity. The first run builds
them in the user's cache, which takes minutes; EDGESKIP_LLAMACPP=FOLDER names another place.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeskip
from edgeskip.artifacts.gguf.header import read_gguf_header

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")

ROOT = Path(__file__).parents[3]
TEXT = ROOT / "edgeskip" / "calibration" / "text.txt"
PROFILE = "smollm2-135m-instruct"  # ships, for the weights of the smollm2_gguf fixture
CONTEXT, CHUNKS = 512, 2
PLANS = {
    "dense": ("--skip-sublayers", "0"),
    "skip8": ("--skip-sublayers", "8"),
    # Block 0 without attention, 7 without FFN, 12 gone, 29 without FFN.
    "mixed": ("--skip", "attn.0,ffn.7,attn.12,ffn.12,ffn.29"),
}
EXIT_LAYER = 8
PROMPT = "The history of the lighthouse begins"


@pytest.fixture(scope="session")
def programs() -> dict[str, Path]:
    """Paths of llama.cpp's programs by name."""
    folder = os.environ.get("EDGESKIP_LLAMACPP")
    into = ["--into", folder] if folder else []
    built = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "build_llamacpp.py"), *into],
        capture_output=True,
        text=True,
        timeout=3000,
        check=False,
    )
    if built.returncode == 2 and re.search("needs (cmake|make|a C)", built.stderr):
        pytest.skip(built.stderr.strip().splitlines()[-1])
    assert built.returncode == 0, built.stderr
    return {path.stem: path for path in map(Path, built.stdout.splitlines())}


def run(program: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(program), *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done


def verb(*arguments: str | Path) -> None:
    run(Path(sys.executable), "-m", "edgeskip", *arguments)


@pytest.fixture(scope="session")
def files(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What `edgeskip export` makes of the default model, by name; `original` is the model itself."""
    folder = tmp_path_factory.mktemp("gguf")
    export = ("export", "--model", smollm2_gguf, "--target", "gguf", "--precision", "keep", "--no-check")
    made = {"original": smollm2_gguf}
    for name, plan in PLANS.items():
        profile = folder / f"{name}.json"
        verb("plan", PROFILE, *plan, "-o", profile)
        made[name] = folder / f"{name}.gguf"
        verb(*export, "--profile", profile, "-o", made[name])
    pair = folder / "pair"
    draft = ("--draft", "early-exit", "--exit-layer", str(EXIT_LAYER))
    verb(*export, "--profile", folder / "dense.json", *draft, "-o", pair)
    for path in pair.glob("*.gguf"):
        made[read_gguf_header(path).metadata["edgeskip.part"]] = path
    assert made.keys() == {"original", *PLANS, "first", "rest"}
    return made


@pytest.mark.parametrize("name", ["dense", "skip8", "mixed", "first"])
def test_llama_bench(name: str, files: dict[str, Path], programs: dict[str, Path]) -> None:
    arguments = ("-p", "64", "-n", "16", "-r", "1", "-t", "2", "-o", "json")
    done = run(programs["llama-bench"], "-m", files[name], *arguments)
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    assert [(row["n_prompt"], row["n_gen"]) for row in rows] == [(64, 0), (0, 16)]
    assert all(row["avg_ts"] > 0 for row in rows)


@pytest.mark.parametrize("name", ["original", "dense", "skip8", "mixed"])
def test_llama_perplexity(name: str, files: dict[str, Path], programs: dict[str, Path]) -> None:
    """Equal to what our engine gives on the same chunks, and the dense re-write's to the original's to the digit."""
    theirs = float(llama_perplexity(programs["llama-perplexity"], files[name]))
    assert theirs == pytest.approx(perplexity_by_their_protocol(files[name]), rel=0.01)
    if name == "dense":
        original = llama_perplexity(programs["llama-perplexity"], files["original"])
        assert original == llama_perplexity(programs["llama-perplexity"], files["dense"])


@cache
def llama_perplexity(program: Path, file: Path) -> str:
    """The program's final estimate, as it prints it."""
    done = run(program, "-m", file, "-f", TEXT, "--chunks", str(CHUNKS), "-c", str(CONTEXT), "-t", "2")
    (estimate,) = re.findall(r"Final estimate: PPL = ([\d.]+) ", done.stdout + done.stderr)
    return str(estimate)


def perplexity_by_their_protocol(file: Path) -> float:
    """tools/perplexity/perplexity.cpp: chunks end to end, each begun with BOS where the file adds one, and of each the
    tokens after the first that has half a context behind it."""
    metadata = read_gguf_header(file).metadata
    total, first = 0.0, CONTEXT // 2
    with edgeskip.load(file, threads=2) as session:
        tokens = np.array(session.tokenizer.encode(TEXT.read_text(encoding="utf-8"), add_special_tokens=True))
        assert len(tokens) >= CHUNKS * CONTEXT
        for chunk in tokens[: CHUNKS * CONTEXT].reshape(CHUNKS, CONTEXT):
            given = chunk.copy()
            if metadata.get("tokenizer.ggml.add_bos_token"):
                given[0] = metadata["tokenizer.ggml.bos_token_id"]
            logits = session.logits(given)[first:-1].astype(np.float64)
            targets = chunk[first + 1 :]
            chosen = logits[np.arange(len(targets)), targets]
            total += float(np.sum(np.logaddexp.reduce(logits, axis=1) - chosen))
    return math.exp(total / (CHUNKS * (CONTEXT - first - 1)))


@pytest.mark.parametrize("draft", ["first", "skip8"])
def test_llama_speculative_simple(draft: str, files: dict[str, Path], programs: dict[str, Path]) -> None:
    """The first part or a plan's model drafts, the dense file verifies: the text is its own greedy one."""
    done = run(
        programs["llama-speculative-simple"],
        *("-m", files["dense"], "-md", files[draft], "--spec-type", "draft-simple"),
        *("-p", PROMPT, "-n", "32", "--temp", "0", "-c", "512", "-t", "2", "-td", "2"),
    )
    counts = {key: int(value) for key, value in re.findall(r"n_(predict|drafted|accept) += (\d+)", done.stderr)}
    assert counts["predict"] >= 32
    assert counts["drafted"] > 0
    # Eight of 60 sublayers less leave half of what is drafted right.
    assert (1 if draft == "skip8" else 0) <= counts["accept"] <= counts["drafted"]
    with edgeskip.load(files["dense"], threads=2) as session:
        expected = session.generate(PROMPT, chat=False, max_tokens=counts["predict"])
    assert done.stdout.strip("\n") == PROMPT + expected.text.strip("\n")


def test_llama_completion(files: dict[str, Path], programs: dict[str, Path]) -> None:
    """A lossy plan's greedy text is the same in llama.cpp's own loop and in ours."""
    arguments = ("-p", PROMPT, "-n", "24", "--temp", "0", "-c", "512", "-t", "2", "-no-cnv", "--no-warmup")
    done = run(programs["llama-completion"], "-m", files["skip8"], *arguments)
    with edgeskip.load(files["skip8"], threads=2) as session:
        expected = session.generate(PROMPT, chat=False, max_tokens=24)
    assert expected.text.strip() in done.stdout
