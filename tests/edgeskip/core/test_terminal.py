"""What is printed: in every encoding, into closed and full outputs, without a file's control characters; signals."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import pytest
from tiny_graph import build_tiny_artifact

from edgeskip.core import terminal

EVIL = "ev\x1b[31mil\x07\x9b2J\u202egpj\r\n"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_artifact(tmp_path_factory.mktemp("terminal") / "artifact").folder


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "edgeskip", *map(str, arguments)]


def run(*arguments: object, encoding: str = "utf-8", **options: object) -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | {"PYTHONIOENCODING": encoding, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command(*arguments), capture_output=True, env=environment, **options)  # type: ignore[call-overload,no-any-return]


@contextmanager
def output() -> Iterator[io.BytesIO]:
    """Standard output in cp1252, which has no Δ, as a file takes it."""
    raw = io.BytesIO()
    with redirect_stdout(io.TextIOWrapper(raw, encoding="cp1252", newline="")) as stream, terminal.protected():
        yield raw
        stream.flush()


def test_symbols_that_an_encoding_lacks_are_spelled() -> None:
    """By hand: the nearest ASCII for our own, ? for the rest, \\xe9 for a byte of a path."""
    with output() as stdout:
        print("max |Δ| ≤ 1e-3 → é 你 caf\udce9", flush=True)
        assert stdout.getvalue() == b"max |d| <= 1e-3 -> \xe9 ? caf\\xe9\n"


def test_json_stays_json() -> None:
    """Oracle: the json module reads back what was meant, though cp1252 cannot write it."""
    value = {"text": f"Δ 你 “x” {EVIL}", "é": "\udce9"}
    with output() as stdout:
        terminal.print_json(value)
        sys.stdout.flush()
        assert json.loads(stdout.getvalue().decode("cp1252")) == value


def test_control_characters_become_visible() -> None:
    """By hand, for print and for rich, markup in a name included."""
    with output() as stdout:
        print(EVIL, end="")
        terminal.Console(file=sys.stdout).print(f"[/red]{EVIL}")
        sys.stdout.flush()
        written = stdout.getvalue()
    assert written.startswith(b"ev\\x1b[31mil\\x07\\x9b2J\\u202egpj\n[/red]ev\\x1b[31m")
    assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f\x80-\x9f]", written)


def test_generated_text_is_exact_where_no_terminal_reads_it() -> None:
    """By hand: a pipe gets the model's characters; whoever prints them guards himself."""
    with output() as stdout:
        terminal.write_exactly("a\x1b[1m\tb\r\n")
        assert stdout.getvalue() == b"a\x1b[1m\tb\r\n"


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_a_terminal_gets_no_escape_of_a_file(artifact: Path, tmp_path: Path) -> None:
    """By hand: on a terminal rich's own sequences pass, a manifest's do not, nor do those of a generated text."""
    import pty

    folder = Path(shutil.copytree(artifact, tmp_path / "evil"))
    manifest = json.loads((folder / "edgeskip.json").read_text(encoding="utf-8"))
    manifest["model"] |= {"name": "ev\x1b]0;title\x07il", "source": "s\x1b[2Jrc"}
    (folder / "edgeskip.json").write_text(json.dumps(manifest), encoding="utf-8")
    vocabulary = (folder / "tokenizer.json").read_text(encoding="utf-8")
    assert "\u011b" in vocabulary  # byte 0x1b as byte-level vocabularies write it: some drawn text has it
    drawn = ("--raw", "--temperature", 50, "--seed", 1, "--max-tokens", 500)
    for arguments in (("inspect", folder), ("run", folder, "-p", "hey", *drawn)):
        main, side = pty.openpty()
        process = subprocess.Popen(command(*arguments), stdout=side, stderr=side, env=os.environ | {"TERM": "xterm"})
        os.close(side)
        written = b""
        while True:
            try:
                piece = os.read(main, 65536)
            except OSError:  # Linux: the other side is closed
                break
            if not piece:
                break
            written += piece
        os.close(main)
        assert process.wait() == 0, written
        assert b"\\x1b" in written
        rest = re.sub(rb"\x1b\[[\d;]*m", b"", written)  # colours
        assert not re.search(rb"\x1b|\x07|\xc2[\x80-\x9f]", rest), (arguments, rest)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii:strict", "utf-16"])
def test_every_encoding_will_do(artifact: Path, encoding: str) -> None:
    """By hand: exit code 0, and JSON that the json module reads."""
    table = run("inspect", artifact, encoding=encoding)
    assert (table.returncode, b"Traceback" in table.stderr) == (0, False)
    answer = run("run", artifact, "-p", "naïve Δ 你", "--max-tokens", 20, "--json", encoding=encoding)
    assert answer.returncode == 0, answer.stderr
    text = json.loads(answer.stdout.decode(encoding.partition(":")[0]))["text"]
    assert text == json.loads(run("run", artifact, "-p", "naïve Δ 你", "--max-tokens", 20, "--json").stdout)["text"]


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell")
@pytest.mark.parametrize("redirection", [">&-", ">&- 2>&- <&-", "2>/dev/full", "| head -c 1"])
def test_closed_outputs_are_no_traceback(artifact: Path, redirection: str) -> None:
    """By hand: nothing but the summary on standard error, whatever is closed."""
    if "full" in redirection and not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    for arguments in (("inspect", artifact), ("run", artifact, "-p", "hey", "--max-tokens", 20)):
        line = " ".join(map(str, command(*arguments))) + " " + redirection
        answer = subprocess.run(["sh", "-c", line], capture_output=True, timeout=100)
        assert answer.returncode == 0, (line, answer.stderr)
        assert len(answer.stderr.splitlines()) <= 1, answer.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("arguments", [("inspect",), ("inspect", "--json"), ("run", "-p", "hey", "--max-tokens", "3")])
