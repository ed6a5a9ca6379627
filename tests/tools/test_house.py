"""The measures of a small repository, counted by hand; import graphs agree with grimp, which import-linter uses."""

from __future__ import annotations

import subprocess
from pathlib import Path

import house
import pytest

PYPROJECT = """
[tool.setuptools]
packages = ["pkg", "pkg.low", "pkg.high", "pkg.outer"]
[tool.setuptools.package-dir]
"pkg" = "pkg"
"pkg.outer" = "outer"
"""
CONTRACT = """
[tool.importlinter]
exclude_type_checking_imports = true
[[tool.importlinter.contracts]]
type = "layers"
containers = ["pkg"]
layers = ["high", "outer | side", "low"]
"""
FILES = {
    "pkg/__init__.py": "",
    "pkg/loose.py": "import pkg.low.a\n",
    "pkg/low/__init__.py": "",
    "pkg/low/a.py": "from pkg.low import b\n",
    "pkg/low/b.py": "def late():\n    from pkg.high.top import NAME\n\n    return NAME\n",
    "pkg/high/__init__.py": "",
    "pkg/high/top.py": "from ..outer import engine\nfrom pkg.low.b import late\nNAME = 1\n",
    "pkg/side.py": "import json\n",
    "outer/__init__.py": "",
    "outer/engine.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pkg.high import top\n",
    "outer/page/page.js": "let a;\nlet b;\n",
    "docs/guide.md": "one\ntwo\n",
    "README.md": "short\na longer line\n",
}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / "pkg/outer").symlink_to("../outer")
    for command in (
        ["init", "-q"],
        ["add", "-A"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "one"],
    ):
        subprocess.run(["git", *command], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "pyproject.toml").write_text(PYPROJECT + CONTRACT)
    (tmp_path / "pkg/high/top.py").write_text("from ..outer import engine\nNAME = 1\n")
    return tmp_path


def test_a_revision_without_layers_has_its_cycles_only(repository: Path) -> None:
    before = house.measure(house.read_tree(repository, "HEAD"))
    assert before.upward is None
    # An import for type checking counts unless the contract says otherwise.
    assert before.module_cycles == [["pkg.high.top", "pkg.low.b", "pkg.outer.engine"]]
    assert before.rooms["pkg/low"] == (3, 5)
    assert before.rooms["pkg/ (its root)"] == (3, 2)
    assert before.rooms["outer"] == (3, 5)
    assert before.rooms["docs"] == (1, 2)
    assert before.largest == ("pkg/low/b.py", 4)
    assert before.loose_modules == 2
    assert before.readme == (20, 2, 13)


def test_the_working_tree_is_measured_by_its_own_contract(repository: Path) -> None:
    now = house.measure(house.read_tree(repository, house.WORKING_TREE))
    assert now.upward == [("pkg.low.b", "pkg.high.top")]
    assert now.module_cycles == []
    assert now.package_cycles == []


def test_independent_modules_of_a_layer_do_not_import_each_other() -> None:
    graph = {"p.a": frozenset({"p.b"}), "p.b": frozenset[str](), "p.c": frozenset({"p.a"})}
    apart = [[(["p.a", "p.b"], True), (["p.c"], False)]]
    assert house.find_upward(graph, apart) == [("p.a", "p.b"), ("p.c", "p.a")]
    together = [[(["p.a", "p.b"], False), (["p.c"], False)]]
    assert house.find_upward(graph, together) == [("p.c", "p.a")]


def test_packages_have_cycles_that_their_modules_have_not() -> None:
    graph = {"p.a.x": ("p.b.x",), "p.b.x": (), "p.b.y": ("p.a.z",), "p.a.z": ("p.a.x",), "p.c": ("p.a",), "p.a": ()}
    frozen = {name: frozenset(targets) for name, targets in graph.items()}
    assert house.find_cycles(frozen) == []
    assert house.find_package_cycles(frozen) == [["p.a", "p.b"]]
    deeper = {f"q.{name}": frozenset(f"q.{target}" for target in targets) for name, targets in graph.items()}
    assert house.find_package_cycles(deeper) == [["q.p.a", "q.p.b"]]


def test_the_import_graph_is_that_of_grimp(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grimp = pytest.importorskip("grimp")
    monkeypatch.syspath_prepend(repository)
    other = grimp.build_graph("pkg", cache_dir=None)
    tree = house.read_tree(repository, house.WORKING_TREE)
    config = {"tool": {"setuptools": {"packages": ["pkg"], "package-dir": {"pkg": "pkg", "pkg.outer": "outer"}}}}
    graph = house.import_graph(tree, house.find_modules(tree, config))
    assert {name: set(targets) for name, targets in graph.items()} == {
        name: set(other.find_modules_directly_imported_by(name)) for name in other.modules
    }


def test_the_report_has_a_column_for_each_revision(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    house.main(["HEAD", ".", "--repository", str(repository)])
    shown = capsys.readouterr().out
    assert "| imports upward | no layers declared | 1 |" in shown
    assert "pkg.low.b → pkg.high.top" in shown
    assert "pkg.high.top ↔" in shown


def test_an_unknown_revision_is_refused_in_one_line(repository: Path) -> None:
    with pytest.raises(SystemExit, match="git archive failed"):
        house.main(["no-such-revision", "--repository", str(repository)])
