"""Making an emulated Arm machine, without a network or QEMU. Oracles: pyproject.toml, dpkg-deb, hand-made listings and
counts, stand-ins for the programs that fetch; what the machine does is tests/runtime/test_arm.py's."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import arm_root
import arm_run
import numpy as np
import pytest
from arm import emulator
from arm.commands import UnavailableError, output_of, required
from arm.decode import FIRST_MARK, Decoded, Task
from arm.packages import installed_packages, own_code, pins
from arm.system import Mirror, debian_files, mirror_in, python_in, python_version, unpack, write_processors
from arm_run import Both, as_markdown, instructions, on_both, read_marks, rows_of
from packaging.requirements import Requirement
from pydantic import TypeAdapter

from edgeskip import load
from edgeskip.core.errors import EdgeSkipError

TOOLS = Path(arm_root.__file__).parent
needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not here: this is no Debian")
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler here")


def a_package(folder: Path, name: str, files: dict[str, str], links: dict[str, str] | None = None) -> Path:
    """A .deb with these files and symbolic links, built by dpkg-deb."""
    tree = folder / name
    for path, text in ({"DEBIAN/control": f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: x\n"}).items():
        (tree / path).parent.mkdir(parents=True)
        (tree / path).write_text(f"{text}Description: a test's\n")
    for path, text in files.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(text)
    for path, target in (links or {}).items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).symlink_to(target)
    archive = folder / f"{name}.deb"
    subprocess.run(["dpkg-deb", "--build", str(tree), str(archive)], check=True, capture_output=True)
    return archive


def a_program(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!{shutil.which('sh')}\n{text}")
    path.chmod(0o755)
    return path


def test_the_mirror_is_apts_main_archive() -> None:
    listing = "\n".join(
        [
            "https://elsewhere.invalid/tools|stable|main|Tools",
            "https://mirror.invalid/debian-security/|bookworm-security|main|Debian-Security",
            "https://mirror.invalid/debian/|bookworm-updates|main|Debian",
            "https://mirror.invalid/debian/|bookworm|contrib|Debian",
            "https://mirror.invalid/debian/|bookworm|main|Debian",
        ]
    )
    assert mirror_in(listing) == Mirror("https://mirror.invalid/debian", "bookworm")


@pytest.mark.parametrize("listing", ["", "https://mirror.invalid/ubuntu|noble|main|Ubuntu", "nonsense"])
def test_without_a_debian_mirror_one_is_asked_for(listing: str) -> None:
    with pytest.raises(UnavailableError, match=r"names no Debian mirror .* --mirror and --suite"):
        mirror_in(listing)


def test_the_base_install_is_pinned_to_what_is_installed_here() -> None:
    project = tomllib.loads((TOOLS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [Requirement(line).name for line in project["dependencies"]]
    assert "onnxruntime" in names
    assert pins() == [f"{name}=={importlib.metadata.version(name)}" for name in names]


def test_edgeskip_goes_there_as_it_is_here(tmp_path: Path) -> None:
    """Oracle: a Python that sees nothing but the folder imports it and finds its data."""
    old = tmp_path / "code-0"
    old.mkdir()
    folder = own_code(tmp_path)
    assert not old.exists()
    program = (
        "import edgeskip, edgeskip.runtime.session as s, edgeskip.core.version as v\n"
        "print(edgeskip.__file__, s.__file__, v.__version__, sep='\\n')"
    )
    environment = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True, env=environment, timeout=60
    )
    *files, version = done.stdout.split()
    assert all(Path(file).is_relative_to(folder) for file in files)
    assert version == importlib.metadata.version("edgeskip")
    assert own_code(tmp_path) == folder


@needs_dpkg
def test_packages_are_unpacked_into_a_merged_usr(tmp_path: Path) -> None:
    archives = [
        a_package(tmp_path, "one", {"lib/aarch64-linux-gnu/libone.so": "1", "usr/bin/python3.12": "python"}),
        a_package(tmp_path, "two", {"usr/lib/two.txt": "2", "dev/console": "no"}, {"usr/bin/python3": "python3.12"}),
    ]
    system = tmp_path / "system"
    system.mkdir()
    unpack(archives, system)
    assert (system / "lib").readlink() == Path("usr/lib")
    assert (system / "usr/lib/aarch64-linux-gnu/libone.so").read_text() == "1"
    assert (system / "lib/two.txt").read_text() == "2"
    assert not (system / "dev/console").exists()
    assert python_in(system) == system / "usr/bin/python3.12"
    assert python_version(system) == "3.12"


@needs_dpkg
def test_a_broken_package_is_named(tmp_path: Path) -> None:
    archive = a_package(tmp_path, "one", {"usr/share/one": "1" * 10_000})
    archive.write_bytes(archive.read_bytes()[:200])
    (tmp_path / "system").mkdir()
    with pytest.raises(EdgeSkipError, match=r"one\.deb cannot be unpacked .*delete it"):
        unpack([archive], tmp_path / "system")


@pytest.fixture
def debootstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in that brings a package a call and fails before the second; the file counts its calls."""
    packages = tmp_path / "packages"
    packages.mkdir()
    a_package(packages, "one", {"usr/bin/python3.12": "python"})
    a_package(packages, "two", {"usr/lib/two": "2"}, {"usr/bin/python3": "python3.12"})
    calls = tmp_path / "calls"
    text = f"""
    echo "$@" >> {calls}
    eval folder=\\${{$(($# - 1))}}; folder="$folder/var/cache/apt/archives"
    mkdir -p "$folder"
    test -e "$folder/one.deb" && {{ cp {packages}/two.deb "$folder"; exit 0; }}
    cp {packages}/one.deb "$folder"
    echo "I: Retrieving two"
    echo "E: Couldn't download packages: two" >&2
    exit 1
    """
    a_program(tmp_path / "bin", "debootstrap", text)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return calls


