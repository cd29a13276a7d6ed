"""Trainings to be broken: two ranks in two real pods that hold a connection, and break in the way they are told."""

from __future__ import annotations

from typing import Any

from cluster.kubernetes_api import Object

PYTHON = "docker.io/library/python:3.13-slim"
LIMITS = {"limits": {"cpu": "1", "memory": "64Mi"}, "requests": {"cpu": "50m"}}
# Rank 0 listens where the operator says that it does, rank 1 connects. The victim breaks; the other one notices by its
# connection, as a collective would, and fails too: the echo that must not be taken for the cause.
SCRIPT = """
import ctypes, os, socket, sys, time

rank, victim, fault = int(os.environ["RANK"]), int(os.environ["VICTIM"]), os.environ["FAULT"]
address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
if rank == 0:
    with socket.create_server(("", address[1])) as server:
        link, _ = server.accept()
else:
    due = time.monotonic() + 90
    while True:
        try:
            link = socket.create_connection(address, timeout=5)
            break
        except OSError:
            if time.monotonic() > due:
                raise
            time.sleep(0.1)
link.settimeout(120)
link.sendall(b"!")
link.recv(1)
print("connected", flush=True)
if rank == victim:
    if fault == "exit":
        raise ValueError("column price is not in the table")
    if fault == "segfault":
        ctypes.string_at(0)
    if fault == "memory":
        filled = bytearray(b"x") * (200 << 20)
    if fault == "peer":
        link.shutdown(socket.SHUT_RDWR)
        time.sleep(1)  # the other one is the first to fail
        raise RuntimeError("the device fell off the bus")
if not link.recv(1):
    raise ConnectionResetError("Connection closed by peer")
"""
KILLABLE: Object = {"architecture": "test_resnet.r160_in1k", "epochs": 200, "batchSize": 64, "logEverySteps": 1}
"""timm's 0.5 M parameters, and enough epochs to be killed in."""


def body(name: str, trainer: Object, **spec: Any) -> Object:
    """A training that fails for good at the first failure of its own, on two nodes."""
    base: Object = {
        "trainer": {"numNodes": 2, "resourcesPerNode": LIMITS, **trainer},
        "output": {"size": "64Mi", "retentionPolicy": "Delete"},
        "failurePolicy": {"maxRestarts": 0, "backoffSeconds": 0},
        "runPolicy": {"terminationGracePeriodSeconds": 1, "activeDeadlineSeconds": 300},
        **spec,
    }
    return {"apiVersion": "modelyard.dev/v1alpha1", "kind": "ModelTraining", "metadata": {"name": name}, "spec": base}


def scripted(name: str, fault: str, victim: int) -> Object:
    """The script above in plain Python: seconds, and no torch."""
    env = [{"name": "FAULT", "value": fault}, {"name": "VICTIM", "value": str(victim)}]
    return body(name, {"image": PYTHON, "command": ["python", "-u", "-c", SCRIPT], "env": env})


def bundled(name: str, builtin: str, dataset: str, parameters: Object, nodes: int = 2) -> Object:
    """A bundled trainer under our launcher."""
    limits = {"limits": {"cpu": "1", "memory": "2Gi"}, "requests": {"cpu": "150m"}}
    trainer = {"builtin": builtin, "parameters": parameters, "numNodes": nodes, "resourcesPerNode": limits}
    return body(name, trainer, dataset={"uri": dataset}, checkpoint={"everySteps": 5, "everySeconds": None})
