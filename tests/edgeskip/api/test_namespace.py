"""What `import edgeskip` gives and costs. Oracle: `sys.modules` of a fresh interpreter, and the names README gave."""

from __future__ import annotations

import subprocess
import sys

import edgeskip

HEAVY = ("numpy", "pydantic", "torch", "transformers", "onnxruntime", "rich", "tokenizers")


def loaded_by(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has after `code`."""
    shown = f"{code}\nimport sys\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_loads_nothing_heavy() -> None:
    assert loaded_by("import edgeskip; dir(edgeskip)").isdisjoint(HEAVY)


def test_the_runtime_needs_neither_torch_nor_transformers() -> None:
    loaded = loaded_by("import edgeskip; edgeskip.load, edgeskip.Session, edgeskip.Sampling, edgeskip.Profile")
    assert loaded.isdisjoint({"torch", "transformers"})


def test_help_loads_nothing_heavy() -> None:
    code = "import sys\nsys.argv = ['edgeskip', '--help']\nfrom edgeskip.cli.main import main\n"
    code += "try:\n    main()\nexcept SystemExit:\n    print()"
    assert loaded_by(code).isdisjoint(set(HEAVY) - {"rich"})


def test_old_imports_work() -> None:
    from edgeskip.runtime.online import Online
    from edgeskip.runtime.sampling import Sampling
    from edgeskip.runtime.session import load
    from edgeskip.runtime.speculation.policy import Speculation

    assert (edgeskip.load, edgeskip.Online) == (load, Online)
    assert (edgeskip.Sampling, edgeskip.Speculation) == (Sampling, Speculation)


def test_bench_is_a_function_though_it_is_a_package() -> None:
    """Whichever is imported first."""
    for first in ("edgeskip.bench.grid", "edgeskip.api.bench"):
        code = f"import edgeskip, {first}\nedgeskip.bench.grid if 'grid' in '{first}' else None\n"
        code += "try:\n    edgeskip.bench([])\nexcept edgeskip.EdgeSkipError:\n    print('refused')"
        assert "refused" in loaded_by(code)
