"""How the nodes of a gang find each other: the variables that the frameworks document. Pure.

torch       `init_process_group("env://")`: https://docs.pytorch.org/docs/stable/distributed.html, and torchrun's PET_*
tensorflow  `MultiWorkerMirroredStrategy`: https://www.tensorflow.org/guide/distributed_training#TF_CONFIG; worker 0 is
            the chief where no task has that type
paddle      `paddle.distributed.init_parallel_env` and, by PADDLE_MASTER, `paddle.distributed.launch`:
            https://www.paddlepaddle.org.cn/documentation/docs/en/api/paddle/distributed/launch_en.html
"""

from __future__ import annotations

import json

from modelyard_operator.objects import peer_service_name, pod_name
from modelyard_operator.plan import Object
from modelyard_operator.quantity import amount
from modelyard_operator.training.spec import ModelTrainingSpec

PORT = 29500
"""Where rank 0 of torch, and every worker of the others, listens."""
PADDLE_MASTER_PORT = 29501
POD_IP = "$(MODELYARD_POD_IP)"
"""What Kubernetes replaces by the pod's own address, from a variable that stands before."""


def processes_per_node(spec: ModelTrainingSpec) -> int:
    """numProcPerNode; `auto` is one process a GPU, and one where there is none."""
    if spec.trainer.num_proc_per_node != "auto":
        return int(spec.trainer.num_proc_per_node)
    limits = spec.trainer.resources_per_node.limits
    gpus = sum(int(amount(str(count))) for name, count in limits.items() if name.endswith("/gpu") or "/mig-" in name)
    return max(1, gpus)


def rendezvous(training: Object, spec: ModelTrainingSpec, attempt: int, rank: int) -> dict[str, str]:
    """The variables of one node of an attempt."""
    kinds = {"torch": _torch, "tensorflow": _tensorflow, "paddle": _paddle}
    make = kinds.get(spec.trainer.rendezvous)
    return make(spec, _addresses(training, spec, attempt), rank) if make else {}


def _addresses(training: Object, spec: ModelTrainingSpec, attempt: int) -> list[str]:
    """The names of the nodes of an attempt; a node alone has nobody to be found by."""
    if spec.trainer.num_nodes == 1:
        return ["localhost"]
    meta = training["metadata"]
    domain = f"{peer_service_name(meta['name'])}.{meta['namespace']}.svc"
    return [f"{pod_name(meta['name'], attempt, rank)}.{domain}" for rank in range(spec.trainer.num_nodes)]


def _torch(spec: ModelTrainingSpec, addresses: list[str], rank: int) -> dict[str, str]:
    """One process a node sees itself as one rank; our launcher and torchrun start more and number them."""
    nodes, processes = str(len(addresses)), str(processes_per_node(spec))
    return {
        "MASTER_ADDR": addresses[0],
        "MASTER_PORT": str(PORT),
        "NNODES": nodes,
        "NODE_RANK": str(rank),
        "NPROC_PER_NODE": processes,
        "RANK": str(rank),
        "WORLD_SIZE": nodes,
        "PET_NNODES": nodes,
        "PET_NODE_RANK": str(rank),
        "PET_NPROC_PER_NODE": processes,
        "PET_MASTER_ADDR": addresses[0],
        "PET_MASTER_PORT": str(PORT),
    }


def _tensorflow(_spec: ModelTrainingSpec, addresses: list[str], rank: int) -> dict[str, str]:
    workers = [f"{address}:{PORT}" for address in addresses]
    cluster = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": rank}}
    return {"TF_CONFIG": json.dumps(cluster, separators=(",", ":"))}


def _paddle(spec: ModelTrainingSpec, addresses: list[str], rank: int) -> dict[str, str]:
    """One trainer a node; `paddle.distributed.launch` starts as many as there are devices and numbers them anew.

    The launcher of node 0 serves the others only where PADDLE_MASTER has the node's own address, not its name.
    """
    endpoints = [f"{address}:{PORT}" for address in addresses]
    return {
        "PADDLE_MASTER": f"{addresses[0] if rank else POD_IP}:{PADDLE_MASTER_PORT}",
        "PADDLE_NNODES": str(len(addresses)),
        "PADDLE_RANK": str(rank),
        "PADDLE_NPROC_PER_NODE": str(processes_per_node(spec)),
        "PADDLE_TRAINERS_NUM": str(len(addresses)),
        "PADDLE_TRAINER_ID": str(rank),
        "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints),
        "PADDLE_CURRENT_ENDPOINT": endpoints[rank],
    }
