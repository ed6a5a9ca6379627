"""`edgeskip export --target gguf` from the outside. Oracle: exit code, lines on stderr, and the listing of the folder
it wrote to; `edgeskip run` and `edgeskip inspect` on what it wrote."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_profiles import random_profile
from talking_gguf import talking_gguf
from tiny_gguf import Kind
from tiny_models import tiny_checkpoint

from edgeskip.models.source import open_model
from edgeskip.profiles.schema import write_profile
from edgeskip.profiles.vectors import pack_vectors

Cli = Callable[..., Any]
UNWRITABLE = Path("/sys/kernel")  # refuses even root
SKIP = ("attn.0", "ffn.1", "attn.2")
ALL = [f"{kind}.{i}" for i in range(4) for kind in ("attn", "ffn")]


@pytest.fixture
def model(tiny_llama: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(tiny_llama, tmp_path / "Tiny-Llama"))


def profile_for(model: Path, *skip: str, compensation: Any = "affine") -> Path:
    path = model.with_suffix(".json")
    random_profile(open_model(str(model)), path, skip=skip, compensation=compensation)
    return path


@pytest.fixture
def profile(model: Path) -> Path:
    """A profile of it that skips three sublayers, affine."""
    return profile_for(model, *SKIP)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An empty folder for outputs: after an error it must still be empty."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def exported(cli: Cli, profile: Path, target: Path, *options: object) -> list[str]:
    """The lines of an export that succeeds; nothing on stderr but how far it is."""
    outcome = cli("export", "--profile", profile, "--target", "gguf", "-o", target, *options)
    assert outcome.code == 0, outcome.err
    assert [line for line in outcome.err.splitlines() if not line.startswith("exporting: ")] == []
    lines: list[str] = outcome.out.strip().splitlines()
    return lines


def refused(cli: Cli, out: Path, profile: Path, *options: object, target: str = "new/folder") -> str:
    """The one line of an export that fails and leaves nothing."""
    outcome = cli("export", "--profile", profile, "--target", "gguf", "-o", out / target, *options)
    complaint: str = outcome.complaint()
    assert len(outcome.err.strip().splitlines()) == 1
    assert outcome.out == ""
    assert list(out.iterdir()) == []
    return complaint


def test_a_file_named_after_what_it_is(cli: Cli, profile: Path, out: Path) -> None:
    first, second, third, fourth = exported(cli, profile, out)
    (file,) = out.iterdir()
    assert file.name == "tiny-llama-explicit3-F16.gguf"
    assert first.startswith(f"{file}: lossy-skip, F16 (deci), 3 of 8 sublayers skipped, ")
    assert second.startswith("checked against transformers ")
    assert "LlamaForCausalLM, same plan by hooks, float32 on 256 tokens: max |Δlogit| " in second
    assert second.endswith("(KL ≤ 0.001 nats per token)")
    assert third.startswith("cost against the dense model: perplexity ")
    assert fourth.startswith("predicted speed-up: prefill ")


def test_a_file_named_by_the_user(cli: Cli, profile: Path, out: Path) -> None:
    first, second, third, _ = exported(cli, profile, out / "deep" / "mine.GGUF", "--precision", "Q8_0", "--no-check")
    assert [path.name for path in (out / "deep").iterdir()] == ["mine.GGUF"]
    assert "lossy-skip, Q8_0 (deci)" in first
    assert second == "not checked (--no-check)"
    assert third == "cost against the dense model: not measured for this artifact"


def test_a_gguf_keeps_its_blocks_by_default(cli: Cli, out: Path, tmp_path: Path) -> None:
    path, _ = talking_gguf(tmp_path / "Talking.Q4_1.gguf", kind=Kind.Q4_1)
    first, second, *_ = exported(cli, profile_for(path, *SKIP), out)
    assert [file.name for file in out.iterdir()] == ["talking-explicit3-Q4_1.gguf"]
    assert "lossy-skip, Q4_1 (deci), 3 of 8" in first
    assert "with its blocks as F16), top-1 agreement" in second


def test_a_pair(cli: Cli, profile: Path, out: Path) -> None:
    lines = exported(cli, profile, out, "--draft", "early-exit", "--exit-layer", 2)
    names = ["tiny-llama-explicit3-exit2-F16.gguf", "tiny-llama-explicit3-exit2-rest-F16.gguf"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert len(lines) == 6
    assert lines[2].startswith("checked against transformers ")
    assert lines[3].startswith("its draft: checked against transformers ")
    assert (
        f"{names[0]}: draft-only, F16 (deci), 3 of 8 sublayers skipped, early exit after 2 blocks, first part"
        in lines[0]
    )
    assert (
        f"{names[1]}: lossy-skip, F16 (deci), 3 of 8 sublayers skipped, early exit after 2 blocks, rest part"
        in lines[1]
    )


def test_a_trimmed_draft(cli: Cli, model: Path, out: Path) -> None:
    """The file with the head is named too; `inspect` finds it and `run` drafts with it."""
    path, source = model.with_suffix(".json"), open_model(str(model))
    profile, vectors = random_profile(source, path)
    counts = np.arange(profile.model.vocab_size)
    record, packed = pack_vectors(replace(vectors, token_counts=counts), path)
    write_profile(profile.model_copy(update={"vectors": record}), path, packed)
    options = ("--draft", "early-exit", "--exit-layer", 2, "--draft-vocab", 32)
    lines = exported(cli, path, out, *options)
    first = out / "tiny-llama-exit2-F16.gguf"
    head = out / "tiny-llama-exit2-F16-head.safetensors"
    assert lines[2] == f"{head}: the head that drafts"
    assert f"draft head the model's own; {head.name} (beside it)" in " ".join(cli("inspect", first).out.split())
    assert cli("run", first, "-p", "Skip what", "--max-tokens", 8, "--threads", 1).code == 0
    head.unlink()
    assert "is missing" in cli("run", first, "-p", "x").complaint()


def test_a_plan_as_the_draft(cli: Cli, profile: Path, out: Path) -> None:
    lines = exported(cli, profile, out, "--draft", "skip-plan")
    names = ["tiny-llama-F16.gguf", "tiny-llama-explicit3-F16.gguf"]
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    assert f"{names[0]}: dense, F16 (llama), 0 of 8 sublayers skipped, " in lines[0]
    assert f"{names[1]}: lossy-skip, F16 (deci), 3 of 8 sublayers skipped, " in lines[1]
    assert lines[3].startswith("its draft: checked against transformers ")
    assert f"draft {names[1]} (beside it)" in " ".join(cli("inspect", out / names[0]).out.split())
    dense = profile_for(profile.with_suffix(""))
    assert (
        "needs a plan"
        in cli("export", "--profile", dense, "--target", "gguf", "-o", out / "n", "--draft", "skip-plan").complaint()
    )


def test_a_draft_alone(cli: Cli, tmp_path: Path, out: Path) -> None:
    profile = profile_for(tiny_checkpoint("qwen3", tmp_path / "q"))
    lines = exported(cli, profile, out, "--draft", "early-exit", "--exit-layer", 1)
    assert [path.name for path in out.iterdir()] == ["q-exit1-F16.gguf"]
    assert "draft-only, F16 (qwen3), 0 of 8 sublayers skipped" in lines[0]
    assert lines[1].startswith("a draft without its rest: ")


def test_two_targets_in_one_folder(cli: Cli, profile: Path, out: Path) -> None:
    options = ("--target", "onnx,gguf", "--precision", "int4,q8_0", "--no-check")
    outcome = cli("export", "--profile", profile, "-o", out / "both", *options)
    assert outcome.code == 0, outcome.err
    assert sorted(path.name for path in (out / "both").iterdir()) == ["onnx", "tiny-llama-explicit3-Q8_0.gguf"]
    assert (out / "both" / "onnx" / "model.onnx").is_file()
    assert outcome.out.count("not checked") == 2


def test_what_it_wrote_runs_and_is_shown(cli: Cli, profile: Path, out: Path) -> None:
    exported(cli, profile, out, "--draft", "early-exit", "--exit-layer", 2)
    exported(cli, profile, out / "whole.gguf")
    answers = []
    for name in ("whole.gguf", "tiny-llama-explicit3-exit2-F16.gguf"):
        outcome = cli("run", out / name, "-p", "Skip what", "--max-tokens", 8, "--threads", 1, "--json")
        assert outcome.code == 0, outcome.err
        answers.append(json.loads(outcome.out))
    assert [answer["label"] for answer in answers] == ["lossy-skip"] * 2
    assert answers[0]["text"] == answers[1]["text"]
    assert "run the first half" in cli("run", out / "tiny-llama-explicit3-exit2-rest-F16.gguf", "-p", "x").complaint()
    text = " ".join(cli("inspect", out / "whole.gguf").out.split())
    assert "label lossy-skip" in text
    assert "skipped 3 of 8 sublayers (explicit): attn.0, ffn.1, attn.2" in text
    assert "verified passed (KL ≤ 0.001 nats per token)" in text


def test_an_existing_file(cli: Cli, profile: Path, out: Path) -> None:
    exported(cli, profile, out, "--no-check")
    (file,) = out.iterdir()
    before = file.stat().st_mtime_ns
    for target in (out, file):
        complaint = cli("export", "--profile", profile, "--target", "gguf", "-o", target).complaint()
        assert complaint == f"{file} exists: choose another -o or add --overwrite"
    assert file.stat().st_mtime_ns == before
    exported(cli, profile, out, "--no-check", "--overwrite")
    assert [path.name for path in out.iterdir()] == [file.name]
    assert file.stat().st_mtime_ns != before


def test_files_and_folders_confused(cli: Cli, profile: Path, out: Path, model: Path) -> None:
    """A folder where the file would be, a file where the folder would be, a file's name for what needs a folder."""
    (out / "f" / "tiny-llama-explicit3-F16.gguf").mkdir(parents=True)
    complaint = cli("export", "--profile", profile, "--target", "gguf", "-o", out / "f", "--overwrite").complaint()
    assert "tiny-llama-explicit3-F16.gguf is a folder, not a file" in complaint
    shutil.rmtree(out / "f")
    below = cli("export", "--profile", profile, "--target", "gguf", "-o", profile).complaint()
    assert below == f"cannot write to {profile}: check its permissions or choose another -o"
    draft = ("--draft", "early-exit", "--exit-layer", 2)
    assert "two files: give -o a folder, not" in refused(cli, out, profile, *draft, target="x.gguf")
    both = ("--target", "onnx,gguf")
    assert "two targets need a folder" in refused(cli, out, profile, *both, target="x.gguf")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--target", "tflite"], "tflite"),
        (["--precision", "int4"], "--precision int4 is unknown for gguf: choose one of keep, f32,"),
        (["--precision", "iq2_xxs"], "iq2_xxs is unknown for gguf"),
        (["--precision", "keep"], "keep keeps the blocks of a GGUF, and this model is not one: choose f16"),
        (["--precision", "f16,q8_0"], "does not fit --target gguf"),
        (["--target", "onnx,gguf", "--precision", "int4"], "does not fit --target onnx,gguf"),
        (["--target", "onnx,gguf", "--precision", "int4,int4"], "--precision int4 is unknown for gguf"),
        (["--target", "onnx,gguf", "--precision", "q4_0,q4_0"], "q4_0 is unknown: choose one of fp32"),
        (["--draft", "medusa", "--exit-layer", "2"], "medusa"),
        (["--draft", "early-exit"], "needs an exit layer and the profile has no sweep"),
        (["--exit-layer", "2"], "requires --draft early-exit"),
        (["--draft", "early-exit", "--exit-layer", "1,2"], "--exit-layer 1,2: a GGUF pair has one exit"),
        (["--draft", "early-exit", "--exit-layer", "2", "--draft-vocab", "9"], "lacks: calibrate again"),
        (["--draft", "skip-plan", "--draft-vocab", "9"], "--draft-vocab requires --draft early-exit"),
        (["--draft", "early-exit", "--exit-layer", "4"], "--exit-layer 4 is not possible: the model has 4 blocks"),
        (["--draft", "early-exit", "--exit-layer", "0"], "--exit-layer 0 is not possible"),
        (["--model", "no-such-model"], "no-such-model"),
    ],
)
def test_requests_that_cannot_be(cli: Cli, profile: Path, out: Path, options: list[str], told: str) -> None:
    assert told in refused(cli, out, profile, *options)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"skip": ALL}, "keep at least one"),
        ({"skip": ALL[:7]}, ""),
        ({"skip": ["attn.4"]}, "attn.4"),
        ({"compensation": "magic"}, "compensation"),
    ],
)
def test_plans_edited_by_hand(cli: Cli, profile: Path, out: Path, change: dict[str, Any], told: str) -> None:
    """One that keeps a single sublayer is possible; an early exit of it is not."""
    content = json.loads(profile.read_text())
    content["plan"].update(change)
    profile.write_text(json.dumps(content))
    if told:
        assert told in refused(cli, out, profile)
        return
    draft = ("--draft", "early-exit", "--exit-layer", 2)
    assert "every sublayer before the exit layer" in refused(cli, out, profile, *draft)
    assert "7 of 8 sublayers skipped" in exported(cli, profile, out)[0]


