"""Download one URL into one file: resume an earlier attempt, report progress, and check the sha256."""

from __future__ import annotations

import errno
import http.client
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import sha256_of
from edgeskip.core.progress import Progress, ProgressEvent, silent

Received = Callable[[float, float | None], None]  # bytes that are there, bytes in all

CHUNK = 1 << 18  # bytes
PATIENCE_S = 30.0  # without a byte, the connection counts as broken
ATTEMPTS = 5  # broken connections in a row, none of which brought anything
RETRY_S = 1.0  # pause after the first of them; it doubles


class _BrokenError(Exception):
    """The connection ended early; what came is in the part file."""


def download(
    url: str, part: Path, sha256: str, *, title: str, progress: Progress = silent, ca_file: str | None = None
) -> None:
    """Download `url` (http, https or file) into `part`; return when `part` is whole and hashes to `sha256` (hex).

    Bytes that `part` already holds are not fetched again if the server can send ranges. On a broken connection or
    Ctrl-C `part` stays for the next call; if the hash is wrong it is deleted. `ca_file`: PEM file of the authorities to
    trust instead of the system's. `progress` gets MB.

    Raises:
        EdgeSkipError: On every failure.
    """
    host = urlsplit(url).hostname or "this machine"
    if urlsplit(url).scheme not in {"http", "https", "file"}:
        raise EdgeSkipError(f"cannot download {title} from {url}: only http, https and file addresses are read")

    def received(done: float, total: float | None) -> None:
        progress(ProgressEvent(title, done / 1e6, None if total is None else total / 1e6, "MB"))

    failures = 0
    while True:
        before = _size(part)
        try:
            _receive(url, part, received, ca_file)
            break
        except _BrokenError as error:
            failures = 1 if _size(part) > before else failures + 1
            if failures >= ATTEMPTS:
                raise EdgeSkipError(
                    f"the download of {title} from {host} broke off ({error}); "
                    f"{_size(part) / 1e6:.0f} MB are kept: run the same command again to go on from there"
                ) from None
            time.sleep(RETRY_S * 2.0 ** (failures - 1))
    if sha256_of(part) != sha256:
        part.unlink()
        raise EdgeSkipError(
            f"the download of {title} from {host} is not the expected file (its sha256 differs) and was deleted: "
            "run the command again; if that does not help, the server offers another file under this name"
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _receive(url: str, part: Path, received: Received, ca_file: str | None) -> None:
    """Open one connection and append to `part` until the end; raise _BrokenError if it ends early."""
    have = _size(part)
    request = Request(url, headers={"User-Agent": "edgeskip", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    context = ssl.create_default_context(cafile=ca_file) if url.startswith("https:") else None
    try:
        response = urlopen(request, timeout=PATIENCE_S, context=context)
    except HTTPError as error:
        if error.code == 416:  # nothing lies beyond what we have: it is whole, or of another file (the hash tells)
            return
        if error.code in {408, 425, 429, 500, 502, 503, 504}:
            raise _BrokenError(f"HTTP {error.code}") from None
        raise EdgeSkipError(
            f"cannot download: {urlsplit(url).hostname} answers {error.code} {error.reason} for {url}"
        ) from None
    except URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise EdgeSkipError(
                f"cannot trust {urlsplit(url).hostname}: {error.reason.verify_message}; "
                "set SSL_CERT_FILE to the file with your certificate authorities"
            ) from None
        if isinstance(error.reason, FileNotFoundError) or url.startswith("file:"):
            raise EdgeSkipError(f"cannot read {url}: {error.reason}") from None
        raise _BrokenError(str(error.reason)) from None
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(str(error) or type(error).__name__) from None
    with response, _open_part(part, append=getattr(response, "status", None) == 206) as file:
        start = file.tell()
        length = response.headers.get("Content-Length")
        total = start + int(length) if length is not None else None
        received(start, total)
        while chunk := _read(response):
            try:
                file.write(chunk)
            except OSError as error:
                raise _no_room(error, part) from None
            received(file.tell(), total)
        if total is not None and file.tell() < total:
            raise _BrokenError(f"{file.tell() / 1e6:.1f} of {total / 1e6:.1f} MB came")


def _open_part(part: Path, *, append: bool) -> IO[bytes]:
    try:
        return part.open("ab" if append else "wb", buffering=0)
    except OSError as error:
        raise _no_room(error, part) from None


def _read(response: Any) -> bytes:
    try:
        return bytes(response.read(CHUNK))
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(str(error) or type(error).__name__) from None


def _no_room(error: OSError, path: Path) -> EdgeSkipError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return EdgeSkipError(f"no space left for {path}: free some, or set EDGESKIP_CACHE to a folder on another disk")
    return EdgeSkipError(f"cannot write {path} ({error.strerror}): set EDGESKIP_CACHE to a folder that can be written")
