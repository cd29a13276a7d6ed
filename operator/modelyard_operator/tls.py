"""The status server's certificate: from a directory that the installation mounts, else made for this process."""

from __future__ import annotations

import ipaddress
import ssl
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit


@dataclass(frozen=True)
class ServerCertificate:
    context: ssl.SSLContext
    authority: str
    """PEM of the certificate that clients have to trust."""


def load(directory: Path | None, url: str) -> ServerCertificate:
    """tls.crt, tls.key and ca.crt of the directory if they are there, else an ephemeral self-signed certificate.

    An ephemeral one changes with each start: pods that run get the new authority by their annotation, but a client
    that read the old one at its start (Hugging Face's callback does) reports nothing more. Installations therefore
    mount one that stays.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if directory is not None and (directory / "tls.crt").exists():
        context.load_cert_chain(directory / "tls.crt", directory / "tls.key")
        authority = directory / "ca.crt"
        pem = (authority if authority.exists() else directory / "tls.crt").read_text()
        return ServerCertificate(context, pem)
    certificate, key = _self_signed(urlsplit(url).hostname or "localhost")
    with tempfile.TemporaryDirectory() as folder:  # OpenSSL reads files only; mode 0700, gone at once
        path = Path(folder) / "pair.pem"
        path.write_bytes(certificate + key)
        context.load_cert_chain(path)
    return ServerCertificate(context, certificate.decode())


def _self_signed(host: str) -> tuple[bytes, bytes]:
    """(certificate, key) in PEM for one host, valid for a year."""
    # Imported here: an installation that mounts its certificate saves the memory.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "modelyard-status")])
    alternative: x509.GeneralName
    try:
        alternative = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        alternative = x509.DNSName(host)
    now = datetime.now(UTC)
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=365))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private
