"""What the tests of one run share: the cluster, namespaces, operators, proxies; and the end of them all."""

from __future__ import annotations

import itertools
import json
import os
import secrets
import subprocess
import sys
import threading
from pathlib import Path

from cluster.audit_log import AuditLog
from cluster.definitions import apply_definitions
from cluster.fault_proxy import FaultProxy, ProxyLoop
from cluster.kubernetes_api import KubernetesApi, Object, Refused, chosen_access, eventually
from cluster.operator_process import ROOT, OperatorProcess
from localcluster.layout import Layout

KWOK_NODES = 4
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


class Laboratory:
    """Made once a run. Everything that it hands out is gone after `close`."""

    def __init__(self, directory: Path) -> None:
        self.access = chosen_access()
        self.api = KubernetesApi(self.access)
        self.directory = directory
        self.audit_log = Path(os.environ.get("MODELYARD_AUDIT_LOG") or Layout.from_environment().audit_log)
        self._proxies = ProxyLoop()
        self._opened: list[FaultProxy] = []
        self._operators: list[OperatorProcess] = []
        self._namespaces: list[str] = []
        self._run = secrets.token_hex(2)
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._prepare_cluster()
        self.namespace = self.make_namespace("shared")
        self.quota_namespace = self.make_namespace("quota")
        self.start_operator([self.namespace, self.quota_namespace])

    def make_namespace(self, name: str) -> str:
        """A namespace in which every pod must pass the restricted profile, ready for pods."""
        full = f"modelyard-test-{name}-{self._run}"
        labels = {**RESTRICTED, "modelyard.dev/test": "true"}
        self.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": full, "labels": labels}})
        self._namespaces.append(full)
        eventually(f"service account in {full}", lambda: self.api.find("ServiceAccount", full, "default"))
        return full

    def open_proxy(self) -> FaultProxy:
        proxy = FaultProxy(self.access, self._proxies.loop)
        self._opened.append(proxy)
        return proxy

    def make_operator(
        self, namespaces: list[str], *options: str, proxy: FaultProxy | None = None
    ) -> tuple[OperatorProcess, FaultProxy]:
        """An operator that is not started yet, and the proxy through which it will speak."""
        proxy = proxy or self.open_proxy()
        with self._lock:
            number = next(self._numbers)
        kubeconfig = proxy.kubeconfig(self.directory / f"{number}.kubeconfig")
        operator = OperatorProcess(kubeconfig, namespaces, self.directory / f"operator-{number}.log", *options)
        self._operators.append(operator)
        return operator, proxy

    def start_operator(self, namespaces: list[str], *options: str) -> tuple[OperatorProcess, FaultProxy]:
        """An operator at work. Without options it leads alone: no lease has to run out after it is killed."""
        operator, proxy = self.make_operator(namespaces, *(options or ("--leader-election", "false")))
        operator.start()
        operator.wait_ready()
        return operator, proxy

    def audit_from_now(self) -> AuditLog:
        return AuditLog(self.audit_log)

    def close(self) -> None:
        for operator in self._operators:
            operator.kill() if operator.running else None
        for proxy in self._opened:
            proxy.close()
        self._proxies.close()
        for namespace in self._namespaces:
            self.api.delete("Namespace", None, namespace)

    def _prepare_cluster(self) -> None:
        """The definitions, by plain `kubectl apply`, and some fake nodes."""
        apply_definitions()
        if len(self.kwok_nodes()) < KWOK_NODES:
            command = [sys.executable, "-m", "localcluster", "kwok", str(KWOK_NODES)]
            environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
            subprocess.run(command, check=True, env=environment, timeout=300, cwd=ROOT)
        eventually("fake nodes are ready", lambda: len(self.kwok_nodes()) >= KWOK_NODES)

    def kwok_nodes(self) -> list[Object]:
        return [n for n in self.api.list("Node", None, "type=kwok") if condition(n, "Ready") == "True"]


def condition(obj: Object | None, type_: str) -> str:
    """The status of a condition: True, False, Unknown; empty where there is none."""
    return _field(obj, type_, "status")


def reason(obj: Object | None, type_: str) -> str:
    return _field(obj, type_, "reason")


def _field(obj: Object | None, type_: str, field: str) -> str:
    told = ((obj or {}).get("status") or {}).get("conditions") or ()
    return next((str(c.get(field, "")) for c in told if c["type"] == type_), "")


def show(obj: Object | None) -> str:
    """The status, for a failure's message."""
    return json.dumps((obj or {}).get("status"), indent=1)


__all__ = ["Laboratory", "Refused", "condition", "reason", "show"]
