"""Certificates for tests: an authority and what it signs, made anew each time."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


@dataclass
class Authority:
    """An authority with a key of its own."""

    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def _sign(self, name: str, key: ec.EllipticCurvePublicKey, *extensions: tuple[x509.ExtensionType, bool]) -> bytes:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name("tests"))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def write(self, path: Path) -> Path:
        """Write the authority's own certificate."""
        path.write_bytes(self._sign("tests", self.key.public_key(), (x509.BasicConstraints(True, None), True)))
        return path

    def issue(self, directory: Path, name: str = "node", *, host: str = "127.0.0.1") -> tuple[Path, Path]:
        """Write `NAME.crt` and `NAME.pem`, the certificate for the host and its key; return both."""
        key = ec.generate_private_key(ec.SECP256R1())
        is_address = host[0].isdigit()
        who = x509.IPAddress(ipaddress.ip_address(host)) if is_address else x509.DNSName(host)
        certificate, private = directory / f"{name}.crt", directory / f"{name}.pem"
        certificate.write_bytes(self._sign(name, key.public_key(), (x509.SubjectAlternativeName([who]), False)))
        private.touch(0o600)
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return certificate, private
