"""Configuration files of the node's parts and the objects that every cluster starts with; all pure.

JSON is YAML, so everything but containerd's TOML and CoreDNS's Corefile is rendered by the json module.
"""

import json
from typing import Any

from localcluster.layout import DNS_PORT, DNS_READY_PORT, POD_NETWORK, SERVICE_DNS_IP, STORAGE_CLASS, Layout

PAUSE_IMAGE = "localhost/modelyard/pause:local"
PROVISIONER = "modelyard.dev/local-volumes"
Manifest = dict[str, Any]


def containerd_toml(layout: Layout, cni_plugins: str) -> str:
    """containerd's configuration.

    restrict_oom_score_adj: a machine without CAP_SYS_RESOURCE cannot give the sandbox its negative score, and runc then
    dies with "can't get final child's PID from pipe: EOF".
    """
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    return f"""version = 2
root = "{layout.root}/containerd"
state = "{layout.run}/containerd"
[grpc]
  address = "{layout.containerd_socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{layout.root}/opt"
[{cri}]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  [{cri}.cni]
    bin_dir = "{cni_plugins}"
    conf_dir = "{layout.root}/cni/conf"
  [{cri}.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [{cri}.containerd.runtimes.runc.options]
      Root = "{layout.run}/runc"
"""


def cni_conflist(layout: Layout) -> str:
    """One bridge, addresses from a local file; masquerading is a rule of ours (see network.py)."""
    addresses = {
        "type": "host-local",
        "ranges": [[{"subnet": POD_NETWORK}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": f"{layout.root}/cni/addresses",
    }
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": False, "hairpinMode": True}
    return json.dumps({"cniVersion": "1.0.0", "name": "modelyard", "plugins": [{**bridge, "ipam": addresses}]})


def kubelet_config(layout: Layout) -> str:
    """KubeletConfiguration.

    failCgroupV1: kubelet >= 1.35 refuses a cgroup v1 machine otherwise. Image garbage collection is off: it measures
    the whole disk, and would throw away images that no registry can give back.
    """
    return json.dumps(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": f"{layout.pki}/ca.crt"},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": f"{layout.pki}/kubelet.crt",
            "tlsPrivateKeyFile": f"{layout.pki}/kubelet.key",
            "cgroupDriver": "cgroupfs",
            "failCgroupV1": False,
            "failSwapOn": False,
            "containerRuntimeEndpoint": f"unix://{layout.containerd_socket}",
            "clusterDNS": [SERVICE_DNS_IP],
            "clusterDomain": "cluster.local",
            "podLogsDir": f"{layout.root}/pods",
            "volumePluginDir": f"{layout.root}/opt/volume-plugins",
            "imageGCHighThresholdPercent": 100,
            "imageMinimumGCAge": "24h",
            "imageMaximumGCAge": "0s",
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "serializeImagePulls": False,
            "syncFrequency": "1s",
            "maxPods": 200,
        },
        indent=1,
    )


def audit_policy() -> str:
    """Who did what to which object, one line per answered request, no bodies (and so no secrets)."""
    rule = {"level": "Metadata"}
    policy = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": [rule]}
    return json.dumps(policy, indent=1)


def corefile(layout: Layout, address: str, has_upstream: bool) -> str:
    """CoreDNS on the node's own address; names outside the cluster go to the machine's resolvers, where it has any."""
    forward = "    forward . /etc/resolv.conf\n" if has_upstream else ""
    return f""".:{DNS_PORT} {{
    bind {address}
    errors
    ready {address}:{DNS_READY_PORT}
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        kubeconfig {layout.config}/dns.kubeconfig
        pods insecure
        ttl 5
    }}
{forward}}}
"""


def cluster_objects(address: str) -> list[Manifest]:
    """The cluster's DNS service (CoreDNS runs on the node, outside a pod) and its StorageClass."""
    return [*_dns_rights(), *_dns_service(address), storage_class(PROVISIONER)]


def _dns_rights() -> list[Manifest]:
    role: Manifest = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "modelyard-local-dns"},
        "rules": [
            {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
        ],
    }
    api_group = "rbac.authorization.k8s.io"
    binding: Manifest = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "modelyard-local-dns"},
        "roleRef": {"apiGroup": api_group, "kind": "ClusterRole", "name": "modelyard-local-dns"},
        "subjects": [{"apiGroup": api_group, "kind": "User", "name": "modelyard-local:dns"}],
    }
    return [role, binding]


def _dns_service(address: str) -> list[Manifest]:
    protocols = {"dns": "UDP", "dns-tcp": "TCP"}
    service: Manifest = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system"},
        "spec": {
            "clusterIP": SERVICE_DNS_IP,
            "ports": [{"name": name, "port": 53, "protocol": protocol} for name, protocol in protocols.items()],
        },
    }
    endpoints: Manifest = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kube-dns-node",
            "namespace": "kube-system",
            "labels": {"kubernetes.io/service-name": "kube-dns"},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
        "ports": [{"name": name, "port": DNS_PORT, "protocol": protocol} for name, protocol in protocols.items()],
    }
    return [service, endpoints]


def storage_class(provisioner: str) -> Manifest:
    """The default class. It binds at once: a pod on a fake node waits for no volume made there."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": STORAGE_CLASS,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": provisioner,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "Immediate",
    }
