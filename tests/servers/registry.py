"""A container registry in this process: manifests and blobs for whoever has a token, tokens for whoever has the key."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler

import pyarrow

from servers.listening import listening

USER, PASSWORD = "robot", "of-the-team"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
IMAGE = "application/vnd.oci.image.config.v1+json"
TAR = "application/vnd.oci.image.layer.v1.tar"


class Registry:
    """`push_…` put artifacts there; `blobs` may be damaged afterwards."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}  # name:reference -> content
        self.refused = 0

    def push_files(self, name: str, files: Mapping[str, bytes]) -> str:
        """Each file a layer, as `oras push` does; the digest of the manifest."""
        layers = []
        for title, content in files.items():
            layer = {"mediaType": "application/octet-stream", "digest": self._blob(content), "size": len(content)}
            layers.append({**layer, "annotations": {"org.opencontainers.image.title": title}})
        return self._manifest(name, "application/vnd.oci.empty.v1+json", layers)

    def push_image(self, name: str, *layers: bytes, compression: str = "gzip") -> str:
        """Layers of tar, the lowest first, compressed by gzip or zstd, behind an index as for several platforms."""
        described = [
            {"mediaType": f"{TAR}+{compression}", "digest": self._blob(packed), "size": len(packed)}
            for packed in (pyarrow.compress(layer, compression, asbytes=True) for layer in layers)
        ]
        digest = self._manifest(f"{name}-of-one-platform", IMAGE, described)
        name_only, _, tag = name.partition(":")
        self.manifests[f"{name_only}:{digest}"] = self.manifests[f"{name}-of-one-platform"]
        index = {"manifests": [{"digest": digest, "mediaType": MANIFEST, "size": 1}]}
        self.manifests[f"{name_only}:{tag}"] = json.dumps(index).encode()
        return digest

    def _blob(self, content: bytes) -> str:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.blobs[digest] = content
        return digest

    def _manifest(self, name: str, config: str, layers: list[dict[str, object]]) -> str:
        body = {"schemaVersion": 2, "mediaType": MANIFEST, "layers": layers}
        body["config"] = {"mediaType": config, "digest": self._blob(b"{}"), "size": 2}
        content = json.dumps(body).encode()
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.manifests[name] = self.manifests[f"{name.partition(':')[0]}:{digest}"] = content
        return digest


def tar(files: Mapping[str, bytes], links: Sequence[tuple[str, str, bytes]] = ()) -> bytes:
    """An archive with these files, and links: name, aim, and tarfile's SYMTYPE or LNKTYPE."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, aim, kind in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, aim
            archive.addfile(member)
    return packed.getvalue()


def registry() -> AbstractContextManager[Registry]:
    """Serve on this machine, without TLS."""
    return listening(Registry, _handler)


def _handler(made: Registry) -> type[BaseHTTPRequestHandler]:
    login = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            given = self.headers.get("Authorization", "")
            if self.path.startswith("/token"):
                right = given == login and "scope=repository" in self.path
                self._send(200 if right else 401, json.dumps({"token": "a-token"}).encode())
            elif given != "Bearer a-token":
                made.refused += 1
                self._send(401, b"{}")
            else:
                self._send(*self._found())

        def _found(self) -> tuple[int, bytes]:
            name, kind, reference = self.path.removeprefix("/v2/").rsplit("/", 2)
            content = made.blobs.get(reference) if kind == "blobs" else made.manifests.get(f"{name}:{reference}")
            return (404, b"{}") if content is None else (200, content)

        def _send(self, status: int, content: bytes) -> None:
            self.send_response(status)
            if status == 401:
                ask = f'Bearer realm="http://{made.host}/token",service="here",scope="repository:models:pull"'
                self.send_header("WWW-Authenticate", ask)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