def test_a_plan_that_names_a_sublayer_twice(cli: Cli, profile: Path, out: Path) -> None:
    """And in another order: the file says what was skipped, once and in execution order."""
    content = json.loads(profile.read_text())
    content["plan"]["skip"] = ["attn.2", "ffn.1", "attn.2"]
    profile.write_text(json.dumps(content))
    assert "2 of 8 sublayers skipped" in exported(cli, profile, out, "--no-check")[0]
    (file,) = out.iterdir()
    assert file.name == "tiny-llama-explicit2-F16.gguf"
    assert "(explicit): ffn.1, attn.2" in " ".join(cli("inspect", file).out.split())


@pytest.mark.parametrize("family", ["qwen3", "smollm3"])
def test_a_plan_that_llamacpp_cannot_hold(cli: Cli, out: Path, tmp_path: Path, family: str) -> None:
    """Said before the ONNX export as well."""
    options: dict[str, Any] = {"no_rope_layers": [1, 1, 1, 0]} if family == "smollm3" else {}
    profile = profile_for(tiny_checkpoint(family, tmp_path / "m", **options), "attn.1", compensation="scale")
    for target in ("gguf", "onnx,gguf"):
        complaint = refused(cli, out, profile, "--target", target)
        assert "llama.cpp cannot hold this plan" in complaint
        assert f"for {family} skip whole blocks" in complaint


