"""Rounds on a phone, against a stand-in for adb that replays a transcript and fails on any command not in it.

The transcript is written by hand from documented formats, not recorded on a phone: none was at hand. llama-bench's JSON
in it is real, of a build for a PC. Oracles: that transcript, that JSON's own figures, the list of commands asked.
"""

from __future__ import annotations

import json
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from adb_transcript import Entry, Transcript, read_transcript

from edgeskip.bench.android.adb_launcher import FOLDER, AdbLauncher, AndroidSettings
from edgeskip.bench.record import Cell, Sample
from edgeskip.bench.request import Prompt, Request
from edgeskip.bench.request import Test as RandomTest
from edgeskip.errors import EdgeSkipError
from edgeskip.files import sha256_of

HERE = Path(__file__).parent
REAL = (HERE / "llama_bench.json").read_text(encoding="utf-8")
TESTS = [RandomTest(test=kind, tokens=n, depth=d) for d in (0, 64) for kind, n in (("pp", 32), ("tg", 8))]  # type: ignore[arg-type]
ARM64, X86_64 = 183, 62
KILL = "shell p=$(cat "


def elf(machine: int) -> bytes:
    """The start of a little-endian 64-bit ELF program."""
    return b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 3, machine) + bytes(4076)


@dataclass
class Clock:
    now: float = 0.0
    slept: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@dataclass
class Phone:
    """`transcript` is what the phone answers; `run` and `launch` play it from the start."""

    folder: Path
    program: Path
    model: Path
    transcript: Transcript
    clock: Clock
    told: list[str] = field(default_factory=list)

    @property
    def settings(self) -> AndroidSettings:
        return AndroidSettings(self.program, adb=str(self.folder / "adb"))

    @property
    def asked(self) -> list[str]:
        return (self.folder / "played.log").read_text(encoding="utf-8").splitlines()

    def launch(self, settings: AndroidSettings | None = None) -> AdbLauncher:
        self.transcript.write(self.folder / "played.json")
        (self.folder / "played.log").unlink(missing_ok=True)
        settings = settings or self.settings
        return AdbLauncher(settings, self.told.append, clock=lambda: self.clock.now, sleep=self.clock.sleep)

    def run(self, settings: AndroidSettings | None = None, request: Request | None = None) -> Sample:
        launcher = self.launch(settings)
        path = launcher.prepare(self.model, self.told.append)
        return launcher.run((request or asking()).model_copy(update={"path": path}), self.told.append)


def asking(**changes: object) -> Request:
    cell = Cell(target="tiny", device="x", provider="cpu", threads=2, strategy="plain")
    return Request(path="", cell=cell, round=3, tests=TESTS, prompts=[], max_tokens=8).model_copy(update=changes)


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Phone:
    program, model = tmp_path / "llama-bench", tmp_path / "tiny.gguf"
    program.write_bytes(elf(ARM64))
    write_gguf(model)
    adb = tmp_path / "adb"
    adb.write_text(f"#!/bin/sh\nexec '{sys.executable}' '{HERE / 'fake_adb.py'}' \"$@\"\n")
    adb.chmod(0o755)
    monkeypatch.setenv("FAKE_ADB", str(tmp_path / "played.json"))
    text = (HERE / "phone.transcript").read_text(encoding="utf-8")
    for name, path in (("PROGRAM", program), ("MODEL", model)):
        text = text.replace(f"{{{name}}}", str(path)).replace(f"{{{name}_SHA}}", sha256_of(path))
        text = text.replace(f"{{{name}_DIR}}", f"{FOLDER}/{sha256_of(path)[:16]}")
    made = Phone(tmp_path, program, model, read_transcript(text), Clock())
    made.transcript = Transcript((*made.transcript.entries, Entry(call(made, "-p 32 -n 8 -d 0,64"), out=REAL)))
    return made


