"""How large is each room of this repository, and which imports break its layers?

    python tools/house.py                   # the working tree
    python tools/house.py a32b7d8 HEAD      # a column for each git revision; "." is the working tree

Print Markdown tables: files and lines per room, the largest module, the README, imports from a lower layer to a higher
one, and import cycles. Imports are read with `ast`, including those inside functions. The layers are those of the
import-linter contract in the revision's pyproject.toml; without one, only cycles are reported. Needs only git.
"""

from __future__ import annotations

import argparse
import ast
import io
import subprocess
import sys
import tarfile
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

CHECKOUT = Path(__file__).resolve().parents[1]
WORKING_TREE = "."
CODE = frozenset({".py", ".pyi", ".js", ".ts", ".html", ".css", ".sh", ".c"})
LONG_MODULE = 400  # lines; see CONTRIBUTING
SHOWN = 10  # imports or cycles that are listed
Graph = Mapping[str, frozenset[str]]  # module → modules it imports


@dataclass(frozen=True)
class House:
    """What was measured of one tree. `upward` is None if the tree declares no layers."""

    rooms: Mapping[str, tuple[int, int]]  # room → files, lines
    python: Mapping[str, tuple[int, int]]  # the same of Python alone
    largest: tuple[str, int]  # path and lines of the longest Python module of the package
    long_modules: int
    loose_modules: int  # in the package root
    readme: tuple[int, int, int]  # bytes, lines, characters of the longest line
    upward: Sequence[tuple[str, str]] | None
    module_cycles: Sequence[Sequence[str]]
    package_cycles: Sequence[Sequence[str]]


def read_tree(root: Path, revision: str) -> dict[str, str]:
    """Return the text of every file that git knows, by path; symbolic links and binary files are left out.

    Args:
        root: The repository.
        revision: A git revision, or "." for the working tree with its untracked files that are not ignored.
    """
    if revision == WORKING_TREE:
        listed = _git(root, "ls-files", "-coz", "--exclude-standard").decode()
        paths = [root / name for name in listed.split("\0") if name]
        # A path below a linked folder would count its files twice.
        kept = [path for path in paths if path.is_file() and not path.is_symlink()]
        contents = {path.relative_to(root).as_posix(): path.read_bytes() for path in kept}
    else:
        with tarfile.open(fileobj=io.BytesIO(_git(root, "archive", "--format=tar", revision))) as archive:
            members = [(member, archive.extractfile(member)) for member in archive if member.isreg()]
            contents = {member.name: file.read() for member, file in members if file is not None}
    return {path: text for path, data in contents.items() if (text := _decoded(data)) is not None}


def measure(tree: Mapping[str, str]) -> House:
    """Measure a tree that `read_tree` returned."""
    config = tomllib.loads(tree.get("pyproject.toml", ""))
    modules = find_modules(tree, config)
    root = root_package(config)
    lengths = {path: _lines(tree[path]) for path in modules.values()}
    largest = max(lengths.items(), key=lambda item: item[1], default=("", 0))
    loose = [name for name, path in modules.items() if name.count(".") == 1 and not path.endswith("__init__.py")]
    skip_typing, layers = read_layers(config)
    graph = import_graph(tree, modules, skip_typing=skip_typing)
    readme = tree.get("README.md", "")
    size = (len(readme.encode()), _lines(readme), max(map(len, readme.splitlines()), default=0))
    return House(
        rooms=_count_rooms(tree, root, CODE),
        python=_count_rooms(tree, root, frozenset({".py"})),
        largest=largest,
        long_modules=sum(length > LONG_MODULE for length in lengths.values()),
        loose_modules=len(loose),
        readme=size,
        upward=find_upward(graph, layers) if layers else None,
        module_cycles=find_cycles(graph),
        package_cycles=find_package_cycles(graph),
    )


def root_package(config: Mapping[str, object]) -> str:
    """Return the first package that pyproject.toml installs."""
    packages = _at(config, "tool", "setuptools", "packages")
    return str(packages[0]).split(".")[0] if isinstance(packages, list) and packages else "edgeskip"


def find_modules(tree: Mapping[str, str], config: Mapping[str, object]) -> dict[str, str]:
    """Return the path of each module by the name it is imported by, as setuptools' package-dir maps them."""
    root = root_package(config)
    mapping = _at(config, "tool", "setuptools", "package-dir")
    folders = {str(folder): str(name) for name, folder in mapping.items()} if isinstance(mapping, dict) else {}
    folders.setdefault(root, root)
    found = {}
    for path in tree:
        if not path.endswith(".py"):
            continue
        pure = PurePosixPath(path)
        for folder in pure.parents:
            if str(folder) in folders:
                inner = [*pure.relative_to(folder).parts[:-1], *([] if pure.stem == "__init__" else [pure.stem])]
                found[".".join([folders[str(folder)], *inner])] = path
                break
    # A folder without __init__.py in the middle, like presets that are a distribution of their own, is not a package.
    packages = {name for name, path in found.items() if path.endswith("__init__.py")}
    return {name: path for name, path in found.items() if name in packages or name.rpartition(".")[0] in packages}


