"""What a phone that opens the page measures: every artifact folder, in WASM and, if it can, in WebGPU too."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from edgeskip.bench.config import BenchConfig
from edgeskip.bench.grid import PAGE_PROVIDERS, PHONE_THREADS, WEB_STRATEGIES, Grid, cells_of
from edgeskip.bench.runner.request import RoundRequest
from edgeskip.bench.runner.schedule import alternating_order
from edgeskip.bench.schema import Device, Target
from edgeskip.core.errors import EdgeSkipError, MissingExtraError


@dataclass(frozen=True)
class ServeOptions:
    """How the page is served.

    Attributes:
        host: Address to serve on; 0.0.0.0 opens the page to the network.
        port: Port to serve on; 0 = any that is free.
        devices: Serve until this many devices are done; None = until Ctrl-C.
        certificate: The user's own for https, PEM; None = a self-signed one, which a phone warns of once.
        key: Its private key, PEM.
        plain_http: Serve http all the same; browsers then give the page one thread and no WebGPU. On this machine
            plain http is secure enough.
        packages: Folder of the page's npm archives; None = npm fetches them.
    """

    host: str = "127.0.0.1"
    port: int = 0
    devices: int | None = None
    certificate: Path | None = None
    key: Path | None = None
    plain_http: bool = False
    packages: Path | None = None

    def check(self, config: BenchConfig) -> None:
        """Raise EdgeSkipError, before anything is measured, for what would stop serving afterwards.

        Fetches the page's packages, the first time.
        """
        targets = servable_targets(config)
        if not set(config.grid.strategies) & set(WEB_STRATEGIES):
            raise EdgeSkipError(f"a browser decodes by {' or '.join(WEB_STRATEGIES)}; add one of these to --strategy")
        if not any(set(config.grid.strategies) & set(target.strategies) for target in targets):
            chosen = " or ".join(config.grid.strategies)
            raise EdgeSkipError(f"no artifact folder can be decoded by {chosen}; add plain to --strategy")
        if (self.certificate is None) != (self.key is None):
            raise EdgeSkipError("--certificate and --key belong together; give both or neither")
        try:
            family = socket.getaddrinfo(self.host or None, self.port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family[0], family[1]) as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                trial.bind(family[4])
        except OSError as error:
            why = error.strerror or str(error)
            raise EdgeSkipError(
                f"cannot serve on {self.host} port {self.port} ({why}); choose another --host or --port"
            ) from None
        for package in ("aiohttp", "onnx", "segno", *(() if self.plain_http else ("trustme",))):
            if find_spec(package) is None:
                raise MissingExtraError(package, "bench")
        from edgeskip.bench.devices.web.packages import web_packages

        web_packages(self.packages)


def servable_targets(config: BenchConfig) -> list[Target]:
    """Return the targets that a browser can run. Raises EdgeSkipError if there is none."""
    found = [target for target in config.targets if target.engine == "onnxruntime"]
    if not found:
        raise EdgeSkipError("browsers run ONNX artifact folders and none is given; make one with  edgeskip export")
    return found


def requests_for(config: BenchConfig, device: Device) -> list[RoundRequest]:
    """Return what a device measures, round by round, with the threads of --threads that the browser has."""
    cores = device.facts.get("threads")
    most = cores if isinstance(cores, int) and cores > 0 else 1
    threads = tuple(dict.fromkeys(min(count, most) for count in config.grid.threads if config.explicit_threads))
    grid = Grid(
        providers=PAGE_PROVIDERS if device.facts.get("webgpu") else PAGE_PROVIDERS[:1],
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