def test_a_profile_of_another_model(cli: Cli, profile: Path, out: Path, tmp_path: Path) -> None:
    other = tiny_checkpoint("llama", tmp_path / "other", seed=1)
    assert "made for other weights" in refused(cli, out, profile, "--model", other)


def in_a_process(code: str, profile: Path, target: Path, *options: str) -> list[str]:
    """The lines on stderr of an export that ends with code 2, in a process that first runs `code`."""
    command = [sys.executable, "-c", f"import sys; {code}; from edgeskip.cli.main import main; main()", "export"]
    command += ["--profile", str(profile), "--target", "gguf", "-o", str(target), *options]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 2, answer.stderr
    assert answer.stdout == ""
    return complaints(answer.stderr)


def complaints(stderr: str) -> list[str]:
    """The lines but those that say how far a slow machine was."""
    return [line for line in stderr.splitlines() if not line.startswith("exporting: ")]


@pytest.mark.parametrize("target", ["gguf", "onnx,gguf"])
@pytest.mark.parametrize("options", [(), ("--no-check", "--precision", "q4_k_m")], ids=["check", "quantiser"])
def test_without_llamacpp(profile: Path, out: Path, options: tuple[str, ...], target: str) -> None:
    """Before any work: no file is even begun."""
    if target == "onnx,gguf" and options:
        options = ("--no-check", "--precision", "fp32,q4_k_m")
    no_work = (
        "sys.modules['llama_cpp'] = None; import edgeskip.core.files as f; "
        "f.tempfile.mkdtemp = lambda **_: sys.exit('work has begun')"
    )
    (line,) = in_a_process(no_work, profile, out / "new", *options, "--target", target)
    assert line == "edgeskip: error: this needs the package 'llama-cpp-python': run pip install 'edgeskip[llamacpp]'"
    assert list(out.iterdir()) == []


