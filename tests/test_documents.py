"""The documents keep up with the code. Oracles: the files in the checkout, the site's navigation, the data files."""

from __future__ import annotations

import ast
import html
import json
import re
import sys
import tomllib
from pathlib import Path

import pytest
from command_blocks import DOCUMENTS, ROOT, blocks_of

sys.path.insert(0, str(ROOT / "tools"))
import docs_pages
import results_pages

PAGES = sorted((ROOT / "docs").rglob("*.md"))
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_stays_short() -> None:
    lines = README.splitlines()
    assert len(lines) <= 200
    assert len(README.encode()) <= 10_240
    assert max(map(len, lines)) <= 180


def test_the_readmes_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", README):
        assert (ROOT / target).exists(), target


def test_the_readmes_figures_are_those_of_the_results() -> None:
    """Every number of the table with the speeds and losses stands in a data file of docs/results."""
    table = next(part for part in README.split("\n\n") if part.startswith("| | decode"))
    data = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs/results/data").glob("*.json")))
    data = data.replace(" – ", "–")
    numbers = set(re.findall(r"\d+\.\d\d", table))
    assert len(numbers) >= 10
    assert {number for number in numbers if number not in data} == set()
    assert round(256 / 99, 1) == 2.6  # decode of int4 over fp32, in tokens/s
    assert "**256**" in data
    assert "**99**" in data


def test_every_page_is_in_the_navigation() -> None:
    """Oracle: zensical.toml; `make docs` fails for an entry without its page."""
    config = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))
    named = set(re.findall(r"'([^']+\.md)'", str(config["project"]["nav"])))
    assert named == {page.relative_to(ROOT / "docs").as_posix() for page in PAGES}


def test_results_pages_show_their_data() -> None:
    for path, text in results_pages.pages().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run python tools/results_pages.py"


def test_every_result_says_when_where_and_how() -> None:
    for path in sorted((ROOT / "docs/results/data").glob("*.json")):
        for table in json.loads(path.read_text(encoding="utf-8"))["tables"]:
            assert re.fullmatch(r"20\d\d-\d\d-\d\d", table["date"]), path.name
            assert table["machine"], path.name
            assert table["command"].startswith(("python tools/", "edgeskip ")), path.name


def test_images_are_there() -> None:
    for page in [*PAGES, ROOT / "README.md"]:
        for target in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).is_file(), f"{page.name}: {target}"


def test_files_that_documents_name_exist() -> None:
    """Paths in code spans and blocks, from the top of the checkout. The changelog and old results may name the past."""
    pattern = re.compile(r"(?:tools|edgeskip|models|exporters|runtime|tests)/[\w./-]*\w\.(?:py|sh|toml|json|md)\b")
    for document in DOCUMENTS:
        if document.name == "CHANGELOG.md":
            continue
        for name in set(pattern.findall(document.read_text(encoding="utf-8"))):
            if "NAME" not in name:
                assert (ROOT / name).exists(), f"{document.relative_to(ROOT)} names {name}"


def test_the_file_list_names_every_module_once() -> None:
    """Oracle: the folders themselves. Each has a sentence, and nearly each a test that reaches it by imports."""
    listed = docs_pages.modules()
    expected = {
        path.relative_to(ROOT)
        for folder in ("edgeskip", "models", "exporters", "runtime", "tools")
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "__init__.py" and "presets/build" not in path.as_posix()
    }
    names = [module.path for module in listed]
    assert len(names) == len(set(names))
    assert expected <= set(names)
    assert [module.path for module in listed if not module.summary] == []
    without = [module for module in listed if module.test is None and module.path.parts[0] != "tools"]
    unreached = [module.path for module in without if module.path.name != "__init__.py"]
    assert len(unreached) <= len(listed) // 20, unreached
    for module in listed:
        assert module.test is None or (ROOT / module.test).is_file()


def test_generated_pages_have_what_they_are_for(tmp_path: Path) -> None:
    import edgeskip

    docs_pages.write_pages(tmp_path)
    text = {path.stem: path.read_text(encoding="utf-8") for path in tmp_path.glob("*.md")}
    for command in ("fetch", "calibrate", "plan", "export", "run", "eval", "train", "sweep", "doctor"):
        assert f"## `edgeskip {command}`" in text["cli"]
    assert "--draft-vocab" in text["cli"]
    assert set(re.findall(r"^::: edgeskip\.(\w+)$", text["api"], re.M)) == set(edgeskip.__all__) - {"__version__"}
    for page, fields in {
        "profile": ("`similarity`", "`affine_scale`"),
        "manifest": ("`verification`", "`kv_dtype`"),
        "gguf": ("`partner`", "`exit_layer`"),
        "bench-log": ("`ttft_s`", "`weight_bytes`"),
    }.items():
        assert all(field in text[page] for field in fields), page
    included = {name for page in PAGES for name in re.findall(r'^--8<-- "([\w-]+)\.md"', page.read_text("utf-8"), re.M)}
    assert set(text) <= included


@pytest.mark.parametrize("cell", ["a|b", "<str>", "*stars* _x_", "[x](y)"])
def test_table_cells_hold_no_markup(cell: str) -> None:
    import markdown

    page = docs_pages.table(["name"], [[docs_pages.cell(cell)]])
    shown = re.search(r"<td>(.*)</td>", markdown.markdown(page, extensions=["tables"]))
    assert shown is not None
    assert html.unescape(shown[1]) == cell


def test_python_blocks_use_what_exists() -> None:
    """Every name that a block takes from `edgeskip` is one of its public names. Oracle: `edgeskip.__all__`."""
    import edgeskip

    used = set()
    for document in DOCUMENTS:
        for block in blocks_of(document):
            if block.language == "python":
                for node in ast.walk(ast.parse(block.text)):
                    if (
                        isinstance(node, ast.Attribute)
                        and isinstance(node.value, ast.Name)
                        and node.value.id == "edgeskip"
                    ):
                        used.add(node.attr)
                    if isinstance(node, ast.ImportFrom) and node.module == "edgeskip":
                        used |= {alias.name for alias in node.names}
    assert used >= {"load", "Speculation"}
    assert used <= set(edgeskip.__all__)
