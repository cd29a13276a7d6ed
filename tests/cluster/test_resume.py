"""A run whose ranks are killed again and again ends with the very weights of a run that nobody touched."""

from __future__ import annotations

import json
import random
import subprocess

import pytest
from cluster.kubernetes_api import KubernetesApi, Object, eventually
from cluster.laboratory import Laboratory, condition, show
from cluster.ranks import environment, events_of, kill_a_rank, kubectl

KILLS = 10
SEED = 20
EPOCHS = 24
PARAMETERS = {
    "architecture": "test_resnet.r160_in1k",  # timm's 0.5 M parameters: the ranks spend their time in the loop
    "epochs": EPOCHS,
    "batchSize": 64,
    "evaluateEveryEpochs": EPOCHS,
}
DIGESTS = """
import hashlib, json, pathlib, sys
print(json.dumps({claim: hashlib.sha256(pathlib.Path(path, "model.safetensors").read_bytes()).hexdigest()
                  for claim, path in (argument.split("=", 1) for argument in sys.argv[1:])}))
"""


def training(name: str) -> Object:
    """Two ranks in two pods, a checkpoint every five steps, and no limit but the number of kills."""
    return {
        "apiVersion": "modelyard.dev/v1alpha1",
        "kind": "ModelTraining",
        "metadata": {"name": name},
        "spec": {
            "trainer": {
                "builtin": "image-classification",
                "parameters": PARAMETERS,
                "numNodes": 2,
                "resourcesPerNode": {"limits": {"cpu": "1", "memory": "2Gi"}, "requests": {"cpu": "100m"}},
            },
            "dataset": {"uri": "example://digits"},
            "output": {"size": "1Gi"},
            "checkpoint": {"everySteps": 5, "everySeconds": None},
            "failurePolicy": {"maxRestarts": 10 * KILLS, "maxNoProgressRestarts": 0, "backoffSeconds": 0},
            "runPolicy": {"terminationGracePeriodSeconds": 1},
        },
    }


def kill_beyond(namespace: str, name: str, attempt: int, step: int, rank: int) -> bool:
    """Wait for the attempt to pass a step, then kill one of its ranks; False if it ended first."""
    with events_of(namespace, f"{name}-{attempt}-0") as events:
        for event in events:
            if event.get("step", 0) >= step:
                return kill_a_rank(namespace, f"{name}-{attempt}-{rank}") is not None
    return False


def running(api: KubernetesApi, namespace: str, name: str, attempt: int) -> bool:
    """Whether this attempt runs, or the training is over."""
    found = api.get("ModelTraining", namespace, name)
    status = found.get("status") or {}
    return condition(found, "Finished") == "True" or (
        status.get("attempt") == attempt and condition(found, "Running") == "True"
    )


def weights(api: KubernetesApi, namespace: str, trainings: list[Object]) -> dict[str, str]:
    """Training -> sha256 of its final weights, read by a pod from the claims."""
    paths = {}
    for found in trainings:
        final = next(a for a in found["status"]["artifacts"] if a["name"] == "final")
        claim, _, path = final["uri"].removeprefix("pvc://").partition("/")
        paths[found["metadata"]["name"]] = (claim, f"/{claim}/{path}")
    body: Object = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "weights"},
        "spec": {
            "restartPolicy": "Never",
            "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "digests",
                    "image": "localhost/modelyard/workloads:dev",
                    "command": ["python", "-c", DIGESTS, *(f"{name}={path}" for name, (_, path) in paths.items())],
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                    "volumeMounts": [{"name": claim, "mountPath": f"/{claim}"} for claim, _ in paths.values()],
                }
            ],
            "volumes": [{"name": claim, "persistentVolumeClaim": {"claimName": claim}} for claim, _ in paths.values()],
        },
    }
    api.create(body, namespace)
    eventually("the weights are read", lambda: api.get("Pod", namespace, "weights")["status"]["phase"] == "Succeeded")
    command = kubectl("logs", "--namespace", namespace, "weights")
    told = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=True)
    return dict(json.loads(told.stdout))


@pytest.mark.timeout(1200)
def test_ten_kills_change_no_bit_of_the_weights(laboratory: Laboratory) -> None:
    api, namespace = laboratory.api, laboratory.make_namespace("resume")
    laboratory.start_operator([namespace])
    chance = random.Random(SEED)
    total = EPOCHS * 22  # 1,438 training images in batches of 64
    steps = sorted(chance.sample(range(10, 2 * total // 3), KILLS))  # the last leaves time to strike
    api.create(training("killed"), namespace)
    kills, attempt = 0, 1
    for step in steps:
        eventually(
            f"attempt {attempt} runs",
            lambda: running(api, namespace, "killed", attempt),  # noqa: B023 - used at once
            120,
            lambda: show(api.find("ModelTraining", namespace, "killed")),
        )
        if kill_beyond(namespace, "killed", attempt, step, chance.randrange(2)):
            kills += 1
        attempt += 1
    api.create(training("untouched"), namespace)

    def finished() -> list[Object] | None:
        found = [api.get("ModelTraining", namespace, name) for name in ("killed", "untouched")]
        return found if all(condition(f, "Finished") == "True" for f in found) else None

    trainings = eventually(
        "both trainings are done", finished, 300, lambda: show(api.find("ModelTraining", namespace, "killed"))
    )
    assert kills == KILLS
    killed, untouched = trainings
    assert condition(killed, "Succeeded") == condition(untouched, "Succeeded") == "True"
    assert killed["status"]["restarts"] == KILLS
    assert killed["status"]["lastFailure"]["signal"] == "SIGKILL"
    digests = weights(api, namespace, trainings)
    assert digests["killed"] == digests["untouched"]
