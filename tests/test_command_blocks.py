"""What the documents tell a reader to type works, in order and as written. Oracle: bash and Python, in an empty folder.

A block that no test can run says so in a comment above it, `<!-- not run: REASON -->`. The README's quick start runs
with the real model. The README and every page run with a stand-in: a random model with as many blocks as SmolLM2, in a
folder that has the real one's name, and files in place of the reader's own. Pages begin where the quickstart ends.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from command_blocks import DOCUMENTS, ROOT, RUNNABLE, Block, blocks_of, every_block, to_run
from command_lines import parsed

CARDS = [f"models/presets/{path.name}" for path in sorted(ROOT.glob("models/presets/*.md"))]
QUICKSTART = "docs/quickstart.md"
PAGES = sorted({block.document for block in every_block() if block.document.startswith("docs/")} - {QUICKSTART})
RUN_PAGES = [page for page in PAGES if to_run(page)]
COMMANDS = sorted({shlex.join(command) for block in every_block() for command in block.commands})
QUICK_START = [block for block in to_run("README.md") if block.section == "From a model to an answer"]


def test_every_document_is_looked_at() -> None:
    assert {ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "docs" / "lab-notebook.md"} <= set(DOCUMENTS)
    assert len(QUICK_START) == 3
    assert len(RUN_PAGES) >= 8
    assert len(COMMANDS) >= 40


def test_every_block_is_run_by_a_test_or_says_why_not() -> None:
    """A fence of another language that holds commands would be copied, and checked by nobody."""
    run = {block for document in ["README.md", QUICKSTART, *RUN_PAGES, *CARDS] for block in to_run(document)}
    for block in every_block():
        if block.language in RUNNABLE:
            assert block in run or block.reason, f"{block} is run by no test: say why in <!-- not run: … --> above it"
        elif not block.document.startswith("docs/results/"):  # there, what a table was made by
            shown = re.search(r"^(\$ |edgeskip |pip |make |python |bash )", block.text, re.MULTILINE)
            assert shown is None, f"{block} has commands: call its fence sh"


def test_fences_are_closed() -> None:
    """Oracle: every fence that the parser did not see would shift all blocks after it."""
    for path in DOCUMENTS:
        fences = len(re.findall(r"^```", path.read_text(encoding="utf-8"), re.MULTILINE))
        assert fences == 2 * len(blocks_of(path)), path


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_use_options_that_exist(command: str) -> None:
    """Of the blocks that are run and of those that are not. Oracle: the command line's own parser."""
    parsed(shlex.split(command)[1:])


def run(block: Block, folder: Path) -> str:
    """Run a block in `folder` as a reader would; return its output, or fail with the block's place."""
    programs = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    command = ["bash", "-euo", "pipefail", "-c", block.text]
    if block.language == "python":
        command = [sys.executable, "-c", block.text]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, f"{block}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def lacking(block: Block) -> str | None:
    """What this machine lacks to run a block."""
    if "gguf" in block.text and find_spec("llama_cpp") is None:
        return "llama-cpp-python"
    if re.search(r"--provider \S*web", block.text) and shutil.which("chromium") is None:
        return "chromium"
    if "DATA" in block.text and not data_folder().is_dir():
        return "evaluation texts"
    return None


def run_in_order(document: str, folder: Path) -> None:
    """Run a document's blocks, each in what earlier ones made. What this machine lacks is named and left out."""
    for block in to_run(document):
        if missing := lacking(block):
            print(f"left out: {block}: {missing}")
        else:
            run(block, folder)


def data_folder() -> Path:
    return Path(os.environ.get("EDGESKIP_DATA", ROOT.parent / "shared" / "data"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_quick_start_gives_a_sensible_answer(smollm2_gguf: Path, tmp_path: Path) -> None:
    """With the real model: it stays on the subject, repeats no sentence, and says what it costs."""
    said = "".join(run(block, tmp_path) for block in QUICK_START if lacking(block) is None)
    answer = re.search(r"^.*Rayleigh.*$", said, re.MULTILINE)
    assert answer is not None, said
    sentences = re.split(r"(?<=[.!?])\s+", answer[0])
    assert len(set(sentences)) == len(sentences)
    assert re.search(r"perplexity [\d.]+ → [\d.]+ \(\+\d+\.\d %\), top-1 \d+\.\d% of dense", said)
    assert re.search(r"sublayers skipped\) \| .*? \| perplexity \+\d+\.\d %, top-1 \d+% of dense", said)
    change = re.search(r"\(([+][\d.]+ %)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert change is not None
    assert change[1] in said or "hub" in str(smollm2_gguf), "the README's figure is another"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("document", CARDS)
def test_cards_of_presets(document: str, smollm2_gguf: Path, tmp_path: Path) -> None:
    for block in to_run(document):
        run(block, tmp_path)


def prepare(folder: Path) -> Path:
    """A folder with a random model in place of the real one, and what the reader is told to bring."""
    from tiny_models import tiny_checkpoint

    tiny_checkpoint(
        "llama", folder / "smollm2-135m-instruct", num_hidden_layers=30, vocab_size=8300, max_position_embeddings=4096
    )
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "README.md", ROOT / "docs" / "lab-notebook.md")]
    (folder / "text.txt").write_text("\n\n".join(texts), encoding="utf-8")
    questions = [f"What is {n} plus {n * n}?" for n in range(24)]
    records = {
        "questions.jsonl": [{"text": question} for question in questions],
        "pairs.jsonl": [{"prompt": question, "response": f"{n + n * n}"} for n, question in enumerate(questions)],
    }
    for name, rows in records.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    if data_folder().is_dir():
        (folder / "DATA").symlink_to(data_folder())
    return folder


@pytest.fixture(scope="module")
def after_quickstart(tmp_path_factory: pytest.TempPathFactory, smollm2_gguf: Path) -> Path:
    """The folder of a reader who has worked through the quickstart, with the stand-in; read only."""
    folder = prepare(tmp_path_factory.mktemp("quickstart"))
    run_in_order(QUICKSTART, folder)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_readme_in_order(smollm2_gguf: Path, tmp_path: Path) -> None:
    run_in_order("README.md", prepare(tmp_path))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page", RUN_PAGES)
def test_a_page_in_order(page: str, after_quickstart: Path, tmp_path: Path) -> None:
    folder = tmp_path / "page"
    shutil.copytree(after_quickstart, folder, symlinks=True)
    run_in_order(page, folder)
