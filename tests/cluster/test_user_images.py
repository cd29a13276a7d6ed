"""Images of one's own, on two real pods: they meet as torch, TensorFlow and Paddle document it."""

from __future__ import annotations

from typing import Any

import pytest
from cluster.kubernetes_api import Object
from cluster.laboratory import Laboratory
from cluster.objects import Played

PYTHON = "docker.io/library/python:3.13-slim"
WORKLOADS = "localhost/modelyard/workloads:dev"
# torchrun starts it from PET_*: the sum over the ranks is right only if they met.
TORCH = """
import torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.tensor([float(dist.get_rank() + 1)])
dist.all_reduce(total)
assert dist.get_world_size() == 2 and total.item() == 3.0, (dist.get_world_size(), total)
dist.destroy_process_group()
"""
# What the frameworks do with what they are told: each node listens at its own entry and reaches that of every other.
MEET = """
import json, os, socket, threading, time

def split(address):
    host, _, port = address.rpartition(":")
    return host, int(port)

def reach(address):
    due = time.monotonic() + 90
    while True:
        try:
            with socket.create_connection(split(address), timeout=5) as link:
                return link.recv(16).decode()
        except OSError:
            if time.monotonic() > due:
                raise
            time.sleep(0.1)

def serve(port, told, answers):
    server = socket.create_server(("", port))
    def answer():
        for _ in range(answers):
            link, _address = server.accept()
            with link:
                link.sendall(str(told).encode())
    thread = threading.Thread(target=answer)
    thread.start()
    return thread
"""
# https://www.tensorflow.org/guide/distributed_training#TF_CONFIG
TENSORFLOW = (
    MEET
    + """
config = json.loads(os.environ["TF_CONFIG"])
workers, task = config["cluster"]["worker"], config["task"]
assert set(config["cluster"]) == {"worker"} and task["type"] == "worker" and len(workers) == 2, config
own = split(workers[task["index"]])
assert own[0].split(".")[0] == socket.gethostname(), (own, socket.gethostname())
serving = serve(own[1], task["index"], len(workers))
assert [reach(worker) for worker in workers] == ["0", "1"]
serving.join()
"""
)
# Trainers by PADDLE_TRAINER_ENDPOINTS (ParallelEnv). The launcher serves at PADDLE_MASTER where that has the node's own
# address, and asks there elsewhere (python/paddle/distributed/launch/controllers/master.py).
PADDLE = (
    MEET
    + """
rank, endpoints = int(os.environ["PADDLE_TRAINER_ID"]), os.environ["PADDLE_TRAINER_ENDPOINTS"].split(",")
assert len(endpoints) == int(os.environ["PADDLE_TRAINERS_NUM"]) == int(os.environ["PADDLE_NNODES"]) == 2, endpoints
assert endpoints[rank] == os.environ["PADDLE_CURRENT_ENDPOINT"]
serving = [serve(split(endpoints[rank])[1], rank, len(endpoints))]
host, port = split(os.environ["PADDLE_MASTER"])
is_master = host == socket.gethostbyname(socket.gethostname())
assert is_master == (rank == 0), (rank, host)
if is_master:
    serving.append(serve(port, "master", len(endpoints)))
assert reach(f"{host}:{port}") == "master"
assert [reach(endpoint) for endpoint in endpoints] == ["0", "1"]
for thread in serving:
    thread.join()
"""
)


def gang(name: str, rendezvous: str, image: str, command: list[str]) -> Object:
    """Two nodes that fail for good at the first failure."""
    resources = {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "150m"}}
    trainer: dict[str, Any] = {"image": image, "command": command, "numNodes": 2, "resourcesPerNode": resources}
    spec: Object = {
        "trainer": {**trainer, "rendezvous": rendezvous},
        "output": {"size": "1Mi", "retentionPolicy": "Delete"},
        "failurePolicy": {"maxRestarts": 0},
        "runPolicy": {"terminationGracePeriodSeconds": 1},
    }
    return {"apiVersion": "modelyard.dev/v1alpha1", "kind": "ModelTraining", "metadata": {"name": name}, "spec": spec}


@pytest.mark.side_by_side(seconds=45, busy=True)
@pytest.mark.parametrize(
    ("rendezvous", "image", "command"),
    [
        ("torch", WORKLOADS, ["torchrun", "--no-python", "python", "-c", TORCH]),
        ("tensorflow", PYTHON, ["python", "-c", TENSORFLOW]),
        ("paddle", PYTHON, ["python", "-c", PADDLE]),
    ],
    ids=["torch", "tensorflow", "paddle"],
)
def test_two_pods_of_an_image_of_ones_own_meet(
    laboratory: Laboratory, rendezvous: str, image: str, command: list[str]
) -> None:
    body = gang(f"meets-by-{rendezvous}", rendezvous, image, command)
    played = Played.create(laboratory.api, laboratory.namespace, body)
    played.wait("done", 240, phase="Succeeded")
