"""What every script has on the command line: the same options, the same errors, lists and named files."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import refuse_file
from harness.processes import WORKER, answer, with_huge_pages

ROOT = Path(__file__).parents[3]
DATA = Path(os.environ.get("EDGESKIP_DATA") or ROOT.parent / "shared" / "data")
LICENSE = ROOT / "LICENSE"  # a text in every checkout, long enough for any usual prompt
DEFAULT_MODEL = "smollm2-135m-instruct"

Model = Annotated[str, typer.Option(help="Name of a preset's model, Hugging Face folder or GGUF file.")]
Threads = Annotated[int, typer.Option("--threads", "-t", min=1, help="Threads of everything.")]
Rounds = Annotated[int, typer.Option("--rounds", "-r", min=1, help="Rounds; medians are over them.")]
PromptText = Annotated[Path, typer.Option(help="Text whose first tokens are the prompt.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the tables and everything measured there.")]
DataFolder = Annotated[Path, typer.Option(help="Folder of the texts.")]
Work = Annotated[Path | None, typer.Option(help="Folder for what is made.  [default: the user's cache]")]

Number = TypeVar("Number", int, float)


def main(
    command: Callable[..., None],
    *,
    worker: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    huge_pages: bool = False,
) -> None:
    """Run a script: `command` with the options of its signature; as `SCRIPT worker`, one request for `worker`."""
    if worker is not None and sys.argv[1:] == [WORKER]:
        answer(worker)
        return
    if huge_pages:
        with_huge_pages()
    try:
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command()(command)
        app()
    except EdgeSkipError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def cache_folder(name: str = "bench") -> Path:
    """`name` in the user's cache."""
    from edgeskip.models import fetch

    return fetch.cache_folder() / name


def words(text: str) -> list[str]:
    """Return the words of a list by comma."""
    return [part.strip() for part in text.split(",") if part.strip()]


def numbers(option: str, text: str, kind: Callable[[str], Number], least: float) -> list[Number]:
    """Return the numbers of a list by comma, each once, rising; EdgeSkipError for other text, and below `least`."""
    try:
        found = sorted({kind(part) for part in text.split(",")})
    except ValueError:
        raise EdgeSkipError(f"{option} {text!r}: give numbers, by comma") from None
    if not all(number >= least for number in found):
        raise EdgeSkipError(f"{option} {text}: give numbers of at least {least:g}")
    return found


def named_paths(option: str, arguments: Sequence[str]) -> dict[str, Path]:
    """Name → path, of NAME=PATH arguments."""
    found = {}
    for argument in arguments:
        name, separator, path = argument.partition("=")
        if not separator or not name:
            raise EdgeSkipError(f"{option} {argument}: write NAME=PATH")
        found[name] = Path(path)
    return found


def check_names(names: Sequence[str]) -> None:
    """Raise EdgeSkipError if two entries would share a line."""
    if twice := [name for name in names if names.count(name) > 1]:
        raise EdgeSkipError(f"two entries are called {twice[0]}: rename a file, so that the table can tell them apart")


def check_output(json_file: Path | None) -> None:
    """Raise EdgeSkipError if --json cannot be written; before long work."""
    if json_file:
        refuse_file(json_file, overwrite=True)


def located(file: Path, data: Path) -> Path:
    """`file`, else the file of that name in the folder `data`."""
    for path in (file, data / file):
        if path.is_file():
            return path
    raise EdgeSkipError(f"there is no file {file}, nor in {data}: name another or set EDGESKIP_DATA")


def prompt_ids(artifact: Path, text: Path, count: int) -> list[int]:
    """Return the first `count` token ids of a text, by the tokenizer of a folder or a GGUF file."""
    if artifact.is_dir():
        from tokenizers import Tokenizer

        ids = Tokenizer.from_file(str(artifact / "tokenizer.json")).encode(text.read_text(encoding="utf-8")).ids
    else:
        import edgeskip

        with edgeskip.load(artifact) as session:
            ids = session.encode(text.read_text(encoding="utf-8"), chat=False).tolist()
    if len(ids) < count:
        raise EdgeSkipError(f"{text} has only {len(ids)} tokens: give a longer text or ask for fewer tokens")
    return [int(token) for token in ids[:count]]
