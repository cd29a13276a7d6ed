"""`oci://REGISTRY/NAME[:TAG|@DIGEST]`: what a container registry holds, as files.

Two forms of artifacts are read. Layers that are files (`oras push`, the model-spec of the CNCF) have their names in
annotations. Layers that are tar archives (container images, KServe's "modelcars") are unpacked; of an image only what
is below /models counts, where there is such a folder. Every blob is checked against its digest.

Sources: https://github.com/opencontainers/distribution-spec/blob/main/spec.md (pulling),
https://distribution.github.io/distribution/spec/auth/token/ (tokens),
https://github.com/modelpack/model-spec (annotations of files).

Credentials: OCI_USERNAME and OCI_PASSWORD, or the content of a Secret of type kubernetes.io/dockerconfigjson.
OCI_PLAIN_HTTP=true asks without TLS.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import logging
import platform
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import requests
from urllib3.exceptions import HTTPError

from modelyard_workloads.data import layers
from modelyard_workloads.data.cache import cache_directory, make_once

log = logging.getLogger(__name__)

DOCKER_CONFIG = ".dockerconfigjson"
_SECONDS = (10.0, 60.0)  # to connect, between two pieces
_TITLES = ("org.opencontainers.image.title", "org.cncf.model.filepath")
_IMAGE_CONFIGS = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")
_INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
_DOCKER_HUB, _DOCKER_HUB_ASKED = ("docker.io", "index.docker.io"), "registry-1.docker.io"
"""What people write, and what answers."""
_MODELS = "models/"
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
_LARGEST_MANIFEST = 4 << 20  # the specification's own limit
_PIECE = 1 << 20


class RegistryError(Exception):
    """What came was cut off, or is not what its digest says. No OSError: the disk is not to blame."""


class Registry:
    """The file system of `oci`: the three methods that are asked of it. `root` is an address without its scheme."""

    def __init__(self, keys: Mapping[str, str], unpacking: layers.Unpacking | None = None) -> None:
        self._keys = keys
        self._unpacking = unpacking or layers.Unpacking(cache_directory("layers"))
        self._session = requests.Session()
        self._bearers: dict[str, str] = {}
        self._entries: dict[str, dict[str, Any]] = {}

    def info(self, root: str) -> dict[str, Any]:
        """An artifact is a folder."""
        return {"name": root, "type": "directory"}

    def find(self, root: str, **_: Any) -> dict[str, dict[str, Any]]:
        """Every file of an artifact, by its path. Raises FileNotFoundError, PermissionError, ValueError and what
        requests raises.
        """
        place = Place(root, plain=self._keys.get("OCI_PLAIN_HTTP", "").lower() == "true")
        manifest = self._manifest(place, place.reference)
        found: dict[str, dict[str, Any]] = {}
        described = manifest.get("layers") or ()
        count = _Count(sum(int(layer["size"]) for layer in described if layers.is_archive(str(layer["mediaType"]))))
        for layer in described:
            title = next((t for name in _TITLES if (t := (layer.get("annotations") or {}).get(name))), "")
            if layers.is_archive(str(layer["mediaType"])):
                self._unpacked(place, layer, found, count)
            elif title:
                found[layers.inside(title)] = {
                    "size": int(layer["size"]),
                    "ETag": layer["digest"],
                    "blob": (place, layer),
                }
            else:
                log.warning("%s: a layer without a file's name is left out", root)
        if (manifest.get("config") or {}).get("mediaType") in _IMAGE_CONFIGS:
            models = {name.removeprefix(_MODELS): e for name, e in found.items() if name.startswith(_MODELS)}
            found = models or found
        self._entries = {f"{root}/{name}": {**entry, "name": f"{root}/{name}"} for name, entry in found.items()}
        return self._entries

    def open(self, path: str, _mode: str = "rb") -> BinaryIO:
        """The bytes of a file that `find` has found. RegistryError at a blob's end that is another one."""
        entry = self._entries[path]
        if "local" in entry:
            return Path(entry["local"]).open("rb")
        place, layer = entry["blob"]
        return io.BufferedReader(_Verified(self._get(place, f"blobs/{layer['digest']}"), layer["digest"]), _PIECE)

    def _manifest(self, place: Place, reference: str) -> dict[str, Any]:
        reply = self._get(place, f"manifests/{reference}", ", ".join((*_MANIFESTS, *_INDEXES)))
        content = reply.raw.read(_LARGEST_MANIFEST + 1, decode_content=True)
        if len(content) > _LARGEST_MANIFEST:
            raise ValueError("its manifest is larger than 4 MiB")
        if reference.startswith("sha256:") and reference != f"sha256:{hashlib.sha256(content).hexdigest()}":
            raise ValueError(f"the registry answered with another manifest than {reference}")
        document: dict[str, Any] = json.loads(content)
        if "manifests" not in document:
            return document
        machine = _MACHINES.get(platform.machine(), platform.machine())
        ours = [m for m in document["manifests"] if (m.get("platform") or {}).get("architecture") in (machine, None)]
        if not ours:
            raise ValueError(f"it has nothing for the architecture {machine}")
        return self._manifest(place, str(ours[0]["digest"]))

    def _unpacked(
        self, place: Place, layer: Mapping[str, Any], found: dict[str, dict[str, Any]], count: _Count
    ) -> None:
        """The files of an archive, over those of the layers below it."""
        digest = str(layer["digest"])

        def arrived(size: int) -> None:
            count.done += size
            self._unpacking.arrived(count.done, count.total)

        def unpack(folder: Path) -> None:
            with self._get(place, f"blobs/{digest}") as reply:
                stream = _Verified(reply, digest, arrived)
                layers.unpack(io.BufferedReader(stream, _PIECE), str(layer["mediaType"]), folder)
                while stream.read(_PIECE):
                    pass  # to the end, where the digest is checked

        target = self._unpacking.folder / digest.replace(":", "-")
        if target.exists():
            arrived(int(layer["size"]))
        folder = make_once(target, unpack, directory=True)
        layers.put_over(
            found,
            folder,
            lambda name, file: {"size": file.stat().st_size, "ETag": f"{digest} {name}", "local": file},
        )

    def _get(self, place: Place, path: str, accept: str = "*/*") -> requests.Response:
        url = f"{place.url}/v2/{place.name}/{path}"
        for authorised in (False, True):
            headers = {"Accept": accept, "Accept-Encoding": "identity"}
            if bearer := self._bearers.get(place.url + place.name):
                headers["Authorization"] = bearer
            reply = self._session.get(url, headers=headers, stream=True, timeout=_SECONDS)
            if reply.status_code != 401 or authorised:
                break
            self._bearers[place.url + place.name] = self._authorisation(
                place, reply.headers.get("WWW-Authenticate", "")
            )
        if reply.status_code == 404:
            raise FileNotFoundError(path)
        if reply.status_code in (401, 403):
            raise PermissionError(f"{reply.status_code} from {place.host}")
        reply.raise_for_status()
        return reply

    def _authorisation(self, place: Place, challenge: str) -> str:
        """The value of the header that the registry asks for."""
        scheme, _, rest = challenge.partition(" ")
        login = self._login(place)
        basic = f"Basic {base64.b64encode(login.encode()).decode()}" if login else ""
        if scheme.lower() != "bearer":
            return basic
        asked = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        realm = asked.pop("realm", "")
        if not realm.startswith("https://") and not place.plain:
            raise PermissionError(f"{place.host} sends its clients to {realm!r} for tokens, which is not https")
        headers = {"Authorization": basic} if basic else {}
        query = {name: value for name, value in asked.items() if name in ("service", "scope")}
        reply = self._session.get(realm, params=query, headers=headers, timeout=_SECONDS)
        if reply.status_code in (401, 403):
            raise PermissionError(f"{reply.status_code} from {place.host}'s tokens")
        reply.raise_for_status()
        token = reply.json()
        return f"Bearer {token.get('token') or token['access_token']}"

    def _login(self, place: Place) -> str:
        """`user:password`, empty where there is none."""
        if user := self._keys.get("OCI_USERNAME"):
            return f"{user}:{self._keys.get('OCI_PASSWORD', '')}"
        auths = json.loads(self._keys.get(DOCKER_CONFIG) or "{}").get("auths") or {}
        for name, entry in auths.items():
            if place.is_meant_by(name):
                if encoded := entry.get("auth"):
                    return base64.b64decode(encoded).decode()
                return f"{entry.get('username', '')}:{entry.get('password', '')}"
        return ""