@needs_dpkg
def test_an_interrupted_download_goes_on_and_is_not_repeated(tmp_path: Path, debootstrap: Path) -> None:
    into, mirror = tmp_path / "into", Mirror("https://mirror.invalid/debian", "bookworm")
    with pytest.raises(UnavailableError, match=r"debootstrap failed: Couldn't download packages: two \(see .*\.log\)"):
        debian_files(into, mirror)
    assert not (into / "debian-bookworm").exists()
    system = debian_files(into, mirror)
    assert system == into / "debian-bookworm"
    assert (system / "usr/lib/two").read_text() == "2"
    assert sorted(path.name for path in into.iterdir()) == ["debian-bookworm", "debootstrap.log"]

    assert debian_files(into, mirror) == debian_files(into) == system  # without a mirror: what is there
    first, second = debootstrap.read_text().splitlines()
    assert first == second
    assert first.endswith(f"bookworm {into / 'download-bookworm'} https://mirror.invalid/debian")
    assert "--arch=arm64" in first


def test_a_system_without_python_is_not_taken(tmp_path: Path) -> None:
    with pytest.raises(EdgeSkipError, match="holds no python3"):
        python_in(tmp_path)


def test_a_missing_program_is_told_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnavailableError, match=r"no-such-program is not here; on Debian: apt-get install some-package"):
        required("no-such-program", "some-package")


def test_a_program_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    program = a_program(tmp_path, "hangs", f"(sleep 3; touch {tmp_path / 'alive'}) & wait")
    begin = time.monotonic()
    with pytest.raises(UnavailableError, match=r"hangs did not end within 1 s: is the network there\?"):
        output_of([program], limit_s=1.0, fetches=True)
    assert time.monotonic() - begin < 2.5
    time.sleep(3 - (time.monotonic() - begin) + 0.5)
    assert not (tmp_path / "alive").exists()


def test_pip_that_finds_nothing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: pip itself, with no index to ask."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(UnavailableError, match=r"failed: ERROR: No matching distribution found for no-such-thing==1"):
        installed_packages(tmp_path, "3.11", ["no-such-thing==1"])
    assert [path.name for path in tmp_path.iterdir()] == ["pip.log"]


def test_processors_are_written_as_the_kernel_would(tmp_path: Path) -> None:
    write_processors(tmp_path, emulator.CPUINFO, 3)
    text = (tmp_path / "proc" / "cpuinfo").read_text()
    blocks = [dict(line.split(":", 1) for line in block.splitlines()) for block in text.strip().split("\n\n")]
    assert [block["processor\t"] for block in blocks] == [" 0", " 1", " 2"]
    assert all(" asimddp" in block["Features\t"] and block["CPU part\t"] == " 0xd0b" for block in blocks)


HELP = {True: "echo '-plugin   QEMU_PLUGIN   [file=]<file>'", False: "echo '-version   display version'"}


def a_qemu(folder: Path, version: str, *, plugins: bool) -> None:
    text = f'case "$1" in -help) {HELP[plugins]};; -version) echo "qemu-aarch64 version {version} (Debian)";; esac'
    a_program(folder, "qemu-aarch64", text)


@needs_compiler
@pytest.mark.parametrize(("version", "interface"), [("7.2.22", 1), ("8.2.2", 1), ("9.0.0", 2), ("10.0.8", 2)])
def test_the_plugin_is_compiled_for_the_qemu_that_is_here(
    version: str, interface: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_qemu(tmp_path / "bin", version, plugins=True)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    found = emulator.find_emulator(tmp_path)
    assert found.program == tmp_path / "bin" / "qemu-aarch64"
    assert found.libraries is None
    assert found.plugin is not None
    assert found.plugin.name.endswith(f"-{interface}.so")
    assert found.plugin.read_bytes()[:4] == b"\x7fELF"
    made = found.plugin.stat().st_mtime_ns
    again = emulator.find_emulator(tmp_path).plugin
    assert again is not None
    assert again.stat().st_mtime_ns == made


@needs_compiler
def test_the_plugin_compiles_without_a_warning(tmp_path: Path) -> None:
    options = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-shared", "-fPIC"]
    command = ["cc", *options, str(emulator.PLUGIN_SOURCE), "-o", str(tmp_path / "plugin.so")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert done.returncode == 0


def test_a_qemu_without_plugins_is_used_where_no_other_can_be_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_qemu(tmp_path / "bin", "7.2.22", plugins=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))  # no apt-get
    found = emulator.find_emulator(tmp_path)
    assert found.plugin is None
    assert found.no_plugin.endswith("takes no plugins, and apt-get is not here; on Debian: apt-get install apt")
    with pytest.raises(EdgeSkipError, match="takes no plugins"):
        found.run(tmp_path, tmp_path, [], variables={}, counts=tmp_path / "counts", limit_s=1.0)


def test_without_any_qemu_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match=r"there is no qemu-aarch64 \(apt-get install qemu-user\), and"):
        emulator.find_emulator(tmp_path)


