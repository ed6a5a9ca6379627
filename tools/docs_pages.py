"""Write the parts of the documentation that follow from the code, for `make docs` to include.

    python tools/docs_pages.py             into build/docs-pages

The command line from the commands, the Python API's names from `edgeskip.__all__`, the file formats from their schemas,
the file list from the modules' docstrings and the tests. Nothing here is committed, so nothing here goes stale.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

ROOT = Path(__file__).parents[1]
DEFAULT_FOLDER = ROOT / "build" / "docs-pages"
PACKAGES = {  # folder in the checkout -> the name that it is imported by
    "edgeskip": "edgeskip",
    "models": "edgeskip.models",
    "exporters": "edgeskip.exporters",
    "runtime": "edgeskip.runtime",
    "tools": "",
}


def cell(text: str) -> str:
    """`text` as one cell of a Markdown table: on one line, nothing in it read as markup."""
    line = re.sub(r"\s+", " ", text).strip()
    line = line.replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\|\[\]*_])", r"\\\1", line)


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table; cells must be escaped already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


# ---- the command line


def cli_page() -> str:
    """Return every command with its usage, arguments and options, as the commands declare them."""
    import typer.main

    from edgeskip.cli.main import app

    root: Any = typer.main.get_command(app)
    return "\n".join(_command_sections(root, None))


def _command_sections(command: Any, parent: Any) -> Iterator[str]:
    context = command.context_class(command, parent=parent, info_name=command.name or "edgeskip")
    if parent is not None:
        yield _command_section(command, context)
    if hasattr(command, "list_commands"):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None and not inner.hidden:
                yield from _command_sections(inner, context)


def _command_section(command: Any, context: Any) -> str:
    path = context.command_path
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    parts = [f"## `{path}`\n", f"{cell(part)}\n" if (part := command.help or "") else ""]
    parts.append(f"```text\n{usage}\n```\n")
    panels: dict[str, list[list[str]]] = {}
    for parameter in command.get_params(context):
        record = None if getattr(parameter, "hidden", False) else parameter.get_help_record(context)
        if record is None:
            continue
        name, text = record
        is_option = parameter.param_type_name == "option"
        default_panel = "Options" if is_option else "Arguments"
        panel = getattr(parameter, "rich_help_panel", None) or default_panel
        panels.setdefault(panel, []).append([f"`{name.replace('|', '¦')}`", cell(text)])
    for panel, rows in panels.items():
        parts.append(f"**{panel}**\n\n" + table(["", ""], rows))
    return "\n".join(parts)


# ---- the Python API


def api_page() -> str:
    """Return a mkdocstrings entry for every public name of `edgeskip`."""
    import edgeskip

    names = [name for name in edgeskip.__all__ if not name.startswith("_")]
    functions = [name for name in names if name[0].islower()]
    classes = [name for name in names if name[0].isupper()]
    parts = []
    for title, group in (("Functions", functions), ("Classes", classes)):
        parts.append(f"## {title}\n\n" + "\n".join(f"::: edgeskip.{name}\n" for name in group))
    return "\n".join(parts)


# ---- file formats


def schema_page(model: Any, heading: str = "###") -> str:
    """Return the fields of a pydantic model, and of every model within it, as tables."""
    schema = TypeAdapter(model).json_schema(mode="serialization")
    records = {schema["title"]: schema} if "properties" in schema else {}
    records |= {name: record for name, record in schema.get("$defs", {}).items() if "properties" in record}
    parts = []
    for name, record in records.items():
        rows = [
            [f"`{field}`", _type_name(about), cell(about.get("description", ""))]
            for field, about in record["properties"].items()
        ]
        about = cell(record.get("description", "").split("\n\n")[0])
        parts.append(f"{heading} {name}\n\n{about}\n\n" + table(["field", "type", "meaning"], rows))
    return "\n".join(parts)


def _type_name(about: dict[str, Any]) -> str:
    """Return a JSON Schema type in words, with its bounds; a nested record is linked to its table."""
    if "$ref" in about:
        name = about["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    for key in ("anyOf", "oneOf"):
        if key in about:
            return " or ".join(_type_name(one) for one in about[key])
    if "const" in about:
        return f"`{about['const']!r}`"
    if "enum" in about:
        return ", ".join(f"`{value}`" for value in about["enum"])
    kind = about.get("type", "any")
    if kind == "array":
        return f"list of {_type_name(about.get('items', {}))}"
    if kind == "object" and isinstance(about.get("additionalProperties"), dict):
        return f"object of {_type_name(about['additionalProperties'])}"
    signs = (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
    return " ".join([str(kind), *(f"{sign} {about[key]:g}" for key, sign in signs if key in about)])


def profile_page() -> str:
    from edgeskip.profiles.schema import Profile

    return schema_page(Profile)


def manifest_page() -> str:
    from edgeskip.artifacts.manifest import Manifest

    return schema_page(Manifest)


def gguf_page() -> str:
    from edgeskip.artifacts.gguf.manifest import GgufManifest

    return schema_page(GgufManifest)


def bench_log_page() -> str:
    from edgeskip.bench.schema import LogRecord

    return schema_page(LogRecord)


# ---- the file list


@dataclass(frozen=True)
class Module:
    """One module of the checkout; `test` is the file that tests it, None if no test reaches it."""

    path: Path
    summary: str
    test: Path | None


def modules() -> list[Module]:
    """Return every module, in the order of its path, with the first sentence of its docstring and its test."""
    paths = [
        path
        for folder in PACKAGES
        for path in sorted((ROOT / folder).rglob("*.py"))
        if not _behind_a_link(path) and (path.name != "__init__.py" or _summary(path))
    ]
    tests = {path: _imports(path) for path in sorted((ROOT / "tests").rglob("test_*.py"))}
    imports = {path: _imports(path) for path in paths}
    return [Module(path.relative_to(ROOT), _summary(path), _test_of(path, tests, imports)) for path in paths]


def _behind_a_link(path: Path) -> bool:
    return any(part.is_symlink() for part in (path, *path.parents) if part.is_relative_to(ROOT) and part != ROOT)


def _summary(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return re.split(r"(?<=\.)\s", docstring.split("\n\n")[0].replace("\n", " "), maxsplit=1)[0]


def _import_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] == "tools":  # scripts, found by their own folder
        return parts[-1]
    return ".".join([PACKAGES[parts[0]], *parts[1:]]).removesuffix(".__init__")


def _imports(path: Path) -> set[str]:
    """Return the names that a file imports: modules, and what it takes out of them."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def _test_of(path: Path, tests: dict[Path, set[str]], imports: dict[Path, set[str]]) -> Path | None:
    """Return the test file of a module: its own, else that of the module nearest to it among those that import it."""
    seen, level = {path}, [path]
    while level:
        found = [test for one in level if (test := _own_test(one, tests)) is not None]
        if found:
            return found[0].relative_to(ROOT)
        names = {_import_name(one) for one in level}
        level = [one for one, imported in imports.items() if one not in seen and names & imported]
        seen |= set(level)
    return None