@dataclass
class _Count:
    """Bytes of archives, compressed as they come."""

    total: int
    done: int = 0


class Place:
    """An address in its parts."""

    def __init__(self, root: str, *, plain: bool) -> None:
        found = re.fullmatch(r"([^/]+)/([a-z0-9._/-]+?)(?::([\w][\w.-]{0,127}))?(?:@(sha256:[0-9a-f]{64}))?", root)
        if not found:
            raise ValueError("write oci://REGISTRY/NAME, oci://REGISTRY/NAME:TAG or oci://REGISTRY/NAME@sha256:…")
        self.host, self.name, tag, digest = found.groups()
        self.reference = digest or tag or "latest"
        self.plain = plain
        if self.host in _DOCKER_HUB and "/" not in self.name:
            self.name = f"library/{self.name}"
        asked = _DOCKER_HUB_ASKED if self.host in _DOCKER_HUB else self.host
        self.url = f"{'http' if plain else 'https'}://{asked}"

    def is_meant_by(self, registry: str) -> bool:
        """Whether credentials that are kept under this name are for it."""
        host = registry.removeprefix("https://").split("/")[0]
        return host == self.host or {host, self.host} <= set(_DOCKER_HUB)


class _Verified(io.RawIOBase):
    """A reply's body, read once from the beginning; its end is only reached if its digest is right."""

    def __init__(self, reply: requests.Response, digest: str, arrived: Callable[[int], None] = layers.unheard) -> None:
        self._reply = reply
        self._digest = digest
        self._arrived = arrived
        self._hash = hashlib.sha256()

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; 0 at the end."""
        try:
            data = self._reply.raw.read(len(buffer))
        except (HTTPError, OSError) as error:
            raise RegistryError(f"the registry's answer was cut off: {error}") from None
        if not data and self._digest != f"sha256:{self._hash.hexdigest()}":
            raise RegistryError(f"the registry sent other bytes than those of {self._digest}")
        self._hash.update(data)
        self._arrived(len(data))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Let go of the connection."""
        self._reply.close()
        super().close()