def test_mirror_and_suite_go_together(tmp_path: Path) -> None:
    command = [sys.executable, str(TOOLS / "arm_root.py"), "--into", str(tmp_path), "--suite", "bookworm"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (2, "error: --mirror and --suite go together: give both or neither\n")
    assert list(tmp_path.iterdir()) == []


def test_what_decodes_there_decodes_here_as_the_runtime_does(tmp_path: Path, tiny_early_exit: Path) -> None:
    """Oracle: the session in this process; marks change nothing where nobody reads them."""
    task = Task(folder=tiny_early_exit, prompt="the fox", new_tokens=6, logits=tmp_path / "logits.npy", first_mark=512)
    done = subprocess.run(
        [sys.executable, str(TOOLS / "arm" / "decode.py")],
        input=TypeAdapter(list[Task]).dump_json([task]).decode(),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    (found,) = TypeAdapter(list[Decoded]).validate_json(done.stdout)
    with load(tiny_early_exit, threads=1) as session:
        expected = session.generate("the fox", chat=False, strategy="plain", max_tokens=6)
        logits = session.logits([*found.prompt, *found.plain])
        assert found.prompt == tuple(session.encode("the fox", chat=False))
    assert found.plain == expected.tokens
    assert len(found.plain) == 6
    assert found.speculative == found.plain
    np.testing.assert_allclose(np.load(task.logits), logits, atol=1e-4)


def test_marks_are_file_numbers_that_the_plugin_knows() -> None:
    source = emulator.PLUGIN_SOURCE.read_text(encoding="utf-8")
    assert f"FIRST_MARK = {FIRST_MARK:#x}" in source


def test_instructions_are_what_lies_between_the_marks_of_a_step() -> None:
    marks = read_marks("mark 256 1000\nmark 257 1900\nmark 258 2000\nmark 259 2450\nexit 9000\n")
    assert instructions(marks, 256, 2) == [900, 450]
    with pytest.raises(EdgeSkipError, match="did not report mark 260"):
        instructions(marks, 256, 3)


def decoded(tokens: tuple[int, ...], *, machine: str = "x86_64") -> Decoded:
    return Decoded(machine=machine, onnxruntime="1", prompt=(5, 6), plain=tokens, speculative=None, accepted=0)


def test_rows_say_where_tokens_part_and_by_how_much(
    tiny_early_exit: Path, tiny_online: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: rows of logits made by hand, of which the margin of the second token is 0.25; half the instructions."""
    logits = np.zeros((4, 8), np.float32)
    logits[1, 3], logits[2, 4], logits[2, 1] = 2.0, 1.0, 0.75
    there = logits.copy()
    there[2, 1] += 0.5
    monkeypatch.setattr(arm_run, "step_operations", lambda both: 100.0)
    first = Both(tiny_early_exit, decoded((3, 4)), decoded((3, 1), machine="aarch64"), logits, there, 80, (10, 30, 20))
    second = Both(tiny_online, decoded((3, 4)), decoded((3, 4)), logits, logits, 80, (10, 10))
    rows = rows_of([first, second])
    assert [row["tokens_equal"] for row in rows] == [False, True]
    assert (rows[0]["parts_at"], rows[0]["margin_at_parting"], rows[0]["max_logit_difference"]) == (1, 0.25, 0.5)
    assert rows[0]["machine"] == "aarch64"
    assert rows[0]["prefill_instructions_per_token"] == 40
    assert [row["step_instructions_ratio"] for row in rows] == [1.0, 0.5]
    table = as_markdown(rows).splitlines()
    assert "| part at 1, margin 0.250 | – |" in table[2]
    assert "| equal | – |" in table[3]
    json.dumps([row["step_instructions_range"] for row in rows])


def test_too_many_tokens_are_refused_before_anything_runs(tiny_early_exit: Path) -> None:
    arm = arm_root.Arm(emulator.Emulator(Path("none"), None, None, ""), Path("none"), ())
    with pytest.raises(EdgeSkipError, match="must be from 1 to 127, not 128"):
        on_both(arm, [tiny_early_exit], new_tokens=128)
