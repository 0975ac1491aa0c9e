"""A celery application whose messages are signed by its `auth` serializer, on a Valkey in a directory.

As a module for `celery -A tests.bench.celery_app worker` it takes that directory from the environment.
"""

from __future__ import annotations

import datetime
import os
import subprocess
from pathlib import Path
from typing import Any, Final

from celery import Celery
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

DIRECTORY: Final = "BENCH_CELERY_DIRECTORY"
_CONNECTIONS: Final = 64
_RSA_BITS: Final = 2048
"""The serializer knows RSA only."""


def make_key(directory: Path) -> None:
    """Write a key and its certificate, as the serializer wants them."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    built = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    certificate = built.sign(key, hashes.SHA256())
    encoding, none = serialization.Encoding.PEM, serialization.NoEncryption()
    pem = key.private_bytes(encoding, serialization.PrivateFormat.TraditionalOpenSSL, none)
    (directory / "celery.key").write_bytes(pem)
    (directory / "celery.crt").write_bytes(certificate.public_bytes(encoding))


def application(directory: Path) -> Any:
    """Return the application of the key and the Valkey in that directory, with its one task."""
    app = Celery("bench", broker=f"redis+socket://{directory}/valkey.sock")
    app.conf.update(
        task_serializer="auth",
        accept_content=["auth"],
        security_key=str(directory / "celery.key"),
        security_certificate=str(directory / "celery.crt"),
        security_cert_store=str(directory / "*.crt"),
        task_ignore_result=True,
        broker_pool_limit=_CONNECTIONS,
        worker_prefetch_multiplier=1,
    )
    app.setup_security()

    def start(argv: list[str], cwd: str) -> None:
        subprocess.run(argv, cwd=cwd, check=True)

    app.task(name="start")(start)
    return app


if DIRECTORY in os.environ:
    app = application(Path(os.environ[DIRECTORY]))