def import_graph(tree: Mapping[str, str], modules: Mapping[str, str], *, skip_typing: bool = False) -> Graph:
    """Return which modules each module imports, anywhere in its code.

    Args:
        tree: Texts by path.
        modules: Paths by module name.
        skip_typing: Leave out what is imported under `if TYPE_CHECKING`.
    """
    graph = {}
    for name, path in modules.items():
        package = name if path.endswith("__init__.py") else name.rpartition(".")[0]
        nodes = _walk(ast.parse(tree[path], path), skip_typing=skip_typing)
        graph[name] = frozenset(_imported(nodes, package, modules)) - {name}
    return graph


def read_layers(config: Mapping[str, object]) -> tuple[bool, list[list[tuple[list[str], bool]]]]:
    """Read import-linter's layer contracts.

    Returns:
        Whether imports for type checking are left out, and per contract its layers, highest first. A layer is its
        modules and whether they must not import each other ("a | b").
    """
    linter = _at(config, "tool", "importlinter")
    if not isinstance(linter, dict):
        return False, []
    contracts = []
    for contract in linter.get("contracts", []):
        if contract.get("type") != "layers":
            continue
        for container in contract.get("containers", [""]):
            layers = []
            for layer in contract["layers"]:
                names = [part.strip().strip("()") for part in layer.replace("|", ":").split(":")]
                layers.append(([f"{container}.{name}" if container else name for name in names], "|" in layer))
            contracts.append(layers)
    return bool(linter.get("exclude_type_checking_imports")), contracts


def find_upward(graph: Graph, contracts: Iterable[Sequence[tuple[list[str], bool]]]) -> list[tuple[str, str]]:
    """Return each import from a lower layer to a higher one, or between independent modules of one layer."""
    found = set()
    for layers in contracts:
        heights = {name: (-depth, apart) for depth, (names, apart) in enumerate(layers) for name in names}
        for importer, imported in graph.items():
            low = _nearest(importer, heights)
            for target in imported if low is not None else ():
                high = _nearest(target, heights)
                if high is None or low is None or low == high:
                    continue
                (from_height, apart), (to_height, _) = heights[low], heights[high]
                if to_height > from_height or (to_height == from_height and apart):
                    found.add((importer, target))
    return sorted(found)


def find_cycles(graph: Graph) -> list[list[str]]:
    """Return the strongly connected components with more than one member, each sorted."""
    reached = {node: _reach(graph, node) for node in graph}
    groups = {frozenset(other for other in reached[node] if node in reached[other]) for node in graph}
    return sorted(sorted(group) for group in groups if len(group) > 1)


def find_package_cycles(graph: Graph) -> list[list[str]]:
    """Return the cycles between modules and packages that are in one package, at every level."""
    cycles = []
    for package in {name[:end] for name in graph for end in range(len(name)) if name[end] == "."}:
        depth = package.count(".") + 2
        siblings: dict[str, set[str]] = {}
        for importer, imported in graph.items():
            if importer.startswith(f"{package}."):
                inside = {".".join(name.split(".")[:depth]) for name in imported if name.startswith(f"{package}.")}
                siblings.setdefault(".".join(importer.split(".")[:depth]), set()).update(inside)
        cycles += find_cycles({name: frozenset(targets - {name}) for name, targets in siblings.items()})
    return sorted(cycles)


def _reach(graph: Graph, start: str) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph[waiting.pop()] - found
        found |= new
        waiting.extend(new)
    return found