def _own_test(path: Path, tests: dict[Path, set[str]]) -> Path | None:
    """Of the test files that import a module, the one named after it, else the nearest that imports least."""
    name, folder = _import_name(path), ROOT / "tests" / path.relative_to(ROOT).parent
    names = {f"test_{path.stem}", f"test_{path.parent.name}_{path.stem}"}
    candidates = [test for test, imported in tests.items() if name in imported]
    named = [test for test in tests if test.stem in names]
    near = [test for test in candidates if test.parent in (folder, folder.parent)]
    mirrored = [test for test in named if test.parent == folder]
    for group in ([test for test in named if test in candidates], mirrored, near, candidates):
        if group:
            return min(group, key=lambda test: (len(tests[test]), test))
    return None


def files_page() -> str:
    """Return the modules by folder, each with what it is for and its test."""
    folders: dict[Path, list[Module]] = {}
    for module in modules():
        folders.setdefault(module.path.parent, []).append(module)
    parts = []
    for folder, members in folders.items():
        rows = [
            [f"`{m.path.name}`", cell(m.summary), f"`{m.test.relative_to('tests')}`" if m.test else "–"]
            for m in members
        ]
        parts.append(f"### `{folder.as_posix()}/`\n\n" + table(["file", "what it is for", "test"], rows))
    return "\n".join(parts)


PAGES: dict[str, Callable[[], str]] = {
    "cli.md": cli_page,
    "api.md": api_page,
    "profile.md": profile_page,
    "manifest.md": manifest_page,
    "gguf.md": gguf_page,
    "bench-log.md": bench_log_page,
    "files.md": files_page,
}


def write_pages(folder: Path) -> None:
    """Write every page into `folder`, which is made if it does not exist."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (folder / name).write_text(page(), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=DEFAULT_FOLDER, help="folder for the pages")
    write_pages(parser.parse_args().into)


if __name__ == "__main__":
    main()
