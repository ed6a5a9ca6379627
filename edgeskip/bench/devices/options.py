"""The devices of a benchmark: this machine, a browser on it, others over ssh and adb."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from edgeskip.bench.config import BenchConfig
from edgeskip.bench.grid import PHONE_THREADS, WEB_PROVIDERS, WEB_STRATEGIES, Grid
from edgeskip.bench.runner.launcher import Launcher
from edgeskip.bench.runner.local import LocalLauncher
from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.engines.threads import threads_or_default

MAX_PHONE_THREADS = 64  # four for each core of the largest
SILENCE_S = 1800.0
"""Timeout without output from a worker that measures here, in seconds."""


@dataclass(frozen=True)
class DeviceRun:
    """An open device and the grid to measure on it."""

    launcher: Launcher
    grid: Grid


@dataclass(frozen=True)
class DeviceOptions:
    """The devices to measure on, and how they are reached.

    Attributes:
        local: Measure on this machine too.
        browser: Browser for the providers `web` and `web:gpu`; None = the one that is found.
        throttle: Makes that browser so many times slower, like a phone.
        web_packages: Folder of the page's npm archives; None = npm fetches them.
        remotes: Machines to measure on over ssh, as `user@host`.
        remote_python: Interpreter there that has what EdgeSkip needs; None = an environment is made there.
        remote_cache: Folder there for artifacts; None = `~/.cache/edgeskip/bench`.
        identity: Private key for ssh.
        ssh_options: Like ssh's `-o`, `KEY=VALUE`.
        adb: Measure GGUF files on an Android phone.
        adb_serial: Which phone, as `adb devices` names it.
        llama_bench: llama.cpp's llama-bench built for Android, to run there.
    """

    local: bool = True
    browser: str | None = None
    throttle: float | None = None
    web_packages: Path | None = None
    remotes: tuple[str, ...] = ()
    remote_python: str | None = None
    remote_cache: str | None = None
    identity: Path | None = None
    ssh_options: tuple[str, ...] = ()
    adb: bool = False
    adb_serial: str | None = None
    llama_bench: Path | None = None

    def check(self, config: BenchConfig) -> None:
        """Raise EdgeSkipError for options without the option they belong to."""
        if not set(config.grid.providers) & set(WEB_PROVIDERS) and (self.browser or self.throttle is not None):
            raise EdgeSkipError("--browser and --throttle need --provider web or web:gpu")
        if self.adb and self.llama_bench is None:
            raise EdgeSkipError("--adb requires --llama-bench FILE, llama.cpp's llama-bench built for Android")
        if not self.adb and (self.adb_serial or self.llama_bench):
            raise EdgeSkipError("--adb-serial and --llama-bench require --adb")
        if not self.remotes and (self.remote_python or self.remote_cache or self.identity or self.ssh_options):
            raise EdgeSkipError(
                "--remote-python, --remote-cache, --identity and --ssh-option require --remote USER@HOST"
            )
        if len(set(self.remotes)) < len(self.remotes):
            raise EdgeSkipError("--remote names a machine twice; name each once")
        if self.throttle is not None and not 1 < self.throttle <= 100:
            raise EdgeSkipError(f"--throttle {self.throttle:g} must be greater than 1 and at most 100, e.g. 4")


def open_devices(
    config: BenchConfig, options: DeviceOptions, stack: ExitStack, status: Callable[[str], None]
) -> list[DeviceRun]:
    """Start what is needed and ask each device what it is.

    `stack` closes everything. Raises EdgeSkipError if one fails.
    """
    runs = []
    web = tuple(name for name in config.grid.providers if name in WEB_PROVIDERS)
    grid = replace(config.grid, providers=tuple(name for name in config.grid.providers if name not in WEB_PROVIDERS))
    # By default each device uses as many threads as it has cores; 0 asks for that.
    counts = grid.threads if config.explicit_threads else (0,)
    rooflines = [(provider, threads) for provider in grid.providers for threads in counts]
    if config.explicit_threads and ((options.local and grid.providers) or web):
        for count in grid.threads:
            threads_or_default(count)
    if options.local and grid.providers and any(target.engine == "llama.cpp" for target in config.targets):
        from edgeskip.runtime.engines.llamacpp.self_test import check_llamacpp

        check_llamacpp()
    if options.local and grid.providers:
        status("measuring the roofline of this machine")
        runs.append(DeviceRun(LocalLauncher(rooflines, pythons=config.pythons, silence_s=SILENCE_S), grid))
    destinations = options.remotes if grid.providers else ()
    runs += [_remote(one, options, config, grid, rooflines, stack, status) for one in destinations]
    if options.adb:
        if config.explicit_threads and max(grid.threads) > MAX_PHONE_THREADS:
            raise EdgeSkipError(
                f"--threads {max(grid.threads)} is too many for a phone; give at most {MAX_PHONE_THREADS}"
            )
        threads = grid.threads if config.explicit_threads else (PHONE_THREADS,)
        phone = Grid(("cpu",), threads, ("plain",), engine="llama.cpp")
        runs.append(_phone(options, phone, stack, status))
    if web:
        strategies = tuple(name for name in config.grid.strategies if name in WEB_STRATEGIES)
        if not strategies:
            raise EdgeSkipError(f"a browser decodes by {' or '.join(WEB_STRATEGIES)}; add one of these to --strategy")
        providers = tuple("webgpu" if name == "web:gpu" else name for name in web)
        runs.append(_browser(options, replace(grid, providers=providers, strategies=strategies), stack, status))
    return runs


def _remote(
    destination: str,
    options: DeviceOptions,
    config: BenchConfig,
    grid: Grid,
    rooflines: list[tuple[str, int]],
    stack: ExitStack,
    status: Callable[[str], None],
) -> DeviceRun:
    from edgeskip.bench.devices.ssh.connection import SshOptions
    from edgeskip.bench.devices.ssh.launcher import SshLauncher, SshSettings

    settings = SshSettings(
        ssh=SshOptions(identity=options.identity, options=options.ssh_options),
        python=options.remote_python,
        cache=options.remote_cache,
        rooflines=tuple(rooflines),
    )
    launcher = SshLauncher(destination, settings, status)
    stack.callback(launcher.close)
    threads = launcher.device.facts.get("default_threads")
    if not config.explicit_threads and isinstance(threads, int) and threads > 0:
        grid = replace(grid, threads=(threads,))
    return DeviceRun(launcher, grid)


def _phone(options: DeviceOptions, grid: Grid, stack: ExitStack, status: Callable[[str], None]) -> DeviceRun:
    from edgeskip.bench.devices.adb.launcher import AdbLauncher, AdbSettings

    assert options.llama_bench is not None
    launcher = AdbLauncher(AdbSettings(options.llama_bench, serial=options.adb_serial), status)
    stack.callback(launcher.close)
    return DeviceRun(launcher, grid)


def _browser(options: DeviceOptions, grid: Grid, stack: ExitStack, status: Callable[[str], None]) -> DeviceRun:
    from edgeskip.bench.devices.web.browser_launcher import BrowserLauncher

    status("starting the browser and measuring its roofline")
    launcher = BrowserLauncher(
        [(provider, threads) for provider in grid.providers for threads in grid.threads],
        browser=options.browser,
        throttle=options.throttle,
        packages=options.web_packages,
    )
    stack.callback(launcher.close)
    return DeviceRun(launcher, grid)
