"""The command line of every process of the node."""

import os
import shutil
import sys
from pathlib import Path

from localcluster.layout import API_PORT, NODE_NAME, POD_NETWORK, SERVICE_NETWORK, SOURCES, Layout
from localcluster.processes import Part

ETCD_URL = "http://127.0.0.1:2379"
# MODELYARD_<PART>_QPS and _BURST raise the client rate limits of these two for benchmarks; unset means as shipped
RATE_LIMITED = {"kube-controller-manager": "MODELYARD_KCM", "kube-scheduler": "MODELYARD_SCHEDULER"}


def storage(layout: Layout) -> tuple[Part, ...]:
    """What needs nothing else: container runtime and etcd."""
    containerd = Part(
        "containerd",
        (shutil.which("containerd") or "/usr/bin/containerd", "--config", f"{layout.config}/containerd.toml"),
        (layout.config / "containerd.toml",),
    )
    etcd = (
        *(str(layout.bin / "etcd"), "--data-dir", f"{layout.root}/etcd", "--unsafe-no-fsync"),
        *("--listen-client-urls", ETCD_URL, "--advertise-client-urls", ETCD_URL),
        *("--listen-peer-urls", "http://127.0.0.1:2380", "--log-level", "warn"),
    )
    return (containerd, Part("etcd", etcd))


def api_server(layout: Layout, address: str) -> Part:
    """kube-apiserver, with the audit log on."""
    pki = layout.pki
    command = (
        str(layout.bin / "kube-apiserver"),
        f"--etcd-servers={ETCD_URL}",
        f"--secure-port={API_PORT}",
        f"--advertise-address={address}",
        f"--service-cluster-ip-range={SERVICE_NETWORK}",
        f"--tls-cert-file={pki}/apiserver.crt",
        f"--tls-private-key-file={pki}/apiserver.key",
        f"--client-ca-file={pki}/ca.crt",
        f"--kubelet-client-certificate={pki}/admin.crt",
        f"--kubelet-client-key={pki}/admin.key",
        "--kubelet-preferred-address-types=InternalIP",  # by address: no line in /etc/hosts is needed
        f"--service-account-key-file={pki}/sa.pub",
        f"--service-account-signing-key-file={pki}/sa.key",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged",
        f"--audit-policy-file={layout.config}/audit-policy.json",
        f"--audit-log-path={layout.audit_log}",
        "--audit-log-maxsize=200",
        "--audit-log-maxbackup=1",
    )
    return Part("kube-apiserver", command, (pki / "apiserver.crt", layout.config / "audit-policy.json"))


def clients(layout: Layout, address: str) -> tuple[Part, ...]:
    """What needs the API server."""
    controllers = (
        *_with_kubeconfig(layout, "kube-controller-manager", "controllers"),
        f"--service-account-private-key-file={layout.pki}/sa.key",
        f"--root-ca-file={layout.pki}/ca.crt",
        "--use-service-account-credentials",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        *_rates("kube-controller-manager"),
    )
    scheduler = (
        *_with_kubeconfig(layout, "kube-scheduler", "scheduler"),
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        *_rates("kube-scheduler"),
    )
    kubelet = (
        *_with_kubeconfig(layout, "kubelet", "kubelet"),
        f"--config={layout.config}/kubelet.json",
        f"--hostname-override={NODE_NAME}",
        f"--node-ip={address}",
        f"--root-dir={layout.root}/kubelet",
    )
    proxy = (
        *_with_kubeconfig(layout, "kube-proxy", "proxy"),
        f"--hostname-override={NODE_NAME}",
        f"--cluster-cidr={POD_NETWORK}",
        "--proxy-mode=iptables",
        # zero: leave the machine's connection tracking limits alone
        "--conntrack-max-per-core=0",
        "--conntrack-tcp-timeout-established=0s",
        "--conntrack-tcp-timeout-close-wait=0s",
    )
    dns = (str(layout.bin / "coredns"), "-conf", f"{layout.config}/Corefile")
    volumes = (sys.executable, "-m", "localcluster", "serve-volumes")
    environment = {"PYTHONPATH": str(SOURCES.parent), "MODELYARD_CACHE": str(layout.root)}
    return (
        Part("kubelet", kubelet, (layout.config / "kubelet.json", _kubeconfig(layout, "kubelet"))),
        Part("kube-controller-manager", controllers, (_kubeconfig(layout, "controllers"),)),
        Part("kube-scheduler", scheduler, (_kubeconfig(layout, "scheduler"),)),
        Part("kube-proxy", proxy, (_kubeconfig(layout, "proxy"),)),
        Part("dns", dns, (layout.config / "Corefile", _kubeconfig(layout, "dns"))),
        Part("volumes", volumes, (SOURCES / "provisioner.py", SOURCES / "api.py"), environment),
    )


def buildkit(layout: Layout) -> Part:
    """buildkitd on the node's own containerd. The cache limit (MB) must hold an image with torch twice."""
    command = (
        str(layout.bin / "buildkitd"),
        "--oci-worker=false",
        "--containerd-worker=true",
        f"--containerd-worker-addr={layout.containerd_socket}",
        "--containerd-worker-namespace=k8s.io",
        "--containerd-worker-net=host",
        "--containerd-worker-gc-keepstorage=40000,2000,40000",
        f"--addr=unix://{layout.buildkit_socket}",
        f"--root={layout.root}/buildkit",
    )
    return Part("buildkitd", command)


def kwok(layout: Layout) -> Part:
    """The controller that plays the kubelet of nodes labelled type=kwok."""
    command = (
        *_with_kubeconfig(layout, "kwok", "kwok"),
        f"--config={layout.config}/kwok.yaml",
        "--manage-all-nodes=false",
        "--v=WARN",  # else two lines a pod
        "--manage-nodes-with-label-selector=type=kwok",
    )
    return Part("kwok", command, (layout.config / "kwok.yaml", _kubeconfig(layout, "kwok")))


def _with_kubeconfig(layout: Layout, binary: str, identity: str) -> tuple[str, str]:
    return (str(layout.bin / binary), f"--kubeconfig={_kubeconfig(layout, identity)}")


def _kubeconfig(layout: Layout, identity: str) -> Path:
    return layout.config / f"{identity}.kubeconfig"


def _rates(binary: str) -> tuple[str, ...]:
    prefix = RATE_LIMITED[binary]
    wanted = {"--kube-api-qps": f"{prefix}_QPS", "--kube-api-burst": f"{prefix}_BURST"}
    return tuple(f"{flag}={os.environ[name]}" for flag, name in wanted.items() if os.environ.get(name))
