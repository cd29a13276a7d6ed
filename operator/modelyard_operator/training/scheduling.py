"""What queues and gang schedulers read of a training's pods, and the objects that they want beside them. Pure.

Kueue        plain pod groups: https://kueue.sigs.k8s.io/docs/tasks/run/plain_pods/. Its own webhook gates the pods and
             lets all of them go at once. A group is one attempt, so the quota of a failed one is free again.
Volcano      a PodGroup named by an annotation: https://volcano.sh/en/docs/podgroup/
Coscheduling a PodGroup named by a label: https://github.com/kubernetes-sigs/scheduler-plugins, KEP-42
"""

from __future__ import annotations

from modelyard_operator.objects import LABEL_ATTEMPT, LABEL_TRAINING, child_metadata
from modelyard_operator.plan import Object
from modelyard_operator.training.spec import ModelTrainingSpec

_POD_GROUPS = {"Volcano": "scheduling.volcano.sh/v1beta1", "Coscheduling": "scheduling.x-k8s.io/v1alpha1"}
_SCHEDULERS = {"Volcano": "volcano"}
"""The name that a scheduler has where it was installed as its documentation says."""


def queue_labels(training: Object, spec: ModelTrainingSpec, attempt: int) -> dict[str, str]:
    """Labels of a pod: its queue and its group."""
    name, labels = training["metadata"]["name"], {}
    if spec.scheduling.queue_name:
        labels["kueue.x-k8s.io/queue-name"] = spec.scheduling.queue_name
        labels["kueue.x-k8s.io/pod-group-name"] = f"{name}-{attempt}"
        if spec.scheduling.workload_priority_class_name:
            labels["kueue.x-k8s.io/priority-class"] = spec.scheduling.workload_priority_class_name
    if spec.scheduling.gang == "Coscheduling":
        labels["scheduling.x-k8s.io/pod-group"] = name
    return labels


def queue_annotations(training: Object, spec: ModelTrainingSpec) -> dict[str, str]:
    """Annotations of a pod: how large its group is, and that a failed one is not replaced within it."""
    annotations = {}
    if spec.scheduling.queue_name:
        annotations["kueue.x-k8s.io/pod-group-total-count"] = str(spec.trainer.num_nodes)
        annotations["kueue.x-k8s.io/retriable-in-group"] = "false"
        if spec.scheduling.topology:
            annotations["kueue.x-k8s.io/podset-required-topology"] = spec.scheduling.topology
    if spec.scheduling.gang == "Volcano":
        annotations["scheduling.k8s.io/group-name"] = training["metadata"]["name"]
    return annotations


def make_pod_group(training: Object, spec: ModelTrainingSpec) -> Object | None:
    """All nodes or none; None where no gang scheduler is asked for."""
    version = _POD_GROUPS.get(spec.scheduling.gang)
    if version is None:
        return None
    return {
        "apiVersion": version,
        "kind": "PodGroup",
        "metadata": child_metadata(training, training["metadata"]["name"]),
        "spec": {"minMember": spec.trainer.num_nodes},
    }


def placement(spec: ModelTrainingSpec) -> Object:
    """Fields of a pod's spec: its priority and its scheduler."""
    scheduling = spec.scheduling
    fields = {
        "priorityClassName": scheduling.priority_class_name,
        "schedulerName": scheduling.scheduler_name or _SCHEDULERS.get(scheduling.gang, ""),
    }
    return {name: value for name, value in fields.items() if value}


def with_topology(affinity: Object, training: Object, spec: ModelTrainingSpec, attempt: int) -> Object:
    """The affinity of a pod, and that all nodes of the attempt share a value of the topology's label.

    Where Kueue queues the pods it sees to that itself.
    """
    if not spec.scheduling.topology or spec.scheduling.queue_name:
        return affinity
    labels = {LABEL_TRAINING: training["metadata"]["name"], LABEL_ATTEMPT: str(attempt)}
    together = {"labelSelector": {"matchLabels": labels}, "topologyKey": spec.scheduling.topology}
    pods = affinity.get("podAffinity") or {}
    required = [*(pods.get("requiredDuringSchedulingIgnoredDuringExecution") or ()), together]
    return {**affinity, "podAffinity": {**pods, "requiredDuringSchedulingIgnoredDuringExecution": required}}


def away_from_the_lost(affinity: Object, training: Object, attempt: int) -> Object:
    """The affinity of a pod, and that it would rather not go to the node that the attempt before was lost with.

    The cluster says of the pods that their node is silent before it taints that node: a pod that is made in between may
    be placed there again, and lose another nodeLostSeconds. Not required, since the node may come back as the only one.
    """
    failed = (training.get("status") or {}).get("lastFailure") or {}
    lost = failed.get("nodeName")
    if failed.get("reason") != "NodeLost" or failed.get("attempt") != attempt - 1 or not lost:
        return affinity
    elsewhere = {"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": [lost]}]}
    nodes = affinity.get("nodeAffinity") or {}
    preferred = [
        *(nodes.get("preferredDuringSchedulingIgnoredDuringExecution") or ()),
        {"weight": 100, "preference": elsewhere},
    ]
    return {**affinity, "nodeAffinity": {**nodes, "preferredDuringSchedulingIgnoredDuringExecution": preferred}}
