"""Rounds on a phone, against a stand-in for adb that replays a transcript and fails on any command not in it.

The transcript is written by hand from documented formats, not recorded on a phone: none was at hand. llama-bench's JSON
in it is real, of a build for a PC. Oracles: that transcript, that JSON's own figures, the list of commands asked.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from adb_transcript import Entry, Transcript
from played_phone import ARM64, KILL, REAL, X86_64, Phone, asking, call, complains, elf

from edgeskip.bench.devices.adb.launcher import FOLDER
from edgeskip.bench.runner.request import BenchPrompt, RoundRequest
from edgeskip.core.files import sha256_of


def test_a_round_from_an_empty_phone_on(phone: Phone) -> None:
    sample = phone.run()
    real = {(row["n_prompt"], row["n_gen"], row["n_depth"]): row["avg_ns"] for row in json.loads(REAL)}
    measured = {(t.test, t.tokens, t.depth): t.seconds for t in sample.tests}
    assert measured == {
        ("pp", 32, 0): real[32, 0, 0] / 1e9,
        ("tg", 8, 0): real[0, 8, 0] / 1e9,
        ("pp", 32, 64): real[32, 0, 64] / 1e9,
        ("tg", 8, 64): real[0, 8, 64] / 1e9,
    }
    assert (sample.cell, sample.round) == (asking().cell, 3)
    ran = sample.ran
    assert (ran.engine, ran.version, ran.provider, ran.threads) == ("llama.cpp", "0c1e570", "cpu", 2)
    assert (sample.load_s, sample.peak_rss_bytes, sample.answers) == (None, None, [])
    assert sample.conditions.temperature_c == [38.5, 63.0]
    assert sample.notes == [
        "battery at 87 %, plugged in",
        "screen on",
        "throttling at the end of the round (thermal status 2)",
    ]
    assert [line for line in phone.told if "cool" in line] == [
        "waiting for the phone to cool: throttling, 54 °C",
        "waiting for the phone to cool: 44 °C",
    ]
    assert phone.clock.slept == [5.0, 5.0]
    assert len([line for line in phone.asked if line.startswith("push")]) == 2


def test_the_phone_is_described(phone: Phone) -> None:
    device = phone.launch().device
    assert device.type == "adb"
    assert device.name == "Google Pixel 6 (Google GS101)"
    assert device.versions == {"android": "14"}
    assert device.facts["cores_max_mhz"] == [1803] * 4 + [2253] * 2 + [2802] * 2
    assert device.facts["memory_bytes"] == 7735296 * 1024
    assert device.facts["abi"] == "arm64-v8a"
    assert device.id.startswith("Pixel 6 ")
    assert "1A2B3C4D5E6F7G" not in device.model_dump_json()  # results are passed on, serial numbers are not


def test_nothing_is_pushed_twice(phone: Phone) -> None:
    there = phone.transcript
    for path in (phone.program, phone.model):
        digest = sha256_of(path)
        command = f"shell sha256sum {FOLDER}/{digest[:16]}/{path.name}"
        entries = tuple(e for e in there.entries if e.command != command)
        there = Transcript((*entries, Entry(command, out=f"{digest}  {command.split()[-1]}\n")))
    phone.transcript = there
    assert phone.run().tests
    assert not [line for line in phone.asked if line.startswith("push")]


def test_libraries_beside_the_program_go_along(phone: Phone) -> None:
    library = phone.folder / "libllama.so"
    library.write_bytes(elf(ARM64)[:-1])
    folder = f"{FOLDER}/{sha256_of(phone.program)[:16]}"
    phone.transcript = Transcript(
        (
            *phone.transcript.entries,
            Entry(f"shell sha256sum {folder}/libllama.so", said="No such file or directory\n", code=1),
            Entry(f"push {library} {folder}/libllama.so.part"),
            Entry(f"shell sha256sum {folder}/libllama.so.part", out=f"{sha256_of(library)}  x\n"),
            Entry(f"shell mv {folder}/libllama.so.part {folder}/libllama.so"),
        )
    )
    assert phone.run().tests
    library.write_bytes(elf(X86_64))
    complains(phone, r"libllama\.so is a program for x86-64, the phone runs arm64-v8a, armeabi-v7a, armeabi")


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ("", "no phone is connected: plug one in"),
        ("A\tdevice\nB\tdevice\n", r"several phones are connected, choose one by its serial number: A, B$"),
        ("A\tunauthorized\n", "the phone A does not trust this computer yet: unlock it"),
        ("A\toffline\n", r"the phone A is offline: .*adb kill-server"),
        ("A\tno permissions (user in plugdev group; are your udev rules wrong?); see [http://x]\n", "udev rules"),
        ("A\trecovery\n", "is in recovery mode"),
        ("A\thost\n", "is in state 'host'"),
    ],
)
def test_phones_that_are_not_ready(phone: Phone, listed: str, message: str) -> None:
    head = "* daemon not running; starting now at tcp:5037\n* daemon started successfully\nList of devices attached\n"
    phone.transcript = phone.transcript.saying("devices", f"{head}{listed}\n")
    complains(phone, message, phone.launch)


def test_one_of_several_phones(phone: Phone) -> None:
    phone.transcript = phone.transcript.saying("devices", "List of devices attached\nA\tdevice\nB\tdevice\n\n")
    assert phone.launch(replace(phone.settings, serial="B")).device.type == "adb"
    complains(
        phone, "no phone C is connected; there are: A, B", lambda: phone.launch(replace(phone.settings, serial="C"))
    )


def test_no_adb(phone: Phone) -> None:
    settings = replace(phone.settings, adb="no-such-adb")
    complains(phone, "no-such-adb.*platform tools", lambda: phone.launch(settings))


def test_a_program_of_another_processor(phone: Phone) -> None:
    phone.program.write_bytes(elf(X86_64))
    complains(phone, r"llama-bench is a program for x86-64, the phone runs arm64-v8a.*built for Android", phone.launch)
    phone.program.write_bytes(b"#!/bin/sh\n" + bytes(100))
    complains(phone, r"not a program for Android \(not an ELF file\)", phone.launch)
    phone.program.unlink()
    complains(phone, r"cannot read .*llama-bench", phone.launch)


def test_too_little_room(phone: Phone) -> None:
    table = (
        "Filesystem 1K-blocks Used Available Use% Mounted on\n/dev/block/dm-44 114687980 114627980 60000 100% /data\n"
    )
    phone.transcript = phone.transcript.saying("shell df -k", table)
    complains(phone, r"the phone has 61 MB free in /data/local/tmp/edgeskip, llama-bench takes 64 MB", phone.launch)


def test_the_disk_fills_up_while_copying(phone: Phone) -> None:
    said = "adb: error: failed to copy 'x' to 'y': remote write failed: No space left on device\n"
    phone.transcript = phone.transcript.saying(f"push {phone.model}", said=said, code=1)
    complains(phone, r"the phone has no room for tiny\.gguf in /data/local/tmp/edgeskip/")


def test_a_copy_that_arrives_damaged_is_removed(phone: Phone) -> None:
    part = f"{FOLDER}/{sha256_of(phone.model)[:16]}/tiny.gguf.part"
    phone.transcript = phone.transcript.saying(f"shell sha256sum {part}", out=f"{'0' * 64}  {part}\n")
    phone.transcript = Transcript((*phone.transcript.entries, Entry(f"shell rm -f {part}")))
    complains(phone, r"tiny\.gguf arrived damaged on the phone: try another cable")
    assert phone.asked[-1] == f"shell rm -f {part}"


def test_no_sha256sum(phone: Phone) -> None:
    start = f"shell sha256sum {FOLDER}/{sha256_of(phone.program)[:16]}/llama-bench"
    entries = [e for e in phone.transcript.entries if e.command != start]
    said = "/system/bin/sh: sha256sum: not found\n"
    phone.transcript = Transcript((*entries, Entry(start, said=said, code=127)))
    complains(phone, "the phone has no sha256sum: Android 8 or newer is needed", phone.launch)


@pytest.mark.parametrize(
    ("code", "said", "message"),
    [
        (137, "Killed \n", r"was ended by SIGKILL, as Android .*: close its apps or .*\(Killed\)"),
        (132, "Illegal instruction \n", "met an instruction that the phone's processor lacks"),
        (139, "Segmentation fault \n", r"crashed \(segmentation fault\)"),
        (127, "sh: x: not found\n", "cannot be run there: give one built for Android"),
        (1, "llama_bench: error: failed to load model 'x'\n", "ended with code 1: llama_bench: error: failed to load"),
    ],
)
def test_llama_bench_fails(phone: Phone, code: int, said: str, message: str) -> None:
    phone.transcript = phone.transcript.saying("shell sh -c", out="[\n", said=said, code=code)
    complains(phone, f"llama-bench on the phone {message}")


def test_the_phone_goes_away_in_a_round(phone: Phone) -> None:
    said = "adb: error: device '1A2B3C4D5E6F7G' not found\n"
    phone.transcript = phone.transcript.saying("shell sh -c", out="[\n", said=said, code=-1)
    complains(phone, r"the phone 1A2B3C4D5E6F7G went away \(adb: error: .*\): check its cable")


def test_a_round_that_takes_too_long_is_ended_there(phone: Phone) -> None:
    phone.transcript = phone.transcript.saying("shell sh -c", out=REAL, seconds=60)
    launcher = phone.launch(replace(phone.settings, limit_s=1.0))
    path = launcher.prepare(phone.model, phone.told.append)
    began = time.monotonic()
    complains(
        phone,
        "llama-bench on the phone took longer than 1 s and was ended",
        lambda: launcher.run(asking(path=path), phone.told.append),
    )
    assert time.monotonic() - began < 20
    assert phone.asked[-1].startswith(KILL)


def test_ctrl_c_ends_it_there(phone: Phone, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = phone.launch()
    path = launcher.prepare(phone.model, phone.told.append)
    shell = launcher._adb.shell

    def interrupted(command: str, *, limit_s: float = 60.0) -> object:
        if command.startswith("sh -c"):
            raise KeyboardInterrupt
        return shell(command, limit_s=limit_s)

    monkeypatch.setattr(launcher._adb, "shell", interrupted)
    with pytest.raises(KeyboardInterrupt):
        launcher.run(asking(path=path), phone.told.append)
    assert phone.asked[-1].startswith(KILL)


def test_prompts_and_strategies_are_not_for_phones(phone: Phone) -> None:
    sample = phone.run(request=asking(prompts=[BenchPrompt(name="a", text="Hello")]))
    assert "no serving figures: llama-bench answers no prompts" in sample.notes
    cell = asking().cell.model_copy(update={"strategy": "self-speculative"})
    complains(
        phone, "decodes plainly, it cannot measure self-speculative", lambda: phone.run(request=asking(cell=cell))
    )
    complains(phone, "measures -p and -n only", lambda: phone.run(request=asking(tests=[])))


def gpu(phone: Phone, backends: str) -> RoundRequest:
    rows = [{**row, "backends": backends, "n_gpu_layers": 99} for row in json.loads(REAL)]
    entry = Entry(call(phone, "-p 32 -n 8 -d 0,64", ngl=99), out=json.dumps(rows, indent=2))
    phone.transcript = Transcript((*phone.transcript.entries, entry))
    return asking(cell=asking().cell.model_copy(update={"provider": "opencl"}))


def test_the_gpu_is_used_where_it_is_built_in(phone: Phone) -> None:
    sample = phone.run(request=gpu(phone, "OpenCL"))
    assert sample.ran.provider == "opencl"


def test_no_fall_back_from_the_gpu_unless_allowed(phone: Phone) -> None:
    request = gpu(phone, "CPU")
    complains(phone, "is built with CPU, without opencl", lambda: phone.run(request=request))
    sample = phone.run(request=request.model_copy(update={"allow_fallback": True}))
    assert sample.ran.provider == "cpu"
    assert "fell back to the CPU: llama-bench is built with CPU" in sample.notes


def test_a_gpu_that_may_have_helped_is_noted(phone: Phone) -> None:
    rows = [{**row, "backends": "Vulkan"} for row in json.loads(REAL)]
    phone.transcript = phone.transcript.saying("shell sh -c", json.dumps(rows, indent=2))
    sample = phone.run()
    assert sample.ran.provider == "cpu"
    assert "built with Vulkan: large products of a prompt may have run there" in sample.notes


def test_files_that_llama_bench_cannot_measure(phone: Phone, tmp_path: Path) -> None:
    launcher = phone.launch()

    def prepare(path: Path) -> Callable[[], object]:
        return lambda: launcher.prepare(path, phone.told.append)

    complains(phone, "is a folder: phones over adb measure GGUF files", prepare(tmp_path))
    (tmp_path / "model.onnx").write_bytes(b"onnx")
    complains(phone, r"model\.onnx is not a GGUF file", prepare(tmp_path / "model.onnx"))
    complains(phone, r"cannot read .*nothing\.gguf", prepare(tmp_path / "nothing.gguf"))
    (tmp_path / "m-00001-of-00002.gguf").write_bytes(b"GGUF")
    complains(phone, "is one part of several: merge them", prepare(tmp_path / "m-00001-of-00002.gguf"))