def write_gguf(path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    import numpy as np

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def call(phone: Phone, tests: str, *, ngl: int = 0, threads: int = 2) -> str:
    """The command that runs llama-bench."""
    program = f"{FOLDER}/{sha256_of(phone.program)[:16]}"
    model = f"{FOLDER}/{sha256_of(phone.model)[:16]}/tiny.gguf"
    bench = f"{program}/llama-bench -m {model} -r 1 -t {threads} -ngl {ngl} -o json {tests}"
    return f"shell sh -c 'echo $$ > {FOLDER}/running; export LD_LIBRARY_PATH={program}; exec {bench}'"


def complains(phone: Phone, message: str, work: Callable[[], object] | None = None) -> None:
    with pytest.raises(EdgeSkipError, match=message) as caught:
        (work or phone.run)()
    assert "\n" not in str(caught.value)


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
    complains(phone, "there is no no-such-adb here: install Android's platform tools", lambda: phone.launch(settings))


def test_a_program_of_another_processor(phone: Phone) -> None:
    phone.program.write_bytes(elf(X86_64))
    complains(phone, r"llama-bench is a program for x86-64, the phone runs arm64-v8a.*built for Android", phone.launch)
    phone.program.write_bytes(b"#!/bin/sh\n" + bytes(100))
    complains(phone, r"is no program for Android \(no ELF file\)", phone.launch)
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
        (137, "Killed \n", r"was killed: the phone is out of memory, close its apps .*\(Killed\)"),
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


def thermal(celsius: float, status: int = 0) -> Entry:
    lines = f"\tTemperature{{mValue={celsius}, mType=3, mName=SKIN, mStatus=0}}\nCurrent cooling devices from HAL:\n"
    return Entry("", out=f"Thermal Status: {status}\nCurrent temperatures from HAL:\n{lines}")


def test_a_phone_that_cools_no_further_is_taken_as_it_is(phone: Phone) -> None:
    phone.transcript = phone.transcript.answering(
        "shell dumpsys thermalservice", thermal(48), thermal(44.0), thermal(43.8)
    )
    assert "began at 44 °C and no longer cooling after 50 s" in phone.run().notes
    assert sum(phone.clock.slept) == 50  # 5 s to the second reading, then 45 s without half a degree


def test_a_phone_that_never_cools_is_waited_for_only_so_long(phone: Phone) -> None:
    falling = [thermal(90 - 0.6 * n) for n in range(80)]
    phone.transcript = phone.transcript.answering("shell dumpsys thermalservice", *falling)
    assert "began at 54 °C after waiting 300 s" in phone.run().notes


def test_throttling_is_waited_out_though_nothing_changes(phone: Phone) -> None:
    phone.transcript = phone.transcript.answering("shell dumpsys thermalservice", thermal(30, status=1))
    sample = phone.run()
    assert "began at throttling, 30 °C after waiting 300 s" in sample.notes


ZONES = 'shell for z in /sys/class/thermal/thermal_zone*; do echo "$(cat $z/type) $(cat $z/temp)"; done 2>/dev/null'


def test_temperatures_of_the_kernels_zones(phone: Phone) -> None:
    """Before Android 10, where the thermal service is not there; some kernels tell degrees, not thousandths."""
    phone.transcript = phone.transcript.saying("shell dumpsys thermalservice", "Can't find service: thermalservice\n")
    zones = "cpu-0-0-usr 36200\ncpu-1-0-usr 38900\ngpuss-0-usr 35\npm8998_tz 99000\nbattery 29000\nskin-therm \n"
    phone.transcript = Transcript((*phone.transcript.entries, Entry(ZONES, out=zones)))
    assert phone.run().conditions.temperature_c == [38.9, 38.9]


def test_temperature_of_the_battery_alone(phone: Phone) -> None:
    phone.transcript = phone.transcript.saying("shell dumpsys thermalservice", "Can't find service: thermalservice\n")
    phone.transcript = Transcript((*phone.transcript.entries, Entry(ZONES)))
    assert phone.run().conditions.temperature_c == [28.7, 28.7]


def test_no_temperature_at_all(phone: Phone) -> None:
    phone.transcript = phone.transcript.saying("shell dumpsys thermalservice").saying("shell dumpsys battery")
    phone.transcript = Transcript((*phone.transcript.entries, Entry(ZONES)))
    sample = phone.run()
    assert sample.conditions.temperature_c == []
    assert "the phone tells no temperature: it was not waited for to cool" in sample.notes


def test_battery_saver_is_noted(phone: Phone) -> None:
    phone.transcript = phone.transcript.saying("shell settings", "1\n")
    phone.transcript = phone.transcript.saying("shell dumpsys power", "  mWakefulness=Dozing\n")
    assert {"battery saver on: it caps the clocks", "screen off"} <= set(phone.run().notes)


def test_prompts_and_strategies_are_not_for_phones(phone: Phone) -> None:
    sample = phone.run(request=asking(prompts=[Prompt(name="a", text="Hello")]))
    assert "no serving figures: llama-bench answers no prompts" in sample.notes
    cell = asking().cell.model_copy(update={"strategy": "self-speculative"})
    complains(
        phone, "decodes plainly, it cannot measure self-speculative", lambda: phone.run(request=asking(cell=cell))
    )
    complains(phone, "measures -p and -n only", lambda: phone.run(request=asking(tests=[])))


def gpu(phone: Phone, backends: str) -> Request:
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
    complains(phone, r"model\.onnx is no GGUF file", prepare(tmp_path / "model.onnx"))
    complains(phone, r"cannot read .*nothing\.gguf", prepare(tmp_path / "nothing.gguf"))
    (tmp_path / "m-00001-of-00002.gguf").write_bytes(b"GGUF")
    complains(phone, "is one part of several: merge them", prepare(tmp_path / "m-00001-of-00002.gguf"))
