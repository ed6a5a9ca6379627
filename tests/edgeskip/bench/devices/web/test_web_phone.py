"""`edgeskip bench --serve` as a user meets it: the printed address opened in a real browser, the button pressed.

Oracles: the Python runtime's tokens, and the log.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from visitor import Visitor
from web_artifacts import need_browser, web_artifact

from edgeskip.bench.runner.prompts import read_prompts
from edgeskip.bench.runner.run_file import read_run
from edgeskip.runtime.session import load

pytest.importorskip("segno")
START = "document.getElementById('start')"
READY = f"{START} && !{START}.hidden"
STATUS = "document.getElementById('status').textContent"
# Chromium takes up to 20 s to answer, because it waits until it collects garbage.
MEMORY = "performance.measureUserAgentSpecificMemory = async () => ({ bytes: 123456789 })"
# Only the first time: the second round waits, so that the page is loaded again in the middle of it.
ONCE = (
    "var asked = 0; performance.measureUserAgentSpecificMemory = () => "
    "asked++ ? new Promise(() => {}) : Promise.resolve({ bytes: 123456789 })"
)
OPTIONS = [
    "--serve", "--no-local", "--devices", "1", "-p", "16", "-n", "4", "-r", "2", "-t", "2", "--num-prompts", "1",
    "--max-tokens", "8", "--no-quality", "--strategy", "plain,self-speculative",
]  # fmt: skip


def address_printed(process: subprocess.Popen[str]) -> tuple[str, str]:
    """The page's, and everything that was printed before."""
    assert process.stdout is not None
    printed = ""
    for line in process.stdout:
        printed += line
        if found := re.search(r"http://127\.0\.0\.1:\d+/\S+/", line):
            return found[0], printed
    raise AssertionError(printed)


@pytest.mark.slow
def test_a_phone_measures_what_was_asked_even_when_its_page_is_loaded_again(tiny_llama: Path, tmp_path: Path) -> None:
    program = need_browser()
    folder = web_artifact(tiny_llama, tmp_path, "exits")
    log = tmp_path / "run.jsonl"
    command = [sys.executable, "-m", "edgeskip", "bench", f"tiny={folder}", *OPTIONS, "--log", str(log)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        url, printed = address_printed(process)
        with Visitor(program, tmp_path / "profile", url) as phone:
            phone.wait_for(READY)
            assert "4 measurements" in phone.value(STATUS)
            phone.value(f"localStorage.clear(); {ONCE}; {START}.click()")
            phone.wait_for("document.querySelectorAll('#rows tr').length > 0")
            phone.value("location.reload()")  # the same device, though nothing is kept: what is left
            phone.wait_for(READY)
            assert re.search(r"^3 measurements", phone.value(STATUS))
            phone.value(f"{MEMORY}; {START}.click()")
            phone.wait_for(f"{STATUS}.startsWith('Done')")
            shown = phone.value("document.getElementById('text').textContent")
        printed += process.communicate(timeout=60)[0]
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, printed
    run = read_run(log)
    (device,) = run.devices.values()
    assert [(r.provider, r.threads, r.bytes_per_s is not None) for r in device.rooflines] == [("web", 2, True)]
    assert sorted((s.cell.strategy, s.round) for s in run.samples) == [
        ("plain", 0), ("plain", 1), ("self-speculative", 0), ("self-speculative", 1),
    ]  # fmt: skip
    assert {sample.peak_rss_bytes for sample in run.samples if sample.round == 0} == {123456789}
    (prompt,) = read_prompts(None, 1)
    with load(folder, threads=1) as session:
        expected = session.generate(prompt.text, max_tokens=8, strategy="plain")
    assert all(list(sample.answers[0].tokens) == list(expected.tokens) for sample in run.samples)
    assert shown == expected.text
    rows = [line for line in printed.splitlines() if line.startswith("|") and "pp16" in line]
    assert len(rows) == 1
    assert "%" in rows[0]  # of the roofline
    assert device.id in printed
