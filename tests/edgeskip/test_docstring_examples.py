"""The examples in the docstrings of every public name, run as they are, in a folder with what they name.

Oracle: the output that the examples say.
"""

from __future__ import annotations

import doctest
import inspect
import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_models import tiny_checkpoint

import edgeskip

TEXT = "The quick brown fox jumps over the lazy dog. Foxes do not read; models read tokens and write tokens. "
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
SLOW = {"train"}
WITHOUT = {"Progress"}  # a type alias
PLUMBING = {"Profile.with_files", "Profile.moved", "Profile.working_path"}  # what stages of the package hand each other


def documented() -> Iterator[tuple[str, object]]:
    """Every public name, and the public methods of every public class of ours."""
    for name in edgeskip.__all__:
        found = getattr(edgeskip, name)
        if name.startswith("__") or name in WITHOUT:
            continue
        yield name, found
        if inspect.isclass(found):
            for key, member in vars(found).items():
                function = getattr(member, "__func__", member)
                if not key.startswith("_") and inspect.isfunction(function):
                    yield f"{name}.{key}", function


DOCUMENTED = dict(documented())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`model`, `corpus.txt`, `profile.json` (skips two FFNs) and the artifacts `artifact`, `dense` and `skipped`."""
    folder, before = tmp_path_factory.mktemp("examples"), Path.cwd()
    tiny_checkpoint("llama", folder / "model")
    (folder / "corpus.txt").write_text(TEXT * 60, encoding="utf-8")
    os.chdir(folder)
    measured = edgeskip.calibrate("model", corpus="corpus.txt", tokens=256, context=64, decode_tokens=64)
    dense = edgeskip.export(measured, "dense", check=False)
    edgeskip.export(measured, "artifact", check=False)
    edgeskip.plan(measured, skip=["ffn.1", "ffn.2"], measure_cost=False, output="profile.json")
    edgeskip.export("profile.json", "skipped", check=False)
    assert dense.label == "dense"
    yield folder
    os.chdir(before)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in DOCUMENTED])
def test_examples_say_what_happens(folder: Path, name: str) -> None:
    found = DOCUMENTED[name]
    text = inspect.getdoc(found) or ""
    test = doctest.DocTestParser().get_doctest(text, {"edgeskip": edgeskip}, name, None, 0)
    shown = io.StringIO()
    doctest.DocTestRunner(optionflags=FLAGS).run(test, out=shown.write)
    assert not shown.getvalue(), shown.getvalue()


@pytest.mark.parametrize(
    "name", [name for name, found in DOCUMENTED.items() if inspect.isfunction(found) and name not in PLUMBING]
)
def test_functions_say_what_they_take_and_give(name: str) -> None:
    """Every parameter is under Args, what is returned under Returns; the functions at the top show an example."""
    found = DOCUMENTED[name]
    assert inspect.isfunction(found)
    text = inspect.getdoc(found) or ""
    signature = inspect.signature(found)
    parameters = [parameter for key, parameter in signature.parameters.items() if key not in ("self", "cls")]
    for parameter in parameters:
        if parameter.kind is not parameter.VAR_KEYWORD:  # those are in the options' own docstring
            assert f"    {parameter.name}: " in text, parameter.name
    if signature.return_annotation not in (None, "None"):
        assert "Returns:" in text or text.startswith(("Return ", "Open "))
    if "." not in name:
        assert ">>> " in text
