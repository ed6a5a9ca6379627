"""The web server behind the page: serves files from a table, takes records, keeps everybody else out.

One thread with its own event loop. Nothing in a URL is ever a path on disk: names are looked up in tables.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import secrets
import ssl
import threading
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from pydantic import BaseModel, Field, ValidationError

from edgeskip.bench.devices.web.artifact import WebArtifact, WebFile, job_json
from edgeskip.bench.devices.web.packages import patch_environment
from edgeskip.bench.runner.request import RoundRequest
from edgeskip.bench.schema import Device, Record, RoundFailure, RoundResult
from edgeskip.core.bounds import first_problem
from edgeskip.core.errors import EdgeSkipError, MissingExtraError

try:
    from aiohttp import web
except ImportError:
    raise MissingExtraError("aiohttp", "bench") from None

BODY_LIMIT = 4 << 20  # bytes of one record; 100,000 tokens with their gaps need about 3 MB
READ_TIMEOUT_S = 30.0  # for a whole body to come in
_PAGE = Path(__file__).parent / "page"
_TYPES = {".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css",
          ".wasm": "application/wasm"}  # fmt: skip
HEADERS = {
    # Both together isolate the page: without, browsers give it no shared memory, so no threads.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; "
    "worker-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
RecordKind = TypeVar("RecordKind", bound=BaseModel)


class ProgressRecord(Record):
    """A sign of life."""

    kind: Literal["progress"] = "progress"
    message: str = Field(max_length=500)


class RejectedRecordError(Exception):
    """A browser sent what nobody asked it for: one line."""


class ResultHandler(Protocol):
    """Handler for what browsers post, called by the server's one thread; RejectedRecordError becomes an HTTP 400."""

    def register(self, device: Device) -> str:
        """Take in what a browser says it is, perhaps again with its rooflines; return the id it has from now on."""

    def work(self, device: str) -> list[RoundRequest]:
        """Return what is left to do for it. RejectedRecordError for an unknown id."""

    def progress(self, device: str, message: str) -> None:
        """Take in what it is doing now; comes every few seconds."""

    def finish(self, record: RoundResult | RoundFailure) -> None:
        """Keep a round that has ended; return once it is safe. RejectedRecordError if nobody asked for it."""