def test_a_full_disk_is_one_line(artifact: Path, arguments: tuple[str, ...]) -> None:
    """By hand."""
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        answer = subprocess.run(
            command(arguments[0], artifact, *arguments[1:]), stdout=full, stderr=subprocess.PIPE, timeout=100
        )
    assert answer.returncode == 2
    assert b"No space left" in answer.stderr.splitlines()[-1]
    assert b"Traceback" not in answer.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_importing_is_no_traceback(artifact: Path, number: signal.Signals, code: int) -> None:
    """By hand: sent from within the import, of ONNX Runtime's library of C++ too."""
    program = (
        "import builtins, os, signal, sys\n"
        "number, wanted = int(sys.argv.pop(1)), sys.argv.pop(1)\n"
        "real = builtins.__import__\n"
        "def importing(name, *rest, **named):\n"
        "    if name == wanted:\n"
        "        builtins.__import__ = real\n"
        "        os.kill(os.getpid(), number)\n"
        "    return real(name, *rest, **named)\n"
        "builtins.__import__ = importing\n"
        "from edgeskip.__main__ import main\n"
        "main()\n"
    )
    for name in ("typer", "numpy", "onnxruntime.capi._pybind_state"):
        answer = subprocess.run(
            [sys.executable, "-c", program, str(int(number)), name, "run", str(artifact), "-p", "hey"],
            capture_output=True,
            timeout=100,
        )
        assert answer.returncode == code, (name, answer)
        assert b"Traceback" not in answer.stderr, (name, answer.stderr)
        assert b"gnored" not in answer.stderr, (name, answer.stderr)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("longest", [20.0, 0.0])
def test_a_signal_waits_for_the_end_of_an_import(
    tmp_path: Path, number: signal.Signals, code: int, longest: float
) -> None:
    """By hand: a module that sends it and then takes a while. Inside torch's C++ code it may be an abort."""
    (tmp_path / "slow_module.py").write_text(
        "import os, time\n"
        f"os.kill(os.getpid(), {int(number)})\n"
        "for _ in range(100):\n"
        "    time.sleep(0.002)\n"
        "print('imported', flush=True)\n"
    )
    program = (
        "import sys, time, edgeskip.cli.main as cli, edgeskip.cli.signals as signals, edgeskip.__main__ as entry\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        f"signals.LONGEST_IMPORT_S = {longest}\n"
        "cli.app = lambda **_: (__import__('slow_module'), time.sleep(20))\n"
        "entry.main()\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=100)
    assert answer.returncode == code, answer
    assert b"Traceback" not in answer.stderr
    assert answer.stdout == (b"imported\n" if longest else b"")


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM")
@pytest.mark.parametrize(("verb", "code"), [("doctor", 0), ("inspect", 2)])
def test_a_signal_after_the_end_changes_nothing(verb: str, code: int) -> None:
    """By hand: sent while Python would take the interpreter apart, when signals kill again; what was registered for
    the exit is still done."""
    program = (
        "import atexit, os, signal, sys\n"
        "class Late:\n"
        "    def __del__(self, kill=os.kill, pid=os.getpid(), number=signal.SIGTERM):\n"
        "        kill(pid, number)\n"
        "sys.late = Late()\n"
        "atexit.register(lambda: print('registered', flush=True))\n"
        "from edgeskip.__main__ import main\n"
        "main()\n"
    )
    answer = subprocess.run([sys.executable, "-c", program, verb], capture_output=True, timeout=100)
    assert answer.returncode == code, answer
    assert answer.stdout.splitlines()[-1] == b"registered"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_at_some_moment_is_no_traceback(artifact: Path, number: signal.Signals, code: int) -> None:
    """By hand: by the clock, wherever the program then is."""
    options = ("--max-tokens", 500, "--temperature", 1)
    for moment in (0.3, 0.6, 0.9, 1.2, 1.5):
        process = subprocess.Popen(
            command("run", artifact, "-p", "hey", *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        time.sleep(moment)
        process.send_signal(number)
        _, err = process.communicate(timeout=100)
        assert b"gnored" not in err, err
        # Before the program's own first line it is Python that ends, as it likes.
        assert process.returncode in {0, code, -number, 1}
        assert process.returncode != 1 or b"site" in err, err


def test_nobody_prints_past_the_guard() -> None:
    """By hand: rich's console is taken from `edgeskip.core.terminal` everywhere, and nowhere told to read markup."""
    root = Path(terminal.__file__).parents[1]
    folders = ("edgeskip", "runtime", "exporters", "models")
    direct = [
        str(path.relative_to(root))
        for folder in folders
        for path in (root / folder).rglob("*.py")
        if path.name != "terminal.py"
        and re.search(r"rich\.console import [^\n]*Console\b|markup=True", path.read_text("utf-8"))
    ]
    assert direct == []
