"""A certificate for https on this machine: browsers give threads and WebGPU to secure pages only."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import os
import socket
import ssl
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgeskip.core.errors import EdgeSkipError, MissingExtraError
from edgeskip.core.files import replace_file

_VALID_DAYS = 365
_RENEW_DAYS = 7  # before the end


@dataclass(frozen=True)
class Certificate:
    """PEM files; `fingerprint` is sha256 of the certificate, as browsers show it."""

    certificate: Path
    key: Path
    fingerprint: str

    def context(self) -> ssl.SSLContext:
        """Return the context of a server. Raises EdgeSkipError if the two files do not belong together."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise EdgeSkipError(
                f"{self.certificate} and {self.key} cannot be used ({error}); give a PEM certificate and its key"
            ) from None
        return context


def own_certificate(certificate: Path, key: Path) -> Certificate:
    """Return the user's own certificate. Raises EdgeSkipError if it cannot be read."""
    try:
        text = certificate.read_text(encoding="ascii")
        first = text[text.index(ssl.PEM_HEADER) : text.index(ssl.PEM_FOOTER) + len(ssl.PEM_FOOTER)]  # of a chain
        digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(first)).digest()
    except (OSError, ValueError) as error:
        raise EdgeSkipError(f"{certificate} is not a PEM certificate ({error}); give another") from None
    return Certificate(certificate, key, digest.hex(":").upper())


def self_signed(hosts: Sequence[str]) -> Certificate:
    """Return a certificate for `hosts`, names or addresses, that is kept in the user's cache until it expires.

    It is signed by an authority that is made for it and forgotten, so nothing else can ever be signed by that.
    """
    from edgeskip.models.fetch import cache_folder

    try:
        import trustme
    except ImportError:
        raise MissingExtraError("trustme", "bench") from None
    names = sorted(set(hosts))
    folder = cache_folder() / "bench" / "certificates"
    stem = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
    certificate, key = folder / f"{stem}.pem", folder / f"{stem}.key"
    if certificate.is_file() and key.is_file():
        age_days = (time.time() - certificate.stat().st_mtime) / 86400
        with suppress(EdgeSkipError):  # damaged: made anew
            found = own_certificate(certificate, key)
            found.context()
            if age_days < _VALID_DAYS - _RENEW_DAYS:
                return found
    now = datetime.datetime.now(datetime.UTC)
    authority = trustme.CA(organization_name="EdgeSkip benchmark")
    made = authority.issue_cert(
        *names,
        not_before=now - datetime.timedelta(days=1),  # the phone's clock may be behind
        not_after=now + datetime.timedelta(days=_VALID_DAYS),
    )
    folder.mkdir(parents=True, exist_ok=True)
    key.unlink(missing_ok=True)
    with os.fdopen(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(made.private_key_pem.bytes())
    replace_file(certificate, made.cert_chain_pems[0].bytes() + authority.cert_pem.bytes())
    return own_certificate(certificate, key)


def addresses() -> list[str]:
    """Return this machine's addresses as others on the network see them, the one of the default route first.

    Nothing is sent: a connected UDP socket only asks the kernel which address it would use.
    """
    found: dict[str, None] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # an address reserved for documentation
        found[str(probe.getsockname()[0])] = None
    with suppress(OSError):
        for entry in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET):
            found[str(entry[4][0])] = None
    return [address for address in found if not ipaddress.ip_address(address).is_loopback]


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches `host`; such a page is secure without https."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