class WebServer:
    """Serves from `start` to `close`; `url` is the page's address, token included.

    `defect` is the first error of the handler itself, if any: the record it was handed may not be safe.
    """

    def __init__(
        self,
        handler: ResultHandler,
        artifacts: Mapping[str, WebArtifact],
        packages: Mapping[str, bytes],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._handler, self._artifacts = handler, dict(artifacts)
        self._host, self._port, self._tls = host, port, tls
        self._token = secrets.token_urlsafe(12)
        self._static = {path.name: path.read_bytes() for path in _PAGE.iterdir() if path.is_file()}
        self._packages = patch_environment(packages)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stop: asyncio.Event | None = None
        self.defect: Exception | None = None

    @property
    def token(self) -> str:
        return self._token

    @property
    def port(self) -> int:
        """That it really listens on."""
        return self._port

    def url(self, host: str | None = None) -> str:
        """Return the page's address on `host`, by which others reach this machine."""
        name = host or self._host
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://{f'[{name}]' if ':' in name else name}:{self._port}/{self._token}/"

    def add(self, artifact: WebArtifact) -> None:
        """Serve one more artifact, under its path."""
        self._artifacts[str(artifact.path)] = artifact

    def start(self) -> None:
        """Listen, and return once it does.

        Raises EdgeSkipError if the port is taken or the address is not this machine's.
        """
        ready: list[BaseException | None] = []
        started = threading.Event()

        def listens() -> None:
            ready.append(None)
            started.set()

        def run() -> None:
            try:
                asyncio.run(self._serve(listens))
            except BaseException as error:
                ready.append(error)
            finally:
                started.set()

        self._thread = threading.Thread(target=run, name="web server", daemon=True)
        self._thread.start()
        started.wait(30)
        error = ready[0] if ready else TimeoutError("it does not start")
        if isinstance(error, OSError):
            where = f"{self._host}:{self._port}"
            raise EdgeSkipError(
                f"cannot listen on {where} ({error.strerror or error}): choose another --host or --port"
            )
        if error is not None:
            raise error

    def call_soon(self, work: Callable[[], None]) -> None:
        """Run `work` in the server's thread, which hands on records, between two of them."""

        def run() -> None:
            try:
                work()
            except Exception as error:
                self.defect = self.defect or error

        if self._loop is not None:
            self._loop.call_soon_threadsafe(run)

    def close(self) -> None:
        """End every connection; may be called twice."""
        if self._loop is not None and self._stop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)
        if self._thread is not None:
            self._thread.join(10)

    async def _serve(self, ready: Callable[[], None]) -> None:
        app = web.Application(middlewares=[self._guard], client_max_size=BODY_LIMIT)
        app.router.add_get("/{token}/", _table_handler(self._static, "index.html"))
        app.router.add_get("/{token}/page/{name}", _table_handler(self._static))
        app.router.add_get("/{token}/lib/{name}", _table_handler(self._packages))
        app.router.add_get("/{token}/files/{sha256}", self._file)
        app.router.add_get("/{token}/work", self._work)
        app.router.add_post("/{token}/device", self._device)
        app.router.add_post("/{token}/results", self._record_handler(RoundResult))
        app.router.add_post("/{token}/failure", self._record_handler(RoundFailure))
        app.router.add_post("/{token}/progress", self._progress)
        silent = logging.getLogger(f"{__name__}.silent")  # aiohttp prints a traceback for what is not HTTP
        silent.addHandler(logging.NullHandler())
        silent.propagate = False
        runner = web.AppRunner(app, access_log=None, logger=silent, shutdown_timeout=1.0, handle_signals=False)
        await runner.setup()
        try:
            site = web.TCPSite(runner, self._host, self._port, ssl_context=self._tls)
            await site.start()
            self._port = int(runner.addresses[0][1])
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            ready()
            await self._stop.wait()
        finally:
            await runner.cleanup()

    @property
    def _guard(self) -> Callable[..., Awaitable[web.StreamResponse]]:
        """Check the token first, whatever is asked for; then add the headers that every answer has."""

        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            first = request.path.lstrip("/").partition("/")[0]
            if not hmac.compare_digest(first.encode(errors="replace"), self._token.encode()):
                response: web.StreamResponse = _text(403, "open the address that was printed, with its token")
            else:
                try:
                    response = await handler(request)
                except web.HTTPRequestEntityTooLarge:
                    response = _text(413, f"a record has at most {BODY_LIMIT >> 20} MB")
                except web.HTTPException as error:
                    response = _text(error.status, error.reason)
                except TimeoutError:
                    response = _text(408, f"the record did not come in within {READ_TIMEOUT_S:.0f} s")
                except RejectedRecordError as error:
                    response = _text(400, str(error))
                except ConnectionError:
                    raise
                except Exception as error:
                    self.defect = self.defect or error
                    response = _text(500, "the server cannot keep this record")
            response.headers.update(HEADERS)
            response.headers.setdefault("Cache-Control", "no-store")
            return response

        return guard

    async def _file(self, request: web.Request) -> web.StreamResponse:
        sha256 = request.match_info["sha256"]
        file: WebFile | None = next(
            (found.files[sha256] for found in self._artifacts.values() if sha256 in found.files), None
        )
        if file is None:
            return _text(404, "there is no such file")
        if isinstance(file.source, bytes):
            return _bytes(file.name, file.source)
        return web.FileResponse(file.source, headers={"Content-Type": "application/octet-stream"})

    async def _work(self, request: web.Request) -> web.StreamResponse:
        jobs = []
        for job in self._handler.work(request.query.get("device", "")):
            artifact = self._artifacts.get(job.path)
            if artifact is None:
                raise RejectedRecordError(f"{job.path} is not served")
            jobs.append(job_json(job, artifact))
        return web.Response(text=f'{{"jobs": [{", ".join(jobs)}]}}', content_type="application/json")

    async def _device(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"id": self._handler.register(await _read(request, Device))})

    def _record_handler(self, kind: type[RoundResult] | type[RoundFailure]) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            self._handler.finish(await _read(request, kind))
            return _text(200, "kept")

        return handle

    async def _progress(self, request: web.Request) -> web.StreamResponse:
        progress = await _read(request, ProgressRecord)
        self._handler.progress(request.query.get("device", ""), progress.message)
        return _text(200, "")


async def _read(request: web.Request, kind: type[RecordKind]) -> RecordKind:
    """Return the body as a record; RejectedRecordError says in one line what is wrong with it."""
    body = await asyncio.wait_for(request.read(), READ_TIMEOUT_S)
    try:
        record = kind.model_validate(json.loads(body))
        record.model_dump_json()  # what cannot be written is rejected
        return record
    except ValidationError as error:
        raise RejectedRecordError(f"this is not a {kind.__name__} ({first_problem(error)})") from None
    except (ValueError, RecursionError):  # PydanticSerializationError, of an unpaired surrogate, is a ValueError too
        raise RejectedRecordError(f"this is not a {kind.__name__} (not JSON)") from None


def _table_handler(table: Mapping[str, bytes], name: str = "") -> Handler:
    """Return a handler that serves `name`, or what the address names, from a table."""

    async def handle(request: web.Request) -> web.StreamResponse:
        wanted = name or request.match_info["name"]
        return _bytes(wanted, table[wanted]) if wanted in table else _text(404, "there is no such file")

    return handle


def _bytes(name: str, data: bytes) -> web.StreamResponse:
    kind = _TYPES.get(Path(name).suffix, "application/octet-stream")
    charset = "utf-8" if kind.startswith("text/") else None
    return web.Response(body=data, content_type=kind, charset=charset)


def _text(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=text + "\n" if text else "")
