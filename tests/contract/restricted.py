"""The `restricted` Pod Security Standard (with `baseline`, which it includes) as a function on pod specs.

https://kubernetes.io/docs/concepts/security/pod-security-standards/, for Linux pods. The cluster tests have the real
admission enforce it; this one is for pods that are only rendered.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Object = dict[str, Any]

_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
_SECCOMP = ("RuntimeDefault", "Localhost")
_SYSCTLS = (
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
)
_SELINUX_TYPES = (None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t")


def violations(pod_spec: Object) -> list[str]:
    """What keeps a pod spec from `restricted`, as sentences that name the field; empty if nothing does."""
    found = [*_pod_violations(pod_spec)]
    for kind in ("initContainers", "containers", "ephemeralContainers"):
        for container in pod_spec.get(kind) or []:
            found += [f"{kind}[{container.get('name')}].{text}" for text in _container_violations(container, pod_spec)]
    return found


def _pod_violations(pod: Object) -> Iterator[str]:
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(name):
            yield f"{name} is true"
    for volume in pod.get("volumes") or []:
        if extra := sorted(set(volume) - {"name"} - _VOLUMES):
            yield f"volumes[{volume.get('name')}] is of the type {extra[0]}"
    context = pod.get("securityContext") or {}
    for sysctl in context.get("sysctls") or []:
        if sysctl["name"] not in _SYSCTLS:
            yield f"securityContext.sysctls has {sysctl['name']}"
    if context.get("runAsUser") == 0:
        yield "securityContext.runAsUser is 0"
    yield from _shared_violations(context)


def _container_violations(container: Object, pod: Object) -> Iterator[str]:
    own = container.get("securityContext") or {}
    context = {**(pod.get("securityContext") or {}), **own}
    if own.get("privileged"):
        yield "securityContext.privileged is true"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "securityContext.allowPrivilegeEscalation is not false"
    if context.get("runAsNonRoot") is not True:
        yield "securityContext.runAsNonRoot is not true"
    if own.get("runAsUser") == 0:
        yield "securityContext.runAsUser is 0"
    if (context.get("seccompProfile") or {}).get("type") not in _SECCOMP:
        yield "securityContext.seccompProfile is neither RuntimeDefault nor Localhost"
    if own.get("procMount") not in (None, "", "Default"):
        yield "securityContext.procMount is not Default"
    yield from _capability_violations(own.get("capabilities") or {})
    yield from _shared_violations(own)
    yield from _host_violations(container)


def _capability_violations(capabilities: Object) -> Iterator[str]:
    if "ALL" not in (capabilities.get("drop") or []):
        yield "securityContext.capabilities.drop has no ALL"
    if extra := sorted(set(capabilities.get("add") or []) - {"NET_BIND_SERVICE"}):
        yield f"securityContext.capabilities.add has {', '.join(extra)}"


def _shared_violations(context: Object) -> Iterator[str]:
    """What is forbidden in a pod's and in a container's security context alike."""
    if (context.get("windowsOptions") or {}).get("hostProcess"):
        yield "securityContext.windowsOptions.hostProcess is true"
    if (context.get("appArmorProfile") or {}).get("type") == "Unconfined":
        yield "securityContext.appArmorProfile is Unconfined"
    selinux = context.get("seLinuxOptions") or {}
    if selinux.get("type") not in _SELINUX_TYPES or selinux.get("user") or selinux.get("role"):
        yield "securityContext.seLinuxOptions are not the default ones"


def _host_violations(container: Object) -> Iterator[str]:
    for port in container.get("ports") or []:
        if port.get("hostPort"):
            yield f"ports has the hostPort {port['hostPort']}"
    lifecycle = container.get("lifecycle") or {}
    handlers = {
        **{name: container.get(name) for name in ("livenessProbe", "readinessProbe", "startupProbe")},
        **{f"lifecycle.{name}": lifecycle.get(name) for name in ("postStart", "preStop")},
    }
    for name, handler in handlers.items():
        for action in ("httpGet", "tcpSocket"):
            if ((handler or {}).get(action) or {}).get("host"):
                yield f"{name}.{action}.host is set"
