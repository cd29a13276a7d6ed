"""What a running cluster must remember between commands: its address, its fake GPUs, the machine's kernel settings."""

import contextlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from localcluster.layout import API_PORT, NODE_NAME, Layout

# kubelet, kube-proxy and the bridge plugin change these
KERNEL = (
    *("net/ipv4/ip_forward", "net/ipv4/conf/all/route_localnet", "net/bridge/bridge-nf-call-iptables"),
    *("vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops"),
)
ROOT = Path("/proc/sys")


@dataclass
class Settings:
    backend: Literal["node", "kind"] = "node"
    address: str = ""  # of the machine; what a node of our own was started with
    server: str = f"https://127.0.0.1:{API_PORT}"
    node: str = NODE_NAME
    gpus: int = 0
    kernel: dict[str, str] = field(default_factory=dict)


def load(layout: Layout) -> Settings:
    """The settings of the cluster in this cache; empty ones when there is none."""
    try:
        return Settings(**json.loads(_path(layout).read_text()))
    except (OSError, ValueError, TypeError):
        return Settings()


def exist(layout: Layout) -> bool:
    """Whether a cluster was started from this cache, and not taken down."""
    return _path(layout).exists()


def save(layout: Layout, settings: Settings) -> None:
    unfinished = layout.root / ".settings.unfinished"
    unfinished.write_text(json.dumps(asdict(settings), indent=1))
    unfinished.rename(_path(layout))


def kernel_now() -> dict[str, str]:
    """The machine's values, before the cluster touches them."""
    found = {}
    for name in KERNEL:
        with contextlib.suppress(OSError):
            found[name] = (ROOT / name).read_text().strip()
    return found


def set_kernel(values: dict[str, str]) -> None:
    """Write values that differ; one that this machine does not let us write stays as it is."""
    for name, value in values.items():
        with contextlib.suppress(OSError):
            if (ROOT / name).read_text().strip() != value:
                (ROOT / name).write_text(value)


def _path(layout: Layout) -> Path:
    return layout.root / "settings.json"
