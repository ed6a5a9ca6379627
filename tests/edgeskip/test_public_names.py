"""Public types: every public name is used in the script that pyright checks, and none is, or holds, Any.

Oracle: the annotations of the public names and of every class of the package that they lead to.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
import typing
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

import edgeskip
from edgeskip.api.bench import bench

SCRIPT = Path(__file__).parents[1] / "public_names.py"
PUBLIC = [name for name in edgeskip.__all__ if not name.startswith("__")]
PLUMBING = {"__init__", "moved", "with_files", "working_path"}  # what stages of the package hand each other
CLASSES = [name for name in PUBLIC if inspect.isclass(getattr(edgeskip, name))]


def own_members(cls: type) -> dict[str, object]:
    """The public methods and properties that the package itself defines for a class, its bases' included."""
    ours = [base for base in cls.__mro__ if base.__module__.startswith("edgeskip")]
    members = {name: member for base in reversed(ours) for name, member in vars(base).items()}
    kinds = (property, classmethod, staticmethod)
    public = {name: member for name, member in members.items() if not name.startswith("_") or name == "__init__"}
    of_pydantic = vars(BaseModel)
    return {
        name: each
        for name, each in public.items()
        if (isinstance(each, kinds) or inspect.isfunction(each)) and name not in of_pydantic
    }


def hints(obj: Any) -> dict[str, object]:
    """Annotations by name, evaluated if possible."""
    try:
        return typing.get_type_hints(obj)
    except NameError:  # of something that is imported for type checkers only
        return dict(getattr(obj, "__annotations__", {}))


def functions(member: object) -> Iterator[Any]:
    if isinstance(member, property):
        yield member.fget
    elif isinstance(member, classmethod | staticmethod):
        yield member.__func__
    else:
        yield member


def annotations(obj: Any) -> Iterator[tuple[str, object]]:
    """The types that a user of a public function or class meets, each with its place."""
    if not inspect.isclass(obj):
        yield from ((f"{obj.__qualname__}({name})", hint) for name, hint in hints(obj).items())
        return
    own = hints(obj) if obj.__module__.startswith("edgeskip") else {}
    yield from ((f"{obj.__qualname__}.{name}", hint) for name, hint in own.items() if not name.startswith("_"))
    yield from attributes_set(obj)
    for name, member in own_members(obj).items():
        if name == "__init__" and is_dataclass(obj):
            continue  # its fields were seen
        for function in functions(member):
            yield from ((f"{obj.__qualname__}.{name}({each})", hint) for each, hint in hints(function).items())


def attributes_set(cls: type) -> Iterator[tuple[str, object]]:
    """The public attributes that a class annotates in its __init__, evaluated if possible."""
    if not inspect.isfunction(cls.__init__) or is_dataclass(cls) or not cls.__module__.startswith("edgeskip"):
        return
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(cls.__init__)))):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Attribute) and node.target.attr[0] != "_":
            text = ast.unparse(node.annotation)
            try:
                hint = eval(text, vars(sys.modules[cls.__module__]))
            except NameError:  # imported for type checkers only
                hint = text
            yield f"{cls.__qualname__}.{node.target.attr}", hint


def parts(hint: object) -> Iterator[object]:
    yield hint
    if typing.get_origin(hint) is np.ndarray:  # NDArray says Any for the shape
        return
    for each in typing.get_args(hint):
        yield from (part for one in (each if isinstance(each, list) else [each]) for part in parts(one))


def is_any(hint: object) -> bool:
    return hint is Any or (isinstance(hint, str) and re.search(r"\bAny\b", hint) is not None)


def test_no_public_type_is_any() -> None:
    waiting = [bench, *(getattr(edgeskip, name) for name in PUBLIC)]  # edgeskip.bench is the package too
    seen: set[int] = set()
    found = []
    while waiting:
        obj = waiting.pop()
        if id(obj) in seen or not (inspect.isclass(obj) or inspect.isfunction(obj)):
            continue
        seen.add(id(obj))
        for place, hint in annotations(obj):
            found += [place for part in parts(hint) if is_any(part)]
            waiting += [one for one in parts(hint) if getattr(one, "__module__", "").startswith("edgeskip")]
    assert sorted(set(found)) == []


def used_names() -> set[str]:
    """Names that the script takes from edgeskip, and every attribute that it reads."""
    tree = ast.parse(SCRIPT.read_text(encoding="utf-8"))
    imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names}
    return imported | {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def test_the_checked_script_uses_every_public_name() -> None:
    assert sorted(set(PUBLIC) - used_names()) == []


@pytest.mark.parametrize("name", CLASSES)
def test_the_checked_script_uses_every_member(name: str) -> None:
    members = own_members(getattr(edgeskip, name)).keys() - PLUMBING
    assert sorted(members - used_names()) == []


def test_the_namespace_is_what_all_says() -> None:
    """`dir` shows every public name before anything is loaded."""
    assert set(edgeskip.__all__) <= set(dir(edgeskip))
    assert all(getattr(edgeskip, name) is not None for name in edgeskip.__all__)
