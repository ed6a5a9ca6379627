"""Modules of the page that need no browser, run by node. Oracles: numpy, and rounds of known cost and acceptance."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeskip.bench.devices.web

PAGE = Path(edgeskip.bench.devices.web.__file__).parent / "page"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    for path in PAGE.glob("*.js"):
        shutil.copy(path, folder)
    (folder / "package.json").write_text('{"type": "module"}', encoding="utf-8")
    return folder


def node(page: Path, script: str) -> Any:
    """The value that the module `script` prints as JSON."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    (page / "script.js").write_text(script, encoding="utf-8")
    done = subprocess.run(["node", "script.js"], cwd=page, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_half_precision_is_read_as_numpy_reads_it(page: Path) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    expected = bits.view(np.float16).astype(np.float32)
    found = node(
        page,
        """import { halvesToFloats } from "./heap.js";
        const floats = halvesToFloats(Uint16Array.from({ length: 65536 }, (_, i) => i));
        console.log(JSON.stringify([...new Uint32Array(floats.buffer)]));""",
    )
    ours = np.array(found, np.uint32).view(np.float32)
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(expected))
    kept = ~np.isnan(expected)
    np.testing.assert_array_equal(ours[kept].view(np.uint32), expected[kept].view(np.uint32))  # signed zeros too


def test_of_equal_logits_the_first_wins(page: Path) -> None:
    rows = np.array([[1, 3, 3, 0], [5, 5, 5, 5], [-2, -9, -1, -1]], np.float32)
    found = node(
        page,
        f"""import {{ argmax }} from "./decoding.js";
        const rows = Float32Array.from({rows.ravel().tolist()});
        console.log(JSON.stringify([0, 1, 2].map((row) => argmax(rows, 4, 4 * row))));""",
    )
    assert found == rows.argmax(1).tolist()


def rounds(page: Path, acceptance: float, *, draft: float, row: float) -> dict[str, float]:
    """Statistics of 2000 rounds: a plain step takes 1 s, a draft step `draft`, each row more to verify `row`."""
    verify = [[n, 1 + row * (n - 1)] for n in (1, 2, 4, 8)]
    found: dict[str, float] = node(
        page,
        f"""import {{ DraftScheduler }} from "./draft_scheduler.js";
        const scheduler = new DraftScheduler({{ plain: 1, draft: [{draft}], verify: {verify} }}, [0.5]);
        let state = 1;
        const random = () => (state = (state * 48271) % 2147483647) / 2147483647;
        let tokens = 0, seconds = 0;
        for (let i = 0; i < 2000; i++) {{
          const choice = scheduler.choose(16);
          if (choice === null) {{ scheduler.recordPlainStep(1); tokens++; seconds++; continue; }}
          let accepted = 0;
          while (accepted < choice.depth && random() < {acceptance}) accepted++;
          const cost = 1 + {row} * choice.depth;
          scheduler.recordRound(choice, accepted, {draft} * choice.depth, cost);
          tokens += accepted + 1; seconds += {draft} * choice.depth + cost;
        }}
        console.log(JSON.stringify({{ ...scheduler.stats, speed: tokens / seconds }}));""",
    )
    return found


def test_drafting_that_pays_is_used_and_gains(page: Path) -> None:
    """Oracle: with a = 0.8, d = 0.1, row 0.05 the best γ ≤ 8 gives 2.1 tokens per plain step's time."""
    stats = rounds(page, 0.8, draft=0.1, row=0.05)
    best = max(sum(0.8**i for i in range(g + 1)) / (1 + 0.15 * g) for g in range(1, 9))
    assert stats["speed"] > 0.9 * best > 1.8
    assert stats["rounds"] > 10 * stats["plain_steps"]


@pytest.mark.parametrize(("acceptance", "draft", "row"), [(0.1, 0.1, 0.3), (0.5, 1.0, 0.2), (0.0, 0.05, 0.05)])
def test_drafting_that_does_not_pay_costs_little(page: Path, acceptance: float, draft: float, row: float) -> None:
    stats = rounds(page, acceptance, draft=draft, row=row)
    assert stats["speed"] > 0.93
    assert stats["plain_steps"] > 10 * stats["rounds"]
    assert stats["rounds"] > 20  # it is tried again now and then


def plan(page: Path, *, stored: int, unpacked: int, memory: float | None, provider: str = "web") -> dict[str, Any]:
    artifact = {
        "name": "m", "weights": [{"size": stored}], "unpacked_bytes": unpacked, "graphs": [{"kv_layers": 30}],
        "kv_dtype": "float32", "attention_heads": 9, "kv_heads": 3, "head_dim": 64,
    }  # fmt: skip
    request = {
        "tests": [{"tokens": 128, "depth": 2048}],
        "prompts": [],
        "max_tokens": 64,
        "cell": {"provider": provider},
    }
    navigator = json.dumps({} if memory is None else {"deviceMemory": memory})
    found: dict[str, Any] = node(
        page,
        f"""import {{ planMemory }} from "./device.js";
        Object.defineProperty(globalThis, "navigator", {{ value: {navigator} }});
        console.log(JSON.stringify(planMemory({json.dumps({"request": request, "artifact": artifact})})));""",
    )
    return found


