"""A certificate for https on this machine: browsers give threads and WebGPU to secure pages only."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import os
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeskip.core.errors import EdgeSkipError, MissingExtraError
from edgeskip.core.files import replace_file

if TYPE_CHECKING:
    from cryptography.x509 import GeneralName

_VALID_DAYS = 365
_RENEW_DAYS = 7  # before its end


@dataclass(frozen=True)
class Certificate:
    """PEM files; `fingerprint` is sha256 of the certificate, as browsers show it."""

    certificate: Path
    key: Path
    fingerprint: str

    def context(self) -> ssl.SSLContext:
        """For a server. EdgeSkipError where the two files do not belong together."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise EdgeSkipError(
                f"{self.certificate} and {self.key} cannot be used ({error}): give a PEM certificate and its key"
            ) from None
        return context


def own_certificate(certificate: Path, key: Path) -> Certificate:
    """The user's own. EdgeSkipError where it cannot be read."""
    try:
        text = certificate.read_text(encoding="ascii")
        first = text[text.index(ssl.PEM_HEADER) : text.index(ssl.PEM_FOOTER) + len(ssl.PEM_FOOTER)]  # of a chain
        fingerprint = _fingerprint(ssl.PEM_cert_to_DER_cert(first))
    except (OSError, ValueError) as error:
        raise EdgeSkipError(f"{certificate} is no PEM certificate ({error}): give another") from None
    return Certificate(certificate, key, fingerprint)


def self_signed(hosts: Sequence[str]) -> Certificate:
    """One for `hosts`, names or addresses, kept in the user's cache until it runs out."""
    from edgeskip.models.fetch import cache_folder

    try:
        from cryptography import x509
    except ImportError:
        raise MissingExtraError("cryptography", "bench") from None
    names = sorted(set(hosts))
    folder = cache_folder() / "bench" / "certificates"
    stem = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
    certificate, key = folder / f"{stem}.pem", folder / f"{stem}.key"
    if certificate.is_file() and key.is_file():
        with suppress(ValueError):  # damaged: made anew
            found = x509.load_pem_x509_certificate(certificate.read_bytes())
            left = found.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
            if left.days > _RENEW_DAYS:
                return own_certificate(certificate, key)
    _make(names, certificate, key)
    return own_certificate(certificate, key)


def addresses() -> list[str]:
    """This machine's addresses as others on the network see them, the one of the default route first.

    Nothing is sent: a connected UDP socket only asks the kernel which address it would use.
    """
    found: dict[str, None] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address reserved for documentation
            found[str(probe.getsockname()[0])] = None
        except OSError:
            pass
    try:
        for entry in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET):
            found[str(entry[4][0])] = None
    except OSError:
        pass
    return [address for address in found if not ipaddress.ip_address(address).is_loopback]


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`; such a page is secure without https."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _make(names: Sequence[str], certificate: Path, key: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    private = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "EdgeSkip benchmark")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # the phone's clock may be behind
        .not_valid_after(now + datetime.timedelta(days=_VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    key.parent.mkdir(parents=True, exist_ok=True)
    key.unlink(missing_ok=True)
    with os.fdopen(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)
    replace_file(certificate, made.public_bytes(serialization.Encoding.PEM))


def _general_name(name: str) -> GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _fingerprint(der: bytes) -> str:
    digest = hashlib.sha256(der).hexdigest().upper()
    return ":".join(digest[i : i + 2] for i in range(0, len(digest), 2))
