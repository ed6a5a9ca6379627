"""Which devices a run has, and with how many threads. Oracle: by hand, with launchers that start nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tiny_graph import build_tiny_artifact

from edgeskip.bench.config import BenchArgs, BenchConfig
from edgeskip.bench.devices import options as devices
from edgeskip.bench.devices.options import PHONE_THREADS, DeviceOptions, open_devices
from edgeskip.bench.schema import Device


class Fake:
    """Any launcher; `made` are the arguments of each."""

    made: list[Any] = []  # noqa: RUF012  # emptied by the fixture

    def __init__(self, *arguments: Any, **options: Any) -> None:
        Fake.made.append((arguments, options))
        self.device = Device(id=f"d{len(Fake.made)}", type="ssh", name="d", facts={"default_threads": 7})

    def close(self) -> None: ...


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., BenchConfig]:
    from edgeskip.bench.devices.adb import launcher as adb_launcher
    from edgeskip.bench.devices.ssh import launcher as ssh_launcher
    from edgeskip.bench.devices.web import browser_launcher

    Fake.made.clear()
    monkeypatch.setattr(devices, "LocalLauncher", Fake)
    monkeypatch.setattr(ssh_launcher, "SshLauncher", Fake)
    monkeypatch.setattr(adb_launcher, "AdbLauncher", Fake)
    monkeypatch.setattr(browser_launcher, "BrowserLauncher", Fake)
    folder = build_tiny_artifact(tmp_path / "tiny").folder

    def read(threads: str | None, provider: str = "cpu") -> BenchConfig:
        args = BenchArgs(
            targets=[str(folder)], prompt_tokens="8", new_tokens="4", depths="0", threads=threads, provider=provider,
            strategy="plain,self-speculative,speculative", prompts=None, num_prompts=None, max_tokens=4, rounds=1,
            baselines=[], allow_fallback=False, pythons=[], seed=0,
        )  # fmt: skip
        return BenchConfig.from_args(args)

    return read


def opened(config: BenchConfig, options: DeviceOptions) -> list[devices.DeviceRun]:
    with ExitStack() as stack:
        return open_devices(config, options, stack, lambda line: None)


def test_each_machine_takes_its_own_number_of_threads(asked: Callable[..., BenchConfig]) -> None:
    (there,) = opened(asked(None), DeviceOptions(local=False, remotes=("pi@board",)))
    assert there.grid.threads == (7,)
    assert Fake.made[0][0][1].rooflines == (("cpu", 0),)  # 0: as many as the machine takes
    (there,) = opened(asked("1,2"), DeviceOptions(local=False, remotes=("pi@board",)))
    assert there.grid.threads == (1, 2)
    assert Fake.made[1][0][1].rooflines == (("cpu", 1), ("cpu", 2))


def test_a_phone_over_adb_runs_llama_cpp(asked: Callable[..., BenchConfig]) -> None:
    phone = DeviceOptions(local=False, adb=True, llama_bench=Path("llama-bench"))
    (place,) = opened(asked(None), phone)
    assert (place.grid.threads, place.grid.engine, place.grid.strategies) == ((PHONE_THREADS,), "llama.cpp", ("plain",))
    assert opened(asked("8"), phone)[0].grid.threads == (8,)


def test_a_browser_is_a_device_of_its_own(asked: Callable[..., BenchConfig]) -> None:
    here, web = opened(asked("2", "cpu,web,web:gpu"), DeviceOptions(throttle=4))
    assert here.grid.providers == ("cpu",)
    assert web.grid.providers == ("web", "webgpu")
    assert web.grid.strategies == ("plain", "self-speculative")
    assert Fake.made[1][0] == ([("web", 2), ("webgpu", 2)],)  # whose roofline is wanted
    assert Fake.made[1][1]["throttle"] == 4


def test_three_of_the_shipped_prompts_unless_another_number_is_asked_for(asked: Callable[..., BenchConfig]) -> None:
    assert len(asked(None).round_spec.prompts) == 3
