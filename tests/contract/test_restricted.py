"""The evaluator of the restricted profile: a good pod passes, each single attack is named."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from contract.restricted import violations


def good_pod() -> dict[str, Any]:
    return {
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "main",
                "image": "a/b",
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                "livenessProbe": {"httpGet": {"path": "/", "port": 80}},
            }
        ],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }


def test_a_restricted_pod_passes() -> None:
    assert violations(good_pod()) == []


ATTACKS: dict[str, tuple[str, Any]] = {
    "hostNetwork is true": ("hostNetwork", True),
    "hostPID is true": ("hostPID", True),
    "hostIPC is true": ("hostIPC", True),
    "is of the type hostPath": ("volumes.0", {"name": "host", "hostPath": {"path": "/"}}),
    "is of the type nfs": ("volumes.0", {"name": "far", "nfs": {"server": "x", "path": "/"}}),
    "sysctls has kernel.msgmax": ("securityContext.sysctls", [{"name": "kernel.msgmax", "value": "1"}]),
    "runAsNonRoot is not true": ("securityContext.runAsNonRoot", False),
    "securityContext.runAsUser is 0": ("securityContext.runAsUser", 0),
    "neither RuntimeDefault nor Localhost": ("securityContext.seccompProfile", {"type": "Unconfined"}),
    "privileged is true": ("containers.0.securityContext.privileged", True),
    "allowPrivilegeEscalation is not false": ("containers.0.securityContext.allowPrivilegeEscalation", True),
    "drop has no ALL": ("containers.0.securityContext.capabilities", {"drop": ["NET_RAW"]}),
    "add has SYS_ADMIN": ("containers.0.securityContext.capabilities", {"drop": ["ALL"], "add": ["SYS_ADMIN"]}),
    "procMount is not Default": ("containers.0.securityContext.procMount", "Unmasked"),
    "hostProcess is true": ("containers.0.securityContext.windowsOptions", {"hostProcess": True}),
    "appArmorProfile is Unconfined": ("containers.0.securityContext.appArmorProfile", {"type": "Unconfined"}),
    "seLinuxOptions are not": ("containers.0.securityContext.seLinuxOptions", {"type": "spc_t"}),
    "ports has the hostPort 80": ("containers.0.ports", [{"containerPort": 80, "hostPort": 80}]),
    "livenessProbe.httpGet.host is set": ("containers.0.livenessProbe.httpGet.host", "169.254.169.254"),
    "lifecycle.preStop.tcpSocket.host is set": (
        "containers.0.lifecycle",
        {"preStop": {"tcpSocket": {"host": "x", "port": 1}}},
    ),
}


@pytest.mark.parametrize("says", ATTACKS)
def test_each_attack_is_named(says: str) -> None:
    pod: Any = copy.deepcopy(good_pod())
    path, value = ATTACKS[says]
    *steps, last = (int(step) if step.isdigit() else step for step in path.split("."))
    target = pod
    for step in steps:
        target = target[step]
    target[last] = value
    assert any(says in text for text in violations(pod))


def test_a_sidecar_is_looked_at_like_every_container() -> None:
    pod = good_pod()
    pod["initContainers"] = [{"name": "setup", "image": "a/b"}]
    assert "initContainers[setup].securityContext.capabilities.drop has no ALL" in violations(pod)