def test_without_llamacpp_and_without_the_check(profile: Path, out: Path) -> None:
    """gguf's own types need no llama.cpp."""
    code = "import sys; sys.modules['llama_cpp'] = None; from edgeskip.cli.main import main; main()"
    options = ["--profile", str(profile), "--target", "gguf", "-o", str(out), "--no-check", "--precision", "q8_0"]
    answer = subprocess.run([sys.executable, "-c", code, "export", *options], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert len(list(out.iterdir())) == 1


def test_a_llamacpp_that_is_too_old(profile: Path, out: Path) -> None:
    """By feature: a function that is not there."""
    code = "import llama_cpp.llama_cpp as l; del l.llama_get_memory"
    (line,) = in_a_process(code, profile, out / "new")
    assert "is too old: it lacks llama_get_memory; run" in line
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("package", ["torch", "transformers", "gguf"])
def test_a_missing_extra(profile: Path, out: Path, package: str) -> None:
    (line,) = in_a_process(f"sys.modules[{package!r}] = None", profile, out / "new")
    assert "edgeskip[export]" in line
    assert list(out.iterdir()) == []


def damaged_gguf(path: Path, damage: str) -> None:
    """Damages a whole GGUF whose profile is made already."""
    data = path.read_bytes()
    if damage == "truncated":
        data = data[:-100]
    elif damage == "cut in its header":
        data = data[:2000]
    elif damage == "empty":
        data = b""
    elif damage == "architecture":
        data = data.replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0lemur", 1)
    elif damage == "tensor type":
        name = b"blk.0.ffn_up.weight"
        at = data.index(name) + len(name) + 4 + 2 * 8
        data = data[:at] + (99).to_bytes(4, "little") + data[at + 4 :]
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("truncated", "is not a whole GGUF file"),
        ("cut in its header", "is not a whole GGUF file"),
        ("empty", "is not a whole GGUF file"),
        ("architecture", "GGUF architecture 'lemur' is not supported; supported are llama,"),
        ("tensor type", "has type 99, unknown"),
    ],
)
def test_damaged_ggufs(cli: Cli, out: Path, tmp_path: Path, damage: str, told: str) -> None:
    path, _ = talking_gguf(tmp_path / "m.gguf")
    profile = profile_for(path)
    damaged_gguf(path, damage)
    complaint = refused(cli, out, profile)
    assert complaint.startswith(str(path))
    assert told in complaint


