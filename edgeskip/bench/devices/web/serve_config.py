"""What a phone that opens the page is asked for: every artifact folder, in WASM and where it can in WebGPU too."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from edgeskip.bench.config import BenchConfig
from edgeskip.bench.grid import PHONE_THREADS, WEB_STRATEGIES, Grid, cells_of
from edgeskip.bench.runner.request import RoundRequest
from edgeskip.bench.runner.run_file import RunLog
from edgeskip.bench.runner.schedule import alternating_order
from edgeskip.bench.schema import Device, Target
from edgeskip.core.errors import EdgeSkipError, MissingExtraError

PROVIDERS = ("web", "webgpu")


@dataclass(frozen=True)
class ServeOptions:
    """How the page is served; see `edgeskip bench --help`."""

    host: str
    port: int
    devices: int | None
    certificate: Path | None
    key: Path | None
    plain_http: bool
    packages: Path | None

    def check(self, config: BenchConfig) -> None:
        """EdgeSkipError, before anything is measured, for what would stop serving afterwards.

        Brings the page's packages, the first time.
        """
        targets = servable_targets(config)
        if not set(config.grid.strategies) & set(WEB_STRATEGIES):
            raise EdgeSkipError(f"a browser decodes by {' or '.join(WEB_STRATEGIES)}: add one of these to --strategy")
        if not any(set(config.grid.strategies) & set(target.strategies) for target in targets):
            raise EdgeSkipError(
                f"no artifact folder can be decoded by {' or '.join(config.grid.strategies)}: add plain"
            )
        if (self.certificate is None) != (self.key is None):
            raise EdgeSkipError("--certificate and --key belong together: give both or neither")
        try:
            family = socket.getaddrinfo(self.host or None, self.port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family[0], family[1]) as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                trial.bind(family[4])
        except OSError as error:
            why = error.strerror or str(error)
            raise EdgeSkipError(
                f"cannot serve on {self.host} port {self.port} ({why}): choose another --host or --port"
            ) from None
        for package in ("aiohttp", "onnx", "segno", *(() if self.plain_http else ("cryptography",))):
            if find_spec(package) is None:
                raise MissingExtraError(package, "bench")
        from edgeskip.bench.devices.web.packages import web_packages

        web_packages(self.packages)


def serve_phones(config: BenchConfig, serving: ServeOptions, log: RunLog, say: Callable[[str], None]) -> int:
    """Serves until Ctrl-C, or until as many devices as wanted are done; how many are. `log` gets every record."""
    from edgeskip.bench.devices.web.serve import ServeSecurity, serve

    return serve(
        [Path(target.path) for target in servable_targets(config)],
        lambda device: requests_for(config, device),
        log.add,
        host=serving.host,
        port=serving.port,
        security=ServeSecurity(serving.plain_http, serving.certificate, serving.key),
        packages=serving.packages,
        devices=serving.devices,
        say=say,
    )


def servable_targets(config: BenchConfig) -> list[Target]:
    """The targets that a browser can run. EdgeSkipError where there is none."""
    found = [target for target in config.targets if target.engine == "onnxruntime"]
    if not found:
        raise EdgeSkipError("browsers run ONNX artifact folders and none is given; make one with  edgeskip export")
    return found


def requests_for(config: BenchConfig, device: Device) -> list[RoundRequest]:
    """Round by round, as the rounds run here. Threads: as asked for, as far as the browser has them."""
    has = device.facts.get("threads")
    most = has if isinstance(has, int) and has > 0 else 1
    threads = tuple(dict.fromkeys(min(count, most) for count in config.grid.threads if config.explicit_threads))
    grid = Grid(
        providers=PROVIDERS if device.facts.get("webgpu") else PROVIDERS[:1],
        threads=threads or (min(PHONE_THREADS, most),),
        strategies=tuple(name for name in config.grid.strategies if name in WEB_STRATEGIES),
        engine="onnxruntime",
    )
    cells, _ = cells_of(servable_targets(config), grid, device.id)
    paths = {target.name: target.path for target in config.targets}
    wanted = [cell for cell in cells if config.round_spec.measures(cell)]
    return [
        config.round_spec.request(cell, paths[cell.target], round)
        for round in range(config.settings.rounds)
        for cell in alternating_order(wanted, round)
    ]
