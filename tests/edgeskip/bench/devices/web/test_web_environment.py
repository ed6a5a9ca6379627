"""The variable in the environment of onnxruntime's WASM module. Oracle: what C's getenv looks through."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from edgeskip.bench.devices.web.packages import WASM_SWITCH as SWITCH
from edgeskip.bench.devices.web.packages import patch_environment, web_packages
from edgeskip.core.errors import EdgeSkipError

GLUE = "ort-wasm-simd-threaded.mjs"
SCRIPT = """
import factory from "./%s";
const module = await factory({ numThreads: 1 });
console.log(Buffer.from(module.HEAPU8).includes("%s=1\\0"));
process.exit(0);
"""


@pytest.mark.parametrize("changed", [True, False])
def test_the_module_finds_it(tmp_path: Path, changed: bool) -> None:
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    try:
        files = web_packages()
    except EdgeSkipError as error:
        pytest.skip(str(error))
    for name, data in (patch_environment(files) if changed else files).items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "script.mjs").write_text(SCRIPT % (GLUE, SWITCH), encoding="utf-8")
    done = subprocess.run(["node", "script.mjs"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == str(changed).lower(), done.stderr


def test_both_scripts_get_it_and_nothing_else_changes() -> None:
    files = {GLUE: b'x={PATH:"/",PWD:1}', "ort-wasm-a.mjs": b'PATH:"/",', "ort.min.mjs": b'PATH:"/",', "a.wasm": b"\0"}
    found = patch_environment(files)
    assert found[GLUE] == b'x={PATH:"/",ORT_GQA_DISABLE_FLASH_ATTENTION:"1",PWD:1}'
    assert [name for name in files if found[name] != files[name]] == [GLUE, "ort-wasm-a.mjs"]


@pytest.mark.parametrize("text", [b"", b'PATH:"/",PATH:"/",'])
def test_another_build_is_refused(text: bytes) -> None:
    with pytest.raises(EdgeSkipError, match=r"ort-wasm-x\.mjs is not of the onnxruntime-web that EdgeSkip pins"):
        patch_environment({"ort-wasm-x.mjs": text})