@pytest.mark.parametrize("check", ["--check", "--no-check"])
def test_a_vocabulary_without_merges(cli: Cli, out: Path, tmp_path: Path, check: str) -> None:
    path, _ = talking_gguf(tmp_path / "m.gguf", {"tokenizer.ggml.merges": None})
    assert "no merges (tokenizer.ggml.merges)" in refused(cli, out, profile_for(path), check)


def test_a_folder_without_merges(cli: Cli, profile: Path, model: Path, out: Path) -> None:
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = []
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert "has no merges" in refused(cli, out, profile)


def test_an_export_fed_back_in(cli: Cli, profile: Path, model: Path, out: Path, tmp_path: Path) -> None:
    """Nothing can be calibrated on it either; the model it was made from is named."""
    file = tmp_path / "skipped.gguf"
    exported(cli, profile, file, "--no-check")
    complaint = refused(cli, out, profile, "--model", file)
    assert complaint == f"{file} is an export of EdgeSkip (lossy-skip): use the model it was made from, {model}"


@pytest.mark.skipif(not UNWRITABLE.is_dir(), reason="no folder here that refuses even root")
@pytest.mark.parametrize("target", ["x.gguf", "folder"])
def test_an_unwritable_folder(cli: Cli, profile: Path, target: str) -> None:
    complaint = cli("export", "--profile", profile, "--target", "gguf", "-o", UNWRITABLE / target).complaint()
    assert str(UNWRITABLE) in complaint
    assert not (UNWRITABLE / target).exists()


def command(profile: Path, target: Path, *options: str) -> list[str]:
    base = [sys.executable, "-m", "edgeskip", "export", "--profile", str(profile), "--target", "gguf"]
    return [*base, "-o", str(target), *options]


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
@pytest.mark.parametrize(
    ("precision", "limit"),
    [
        pytest.param("f32", 10_000, id="header", marks=pytest.mark.slow),
        pytest.param("f32", 300_000, id="weights"),
        pytest.param("q4_k_m", 200_000, id="f16", marks=pytest.mark.slow),
    ],
)
def test_a_disk_that_fills_up(profile: Path, out: Path, precision: str, limit: int) -> None:
    """A limit on file size fails a write as a full disk does, without root."""
    resource = pytest.importorskip("resource")
    answer = subprocess.run(
        command(profile, out / "new" / "x.gguf", "--precision", precision),
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert answer.returncode == 2, answer.stderr
    (line,) = complaints(answer.stderr)
    assert line.startswith(f"edgeskip: error: {out / 'new' / 'x.gguf'}: ")
    assert "File too large" in line or "No space left" in line  # numpy does not say which
    assert list(out.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "terminated"])
def test_an_interrupted_export_leaves_nothing(profile: Path, out: Path, tmp_path: Path, number: signal.Signals) -> None:
    """The signal comes as soon as the first of two files is there, in its temporary folder."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    process = subprocess.Popen(
        command(profile, out, "--draft", "early-exit", "--exit-layer", "2"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(scratch)},
    )
    deadline = time.monotonic() + 120
    while not list(out.glob(".tiny-llama*/*.gguf")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == (130 if number == signal.SIGINT else 143), err
    assert "Traceback" not in err
    assert list(out.iterdir()) == []
    assert list(scratch.glob("edgeskip*")) == []
