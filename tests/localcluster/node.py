"""`up`: one real Kubernetes node from our own binaries. Every step looks first, so it can be repeated and resumed."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from localcluster import certificates, components, debian, fakes, golang, network, rendering, settings
from localcluster.api import Api, ApiError
from localcluster.images import ensure_pause_image
from localcluster.layout import (
    CLUSTER_PORTS,
    DNS_READY_PORT,
    NODE_NAME,
    SERVICE_API_IP,
    Layout,
    LocalClusterError,
    machine_address,
)
from localcluster.processes import Part, log_tail, running, start
from localcluster.progress import say, step
from localcluster.teardown import down

KUBECONFIGS = ("controllers", "scheduler", "kubelet", "proxy", "dns", "kwok")
CONTAINERD_SECONDS = 60
API_SECONDS = 120
NODE_SECONDS = 120
AFRESH = "`make cluster-down cluster` starts afresh"


def up(layout: Layout) -> None:
    """Bring the node up, or make sure that it is; returns when it is Ready, DNS answers and pods can be made."""
    debian.install()
    golang.build(layout, golang.NODE_BINARIES)
    layout.prepare()
    address = _settle_address(layout)
    if not any(process.is_main for process in running(layout)):
        _refuse_taken_ports()
    write_configuration(layout, address)
    with step("starting the local cluster"):
        _start_all(layout, address)


def _settle_address(layout: Layout) -> str:
    """The machine's address; certificates and etcd of a cluster with another address are of no use any more."""
    address = machine_address()
    known = settings.load(layout)
    if known.address and known.address != address:
        say(f"the machine's address changed from {known.address} to {address}: starting a new cluster")
        down(layout)
        layout.prepare()
    if known.address != address:
        for old in layout.log.glob("audit*.log"):
            old.unlink()
        settings.save(layout, settings.Settings(address=address, kernel=settings.kernel_now()))
    return address


def _refuse_taken_ports() -> None:
    taken = []
    for port in CLUSTER_PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                taken.append(str(port))
    if taken:
        raise LocalClusterError(
            f"other programs listen on the ports {', '.join(taken)}, which the cluster needs (another Kubernetes?): "
            "look with `ss -ltnp`, stop them, and try again"
        )


def write_configuration(layout: Layout, address: str) -> None:
    """Certificates, kubeconfigs and configuration files; a file is only touched when its content changes."""
    certificates.issue(layout.pki, certificates.identities(address, SERVICE_API_IP, NODE_NAME))
    for name in KUBECONFIGS:
        _write(layout.config / f"{name}.kubeconfig", _kubeconfig(layout, name))
    _write(layout.kubeconfig, _kubeconfig(layout, "admin"))
    plugins = debian.cni_plugins()
    conflists = layout.root / "cni" / "conf"
    conflists.mkdir(parents=True, exist_ok=True)
    _write(conflists / "10-modelyard.conflist", rendering.cni_conflist(layout))
    _write(layout.config / "containerd.toml", rendering.containerd_toml(layout, str(plugins)))
    _write(layout.config / "kubelet.json", rendering.kubelet_config(layout))
    _write(layout.config / "audit-policy.json", rendering.audit_policy())
    _write(layout.config / "Corefile", rendering.corefile(layout, address, _has_upstream()))


def _kubeconfig(layout: Layout, name: str) -> str:
    pair = ((layout.pki / f"{name}.{kind}").read_bytes() for kind in ("crt", "key"))
    return certificates.kubeconfig(settings.load(layout).server, (layout.pki / "ca.crt").read_bytes(), *pair)


def _write(path: Path, text: str) -> None:
    if path.exists() and path.read_text() == text:
        return
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.touch(mode=0o600)
    unfinished.write_text(text)
    unfinished.rename(path)


def _has_upstream() -> bool:
    try:
        return any(line.startswith("nameserver") for line in Path("/etc/resolv.conf").read_text().splitlines())
    except OSError:
        return False


def _start_all(layout: Layout, address: str) -> None:
    started = [part.name for part in components.storage(layout) if start(layout, part)]
    api_server = components.api_server(layout, address)
    fresh_api_server = start(layout, api_server)
    network.prepare()
    problems: list[LocalClusterError] = []
    images = threading.Thread(target=_import_images, args=(layout, problems))
    images.start()
    api = Api(layout)
    _wait(layout, "the API server to be ready", api.is_ready, ("etcd", api_server.name), API_SECONDS)
    parts = components.clients(layout, address)
    started += [part.name for part in parts if start(layout, part)]
    if started or fresh_api_server:
        for manifest in rendering.cluster_objects(address):
            api.apply(manifest)
    images.join()
    if problems:
        raise problems[0]
    _wait_until_usable(layout, api, parts)
    if "kubelet" in started:
        fakes.restore_gpus(layout)  # a kubelet that starts sets devices that it does not know to zero


def _import_images(layout: Layout, problems: list[LocalClusterError]) -> None:
    try:
        _wait(layout, "containerd", layout.containerd_socket.exists, ("containerd",), CONTAINERD_SECONDS)
        _retry(lambda: ensure_pause_image(layout))
    except LocalClusterError as error:
        problems.append(error)


def _retry(action: Callable[[], None], attempts: int = 10) -> None:
    """containerd's socket is there a moment before its services are."""
    for attempt in range(attempts):
        try:
            return action()
        except LocalClusterError:
            if attempt == attempts - 1:
                raise
            time.sleep(0.3)
    return None


def _wait_until_usable(layout: Layout, api: Api, parts: tuple[Part, ...]) -> None:
    names = tuple(part.name for part in parts)

    def usable() -> bool:
        return _node_ready(api) and _has_service_account(api) and _dns_ready(layout)

    _wait(layout, f"node {NODE_NAME} to be Ready", usable, names, NODE_SECONDS)


def _node_ready(api: Api) -> bool:
    with contextlib.suppress(ApiError):
        conditions = api.get(f"/api/v1/nodes/{NODE_NAME}")["status"].get("conditions", [])
        return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
    return False


def _has_service_account(api: Api) -> bool:
    with contextlib.suppress(ApiError):
        return bool(api.get("/api/v1/namespaces/default/serviceaccounts/default"))
    return False


def _dns_ready(layout: Layout) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((settings.load(layout).address, DNS_READY_PORT)) == 0


def _wait(layout: Layout, what: str, condition: Callable[[], bool], parts: tuple[str, ...], seconds: float) -> None:
    """Until the condition holds; a part that ended meanwhile, or the time passing, is an error that shows its log."""
    deadline = time.monotonic() + seconds
    while not condition():
        alive = {process.part for process in running(layout) if process.is_main}
        dead = [name for name in parts if name not in alive]
        if dead:
            raise LocalClusterError(
                f"{dead[0]} ended while waiting for {what}; its log:\n{log_tail(layout, dead[0])}\n{AFRESH}"
            )
        if time.monotonic() > deadline:
            logs = "\n".join(f"--- {name}\n{log_tail(layout, name, 6)}" for name in parts)
            raise LocalClusterError(
                f"waited {seconds:.0f} s for {what}; the ends of the logs in {layout.log}:\n{logs}\n{AFRESH}"
            )
        time.sleep(0.1)
