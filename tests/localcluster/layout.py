"""Where everything of the local cluster lives, and the names and addresses that its parts agree on."""

import os
import socket
from dataclasses import dataclass
from pathlib import Path

KUBERNETES_VERSION = "v1.37.2"
CONTEXT = "modelyard-local"
NODE_NAME = "modelyard-local"
STORAGE_CLASS = "standard"
POD_NETWORK = "10.244.0.0/24"
SERVICE_NETWORK = "10.96.0.0/16"
SERVICE_API_IP = "10.96.0.1"
SERVICE_DNS_IP = "10.96.0.10"
API_PORT = 6443
DNS_PORT = 10053
DNS_READY_PORT = 10054
CLUSTER_PORTS = (API_PORT, DNS_PORT, DNS_READY_PORT, 2379, 2380, 10248, 10249, 10250, 10256, 10257, 10259)
UNIX_SOCKET_LIMIT = 107  # sun_path of unix(7), less the closing zero

SOURCES = Path(__file__).resolve().parent
REPOSITORY = SOURCES.parent.parent


class LocalClusterError(Exception):
    """Something the reader can act upon: the message says what is wrong and what to do."""


@dataclass(frozen=True)
class Layout:
    """Paths below one cache directory; see `lasting` and `passing` for what outlives `down`."""

    root: Path

    @classmethod
    def from_environment(cls) -> "Layout":
        """MODELYARD_CACHE, or ~/.cache/modelyard/local."""
        configured = os.environ.get("MODELYARD_CACHE")
        root = Path(configured) if configured else Path.home() / ".cache" / "modelyard" / "local"
        return cls(root.expanduser().resolve())

    @property
    def bin(self) -> Path:
        return self.root / "bin"

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def log(self) -> Path:
        return self.root / "log"

    @property
    def pki(self) -> Path:
        return self.root / "pki"

    @property
    def config(self) -> Path:
        return self.root / "config"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def volumes(self) -> Path:
        return self.root / "volumes"

    @property
    def kubeconfig(self) -> Path:
        return self.root / "kubeconfig"

    @property
    def audit_log(self) -> Path:
        return self.log / "audit.log"

    @property
    def containerd_socket(self) -> Path:
        return self.run / "containerd.sock"

    @property
    def buildkit_socket(self) -> Path:
        return self.run / "buildkitd.sock"

    @property
    def lasting(self) -> tuple[Path, ...]:
        """What `purge` removes in addition: binaries, images and build caches."""
        return (self.bin, self.images, self.root / "containerd", self.root / "buildkit")

    @property
    def passing(self) -> tuple[Path, ...]:
        """The state of one cluster: gone after `down`."""
        return (
            *(self.pki, self.config, self.run, self.volumes, self.kubeconfig),
            *(self.root / name for name in ("etcd", "kubelet", "cni", "opt", "pods", "settings.json")),
        )

    def prepare(self) -> None:
        """Make the directories; refuse a cache path too long for the Unix sockets in it."""
        longest = f"{self.containerd_socket}.ttrpc"
        if len(longest) > UNIX_SOCKET_LIMIT:
            raise LocalClusterError(
                f"{self.root}: too long a path, {longest} has {len(longest)} of at most {UNIX_SOCKET_LIMIT} characters "
                "of a Unix socket; set MODELYARD_CACHE to a shorter directory"
            )
        for directory in (self.bin, self.images, self.log, self.pki, self.config, self.run, self.volumes):
            directory.mkdir(parents=True, exist_ok=True)


def machine_address() -> str:
    """The IPv4 address with the default route. Nothing is sent: connecting a UDP socket only picks an address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # TEST-NET-1 of RFC 5737
            return str(probe.getsockname()[0])
        except OSError as error:
            raise LocalClusterError(
                f"this machine has no default route ({error}): the API server must advertise an address that is not "
                "loopback; give one interface an address and a default route"
            ) from error