def format_report(houses: Mapping[str, House]) -> str:
    """Return the Markdown tables, a column for each revision, and below them what breaks the rules."""
    titles = ["working tree" if name == WORKING_TREE else name for name in houses]
    rooms = sorted({room for house in houses.values() for room in house.rooms}, key=_room_order)
    size = [[room, *(_files_and_lines(house.rooms.get(room)) for house in houses.values())] for room in rooms]
    size.append(["all", *(_files_and_lines(_total(house.rooms)) for house in houses.values())])
    facts = [[title, *(show(house) for house in houses.values())] for title, show in _FACTS]
    parts = [_table(["room: files, lines", *titles], size), _table(["measure", *titles], facts)]
    for title, house in zip(titles, houses.values(), strict=True):
        upward = [f"{importer} → {imported}" for importer, imported in house.upward or ()]
        for what, lines in (
            ("imports upward", upward),
            ("cycles of modules", [" ↔ ".join(cycle) for cycle in house.module_cycles]),
            ("cycles of packages", [" ↔ ".join(cycle) for cycle in house.package_cycles]),
        ):
            if lines:
                more = [f"- … and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
                parts.append("\n".join([f"{what}, {title}:", *(f"- {line}" for line in lines[:SHOWN]), *more]))
    return "\n\n".join(parts)


_FACTS: Sequence[tuple[str, Callable[[House], str]]] = (
    ("largest module", lambda house: f"{house.largest[0]}, {house.largest[1]} lines"),
    (f"modules over {LONG_MODULE} lines", lambda house: str(house.long_modules)),
    ("modules in the package root", lambda house: str(house.loose_modules)),
    ("bench + tools, lines", lambda house: f"{_bench_and_tools(house.rooms):,}"),
    ("of which Python", lambda house: f"{_bench_and_tools(house.python):,}"),
    ("README", lambda house: f"{house.readme[0]:,} bytes, {house.readme[1]:,} lines"),
    ("longest README line", lambda house: f"{house.readme[2]:,} characters"),
    ("imports upward", lambda house: "no layers declared" if house.upward is None else str(len(house.upward))),
    ("cycles of modules", lambda house: str(len(house.module_cycles))),
    ("cycles of packages", lambda house: str(len(house.package_cycles))),
)


def _bench_and_tools(rooms: Mapping[str, tuple[int, int]]) -> int:
    return sum(lines for room, (_, lines) in rooms.items() if room in {"edgeskip/bench", "tools", "tools/benchmarks"})


def _count_rooms(tree: Mapping[str, str], root: str, suffixes: frozenset[str]) -> dict[str, tuple[int, int]]:
    files: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    for path, text in tree.items():
        parts = PurePosixPath(path).parts
        counted = suffixes | {"docs": {".md"}, "examples": {".ipynb"}}.get(parts[0], set())
        if len(parts) == 1 or parts[0].startswith(".") or PurePosixPath(path).suffix not in counted:
            continue
        room = parts[0]
        if room == root:
            room = f"{root}/{parts[1]}" if len(parts) > 2 else f"{root}/ (its root)"
        elif parts[:2] == ("tools", "benchmarks"):
            room = "tools/benchmarks"
        files[room] += 1
        lines[room] += _lines(text)
    return {room: (files[room], lines[room]) for room in files}


def _walk(tree: ast.AST, *, skip_typing: bool) -> Iterator[ast.AST]:
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if skip_typing and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting.extend(node.orelse)
        else:
            waiting.extend(ast.iter_child_nodes(node))


def _imported(nodes: Iterable[ast.AST], package: str, modules: Mapping[str, str]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                if full in modules:
                    yield full
                elif base in modules:
                    yield base


def _nearest(module: str, names: Mapping[str, object]) -> str | None:
    """Return the longest of `names` that is the module or a package around it."""
    parts = module.split(".")
    around = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((name for name in around if name in names), None)


def _total(rooms: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    return sum(files for files, _ in rooms.values()), sum(lines for _, lines in rooms.values())


def _files_and_lines(count: tuple[int, int] | None) -> str:
    return "" if count is None else f"{count[0]}, {count[1]:,}"


def _room_order(room: str) -> tuple[int, str]:
    order = ["edgeskip", "exporters", "runtime", "models", "tools", "tests", "docs", "examples"]
    top = room.split("/")[0]
    return (order.index(top) if top in order else len(order)), room


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, rule, *rows])


def _lines(text: str) -> int:
    return len(text.splitlines())


def _decoded(data: bytes) -> str | None:
    try:
        return None if b"\0" in data else data.decode()
    except UnicodeDecodeError:
        return None


def _at(config: object, *keys: str) -> object:
    for key in keys:
        config = config.get(key) if isinstance(config, dict) else None
    return config


def _git(root: Path, *arguments: str) -> bytes:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"git {arguments[0]} failed: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the revisions named on the command line and print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "revisions", nargs="*", metavar="REV", default=[WORKING_TREE], help="git revision; . is the tree"
    )
    parser.add_argument("--repository", type=Path, default=CHECKOUT, help="default: the one this script is in")
    options = parser.parse_args(arguments)
    houses = {name: measure(read_tree(options.repository, name)) for name in options.revisions}
    sys.stdout.write(format_report(houses) + "\n")


if __name__ == "__main__":
    main()
