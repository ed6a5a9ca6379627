"""The page: read back with an HTML parser. Oracle: numbers worked out by hand, the rules of HTML, and what a browser
may fetch; names come from a file that anybody may have written.
"""

from __future__ import annotations

import base64
import hashlib
import re
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from made_runs import (
    like_a_real_one,
    made_answer,
    made_cell,
    made_device,
    made_failure,
    made_quality,
    made_run,
    made_sample,
    made_speculation,
    made_target,
    write_run,
)

from edgeskip.bench.report.plot_style import NARROW, WIDE
from edgeskip.bench.runner.run_file import BenchRun
from edgeskip.bench.schema import SystemConditions

pytest.importorskip("matplotlib", reason="the report's figures need it")

from edgeskip.bench.report.merged_runs import merge_runs
from edgeskip.bench.report.page import html, sections_of, write_report
from edgeskip.core.errors import EdgeSkipError, MissingExtraError

_VOID = {"meta", "link", "br", "img", "hr", "input"}
HOSTILE = "<script>alert(1)</script>\"'&$\\frac{1}{0}$\u202e\x07"


class Page(HTMLParser):
    """Elements with their attributes, ids, and the text of tables' cells; complains of what is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.tables: dict[str, list[list[str]]] = {}  # caption → rows
        self.texts: list[str] = []
        self._open: list[str] = []
        self._caption, self._rows = "", [[""]]
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in _VOID:
            self._open.append(tag)
        if tag == "table":
            self._caption, self._rows = "", []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")
        elif tag == "span" and self._rows and self._rows[-1]:
            self._rows[-1][-1] += " | "

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag == "table":
            self.tables[self._caption] = self._rows
            self._rows = [[""]]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if "caption" in self._open:
            self._caption += data
        elif (self._open and self._open[-1] in ("td", "th")) or self._open[-2:] in (["th", "span"], ["td", "span"]):
            self._rows[-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(run: BenchRun) -> tuple[Page, str]:
    joined = merge_runs([(Path("run.jsonl"), run)])
    text = html(joined, sections_of(joined))
    return Page(text), text


def small_run() -> BenchRun:
    """tg4 at 40 tokens/s against 50; TPOT 20 ms against 16, in three rounds each."""
    lines = [made_target(quality=made_quality(20)), made_target("skip8", quality=made_quality(25, "dense", 0.2, 0.7))]
    samples = [
        made_sample(made_cell(name), number, tg=seconds, answers=[answer])
        for number in range(3)
        for name, seconds, answer in (
            ("dense", 0.1, made_answer([0.02] * 3, ttft=0.1, runtime_s=0.04)),
            ("skip8", 0.08, made_answer([0.016] * 3, ttft=0.08, runtime_s=0.032)),
        )
    ]
    return made_run(*lines, made_device(), *samples)


@pytest.fixture(scope="module")
def realistic() -> tuple[Page, str]:
    return page_of(like_a_real_one())


def test_numbers_by_hand() -> None:
    page, _ = page_of(small_run())
    prompts = page.tables["Real prompts on Made CPU"]
    assert prompts[0][1:4] == [
        "decoding | tokens/s, median",
        "to baseline | times as good (95 %)",
        "TTFT | ms, to baseline",
    ]
    assert prompts[1][0] == "dense | cpu, 2 threads, plain · dense"
    assert prompts[1][1:5] == ["50.0", "baseline", "100 ± 0", "20.0 ± 0.0"]
    assert prompts[2][0] == "skip8 | cpu, 2 threads, plain · lossy-skip"
    assert prompts[2][1:3] == ["62.5", "1.25× | 1.25 to 1.25"]
    synthetic = page.tables["Synthetic tests on Made CPU"]
    assert synthetic[1:] == [
        ["tg4"],
        ["dense | cpu, 2 threads, plain · dense", "40.0 ± 0.0 | median 40.0", "baseline"],
        ["skip8 | cpu, 2 threads, plain · lossy-skip", "50.0 ± 0.0 | median 50.0", "1.25× | 1.25 to 1.25"],
    ]
    trade = page.tables["Speed-up and loss"]
    assert trade[1] == ["Made CPU"]
    assert trade[3] == [
        "2. skip8 | cpu, 2 threads, plain · lossy-skip", "1.25× | 1.25 to 1.25", "+25.0 %", "0.200",
        "70.0 %", "against dense",
    ]  # fmt: skip
    parts = page.tables["What the time per decoded token is made of on Made CPU"]
    assert parts[1][1:] == ["13.3 | 66.7 %", "6.67 | 33.3 %", "20.0"]


def test_nothing_comes_from_outside(realistic: tuple[Page, str]) -> None:
    page, text = realistic
    assert not page.all("script")
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "srcset", "style", "data")]
        assert attributes.get("href", "#").startswith(("#", "data:,"))
    urls = set(re.findall(r"https?://[^\s\"'<>)]+", text))
    assert urls == {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert "@import" not in text
    assert set(re.findall(r"url\((.)", text)) == {"#"}


def test_only_its_own_style_may_apply(realistic: tuple[Page, str]) -> None:
    page, text = realistic
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}'")
    assert text.count("<style") == 1


def test_figures_at_two_widths_in_colours_of_both_pages(realistic: tuple[Page, str]) -> None:
    page, text = realistic
    widths = [attributes["width"] for attributes in page.all("svg")]
    assert widths == [str(NARROW), str(WIDE)] * (len(widths) // 2)
    assert len(widths) == 16
    assert "@media (min-width:700px){.wide{display:block}.narrow{display:none}" in text
    style = text[text.index("<style>") : text.index("</style>")]
    light, dark = style.split("@media screen and (prefers-color-scheme:dark)", 1)
    assert "--paper:#ffffff" in light
    assert "--paper:#16181c" in dark
    used = set(re.findall(r"var\(--([a-z]+)\)", style))
    assert used <= set(re.findall(r"--([a-z]+):", light))
    classes = re.findall(r"^\.f\d+\{(.*)\}$", style, re.MULTILINE)
    assert len(classes) > 20
    assert not [declarations for declarations in classes if "#" in declarations.replace("url(#", "")]


def test_text_in_figures_is_text(realistic: tuple[Page, str]) -> None:
    page, text = realistic
    drawn = re.search(r"<svg.*?</svg>", text, re.DOTALL)
    assert drawn is not None
    assert ">SmolLM2-135M dense-int4, cpu, 1 thread, plain</text>" in drawn[0]
    assert len(page.all("text")) > 200


def test_ids_are_unique_and_what_refers_to_them_finds_them(realistic: tuple[Page, str]) -> None:
    page, text = realistic
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    referred = {a["href"][1:] for _, a in page.elements if a.get("href", "").startswith("#")}
    referred |= set(re.findall(r"url\(#([^)]+)\)", text))
    referred |= {name for _, a in page.elements for name in a.get("aria-labelledby", "").split()}
    assert referred <= set(ids)
    assert len(referred) > 30


def test_it_can_be_read_aloud(realistic: tuple[Page, str]) -> None:
    page, _ = realistic
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == 1
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert len(page.all("caption")) == len(page.all("table")) == len(page.tables)
    assert all(attributes.get("scope") in ("col", "row", "rowgroup") for attributes in page.all("th"))
    assert len(page.all("figcaption")) == len(page.all("figure"))
    assert all(attributes["role"] == "img" for attributes in page.all("svg"))
    assert len(page.all("desc")) == len(page.all("svg"))


def test_every_section_of_a_real_run(realistic: tuple[Page, str]) -> None:
    page, text = realistic
    anchors = [attributes["href"] for attributes in page.all("a")]
    assert anchors == [
        "#serving", "#synthetic", "#quality", "#drafting", "#time", "#resources", "#targets", "#providers",
        "#conditions", "#failures", "#environment",
    ]  # fmt: skip
    said = " ".join("".join(page.texts).split())
    assert "Chrome 140 on Android 15; Pixel 9, emulated: 4x CPU throttling" in said
    assert "llama.cpp was built without CUDA: install a build that has it" in said
    assert "Loss not measured, and therefore not drawn: gates-int4 (online)." in said
    assert (
        "Intel Xeon Platinum 8581C @ 2.10 GHz, round 2: other programs kept up to 0.340 cores busy: "
        "SmolLM2-135M dense-int4 (cpu, 1 thread, plain); skip8-int4 (cpu, 1 thread, plain); "
    ) in said
    assert "cuda 210, cpu 3" in said
    assert text.count("lossy-skip") > 50


def test_hostile_names_are_text() -> None:
    run = made_run(
        made_target(HOSTILE, model=HOSTILE, precision=HOSTILE),
        made_device("<here>", name=HOSTILE, facts={HOSTILE: [HOSTILE], "deep": {"deeper": HOSTILE}},
                    versions={"x": HOSTILE}),
        *(made_sample(
            made_cell(HOSTILE, device="<here>"), number, tg=0.1, notes=[HOSTILE],
            answers=[made_answer([0.1, 0.0, 0.1], speculation=made_speculation(2, 4, 1), prompt=HOSTILE)],
        ) for number in (0, 1)),
        made_failure(made_cell(HOSTILE, device="<here>"), HOSTILE),
        prompts=[HOSTILE],
    )  # fmt: skip
    page, text = page_of(run)
    assert not page.all("script")
    assert "<script" not in text
    assert "alert(1)" in text
    assert "\x07" not in text
    assert "\u202e" not in text
    assert any("<script>alert(1)</script>\"'&$\\frac{1}{0}$" in said for said in page.texts)
    assert any("<script>" in said and "cpu" in said for said in page.texts)  # in a figure too, dollars and all


def test_names_that_matplotlib_would_hide_are_in_the_legends() -> None:
    answer = made_answer([0.1, 0.0, 0.1], speculation=made_speculation(2, 4, 1))
    cell = made_cell("_hidden", "self-speculative", "_phone")
    run = made_run(
        made_target("dense", quality=made_quality(20)), made_target("_hidden", quality=made_quality(25, "dense", 0.1)),
        made_device("_phone", name="_phone"), made_sample(cell, 0, answers=[answer]),
        made_sample(made_cell(device="_phone"), 0, answers=[made_answer([0.1])]),
    )  # fmt: skip
    page, _ = page_of(run)
    assert [said.strip() for said in page.texts].count("_phone") >= 6  # legends of two figures at two widths, headings
    assert any("_hidden, cpu, 2 threads, self-speculative" in said for said in page.texts)


def test_load_alone_has_its_heading() -> None:
    page, _ = page_of(made_run(made_target(), made_device(), made_sample(made_cell(), 0, tg=0.1)))
    table = page.tables["Loading, memory and energy on Made CPU"]
    assert table == [["", "load | s"], ["dense | cpu, 2 threads, plain · dense", "0.500"]]


def test_what_was_not_measured_is_left_out_or_said() -> None:
    page, text = page_of(made_run(made_target(), made_device(rooflines=[]), made_sample(made_cell(), 0, tg=0.1)))
    anchors = [attributes["href"] for attributes in page.all("a")]
    assert anchors == ["#synthetic", "#resources", "#targets", "#providers", "#conditions", "#environment"]
    assert "no roofline" in text
    assert "Energy was not measured." in text
    assert "Quality was not measured." in text
    assert "Nothing more is known of what the device did meanwhile." in text


def test_only_failures() -> None:
    page, text = page_of(made_run(made_target(), made_device(), made_failure(made_cell())))
    assert "1 round failed" in text
    assert page.tables["Failures"][1] == ["dense | cpu, 2 threads, plain, round 1", "Made CPU", "no memory left"]
    assert not page.all("svg")


def test_many_entries_are_not_all_drawn_and_that_is_said() -> None:
    names = [f"target{at}" for at in range(70)]
    run = made_run(
        *(made_target(name) for name in names), made_device(),
        *(made_sample(made_cell(name), 0, tg=0.1 + at) for at, name in enumerate(names)),
    )  # fmt: skip
    page, text = page_of(run)
    assert len(page.tables["Synthetic tests on Made CPU"]) == 72
    assert "10 more entries of this device are not drawn." in text


def test_conditions_are_marked_in_words() -> None:
    seen = SystemConditions(others_cores=0.5, pulse=[100, 80], temperature_c=[50, 61], load_average=1.5)
    page, _ = page_of(made_run(made_target(), made_device(), made_sample(made_cell(), 0, tg=0.1, conditions=seen)))
    assert page.tables["Conditions on Made CPU"][1][1:] == [
        "1", "0.500 (busy)", "80.0 % (slower)", "80.0 % (slower)", "61.0", "1.50",
    ]  # fmt: skip


def test_two_runs_say_what_is_whose(tmp_path: Path) -> None:
    joined = merge_runs([(Path("monday.jsonl"), small_run()), (Path("tuesday.jsonl"), small_run())])
    page = Page(html(joined, sections_of(joined)))
    heads = [row[0] for row in page.tables["Real prompts on Made CPU"][1:]]
    assert heads == [
        f"{name} | cpu, 2 threads, plain, {run} · {label}"
        for run in ("monday", "tuesday")
        for name, label in (("dense", "dense"), ("skip8", "lossy-skip"))
    ]
    assert page.tables["Targets"][1][-1] == "monday, tuesday"
    assert {"Run monday", "Run tuesday"} < set(page.tables)


def test_files_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = write_run(small_run(), tmp_path / "run.jsonl")
    page, folder = tmp_path / "out" / "report.html", tmp_path / "figures"
    written = write_report([path], page, png_folder=folder)
    assert written[0] == page
    assert {name.name for name in folder.iterdir()} == {
        "decode.png", "first-token.png", "tg.png", "quality.png", "first-token-parts.png", "decode-parts.png",
    }  # fmt: skip
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in written[1:])
    page.write_text("mine")
    with pytest.raises(EdgeSkipError, match=r"report\.html exists"):
        write_report([path], page)
    page.unlink()
    (folder / "decode.png").write_text("mine")
    with pytest.raises(EdgeSkipError, match=r"decode\.png exists"):
        write_report([path], page, png_folder=folder)
    assert not page.exists()
    write_report([path], page, png_folder=folder, overwrite=True)
    assert (folder / "decode.png").read_bytes().startswith(b"\x89PNG")


def test_the_verb(cli: Any, tmp_path: Path) -> None:
    path = write_run(small_run(), tmp_path / "run.jsonl")
    done = cli("report", path, "-o", tmp_path / "report.html")
    assert done.code == 0
    assert f"written: {tmp_path / 'report.html'}" in done.out
    assert (
        "exists: choose another -o or add --overwrite"
        in cli("report", path, "-o", tmp_path / "report.html").complaint()
    )
    (tmp_path / "no.jsonl").write_text("{}\n")
    assert "a benchmark run" in cli("report", tmp_path / "no.jsonl", "-o", tmp_path / "x.html").complaint()
    assert "No such file" in cli("report", tmp_path / "none.jsonl", "-o", tmp_path / "x.html").complaint()


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"edgeskip\[plot\]"):
        write_report([tmp_path / "run.jsonl"], tmp_path / "report.html")