def test_memory_decides_whether_to_unpack_and_to_try_at_all(page: Path) -> None:
    """Oracle: dense-int4 took 1.37 GB of WASM memory unpacked and 0.31 GB packed, dense-fp32 0.96 GB."""
    int4 = {"stored": 79_000_000, "unpacked": 538_000_000}
    assert plan(page, **int4, memory=8) == {"unpack": True, "refusal": None}
    assert plan(page, **int4, memory=None) == {"unpack": True, "refusal": None}  # taken for 4 GiB
    assert plan(page, **int4, memory=2) == {"unpack": False, "refusal": None}
    assert plan(page, **int4, memory=8, provider="webgpu") == {"unpack": False, "refusal": None}
    small = plan(page, stored=544_000_000, unpacked=0, memory=2)
    assert "m needs about" in small["refusal"]
    assert "1074 MB" in small["refusal"]
    large = plan(page, stored=2_500_000_000, unpacked=0, memory=64)  # over what WASM can address
    assert large["refusal"] is not None


def test_the_scores_of_a_chunk_count_in_the_memory(page: Path) -> None:
    """By hand: 9 heads over a chunk of 512 of 600 tokens, and over 100 of 100, 4 bytes each; attention has no tiles."""
    found = node(
        page,
        """import { estimateMemory } from "./device.js";
        const need = (tokens, heads) => estimateMemory({
          request: { tests: [{ tokens, depth: 0 }], prompts: [], max_tokens: 1 },
          artifact: { weights: [], unpacked_bytes: 0, graphs: [{ kv_layers: 1 }], kv_dtype: "float32", kv_heads: 1,
                      head_dim: 1, attention_heads: heads },
        }, false);
        console.log(JSON.stringify([600, 100].map((tokens) => need(tokens, 9).wasm - need(tokens, 0).wasm)));""",
    )
    assert found == [4 * 9 * 512 * 600, 4 * 9 * 100 * 100]


def test_the_roofline_reads_all_and_calculates(page: Path) -> None:
    """Oracles: numpy's sum of every fourth int32, with int32's overflow; twelve chains x/2 + 1 from the turns on."""
    found = node(
        page,
        """import { buildKernels, BLOCK_BYTES, CHAINS, FLOPS_PER_ITERATION, PAGE_BYTES } from "./kernels.js";
        const { memory, read, multiply } = (await WebAssembly.instantiate(buildKernels(300))).instance.exports;
        const numbers = new Int32Array(memory.buffer);
        for (let i = 0; i < numbers.length; i++) numbers[i] = Math.imul(i, 2654435761);
        const sums = [BLOCK_BYTES, 7 * BLOCK_BYTES, 300 * PAGE_BYTES].map((bytes) => read(bytes));
        const chains = [1, 2, 100].map((turns) => multiply(turns));
        console.log(JSON.stringify({ sums, chains, BLOCK_BYTES, CHAINS, FLOPS_PER_ITERATION }));""",
    )
    numbers = (np.arange(300 << 14, dtype=np.int64) * 2654435761).astype(np.int32)
    expected = [
        int(numbers[: bytes // 4 : 4].sum(dtype=np.int32))
        for bytes in (found["BLOCK_BYTES"], 7 * found["BLOCK_BYTES"], 300 << 16)
    ]
    assert found["sums"] == expected
    starts = np.arange(found["CHAINS"], dtype=np.float32)
    for turns, chains in zip((1, 2, 100), found["chains"], strict=True):
        values = starts + turns
        for _ in range(turns):
            values = values * np.float32(0.5) + np.float32(1)
        assert chains == pytest.approx(float(values.sum()), rel=1e-6)
    assert found["FLOPS_PER_ITERATION"] == 2 * 4 * found["CHAINS"]


def test_a_browser_without_simd_is_told_so(page: Path) -> None:
    found = node(
        page,
        """import { findMissingFeature } from "./device.js";
        globalThis.Worker = class {};
        const fine = findMissingFeature();
        const validate = WebAssembly.validate;
        WebAssembly.validate = () => false;
        const simd = findMissingFeature();
        WebAssembly.validate = validate;
        delete globalThis.Worker;
        console.log(JSON.stringify([fine, simd, findMissingFeature()]));""",
    )
    assert found == [None, "its WebAssembly has no SIMD", "it has no web workers"]
