"""The operator's status server as a trainer sees it: HTTPS with a certificate of its own, a token, JSON."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class StatusServer:
    """Collects reports; answers with `code` (200 with a directive, or an error)."""

    def __init__(self, directory: Path, code: int = 200) -> None:
        self.reports: list[dict[str, Any]] = []
        self.authorizations: list[str] = []
        self.times: list[float] = []
        self.code = code
        self.answer: dict[str, str] = {"directive": "continue"}
        self._reported = threading.Condition()
        certificate, key = directory / "tls.crt", directory / "tls.key"
        _self_signed(certificate, key)
        token = directory / "token"
        token.write_text("secret-token\n")
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        path = "/apis/modelyard.dev/v1alpha1/namespaces/tests/modeltrainings/digits/status"
        self.environment = {
            "KUBEFLOW_TRAINER_SERVER_URL": f"https://localhost:{self._server.server_port}{path}",
            "KUBEFLOW_TRAINER_SERVER_CA_CERT": str(certificate),
            "KUBEFLOW_TRAINER_SERVER_TOKEN": str(token),
        }

    def wait_for(self, condition: Callable[[], bool], seconds: float = 180) -> None:
        """Wait until something is true of the reports."""
        with self._reported:
            assert self._reported.wait_for(lambda: bool(self.reports) and condition(), seconds), self.reports[-1:]

    def __enter__(self) -> StatusServer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                server.times.append(time.monotonic())
                server.reports.append(json.loads(body))
                server.authorizations.append(self.headers["Authorization"])
                answer = json.dumps(server.answer).encode()
                self.send_response(server.code)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)
                with server._reported:
                    server._reported.notify_all()

            def log_message(self, format: str, *args: Any) -> None:
                """Silent."""

        return Handler


def _self_signed(certificate: Path, key: Path) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    key.write_bytes(private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
