"""The operator's own check of what the CRD's CEL rules say about pods."""

from __future__ import annotations

from collections.abc import Iterator

from modelyard_operator import quantity
from modelyard_operator.pods import (
    RESERVED_MOUNTS,
    RESERVED_VOLUMES,
    EnvVar,
    PodOptions,
    Resources,
    Volume,
)
from modelyard_operator.schema import Issue


def resource_issues(resources: Resources, path: str) -> Iterator[Issue]:
    """Requests above limits, and extended resources that the API server would refuse in a pod."""
    for name, text in resources.requests.items():
        limit = resources.limits.get(name)
        if limit is not None and quantity.amount(text) > quantity.amount(limit):
            yield Issue(path, f"a request is above its limit; lower the request or raise the limit ({name})")
        elif "/" in name and (limit is None or quantity.amount(text) != quantity.amount(limit)):
            yield Issue(path, f"extended resources such as {name} can't be overcommitted; write them under limits")
    for name, text in resources.limits.items():
        if "/" in name and quantity.amount(text) % 1:
            yield Issue(f'{path}.limits["{name}"]', f"expected a whole number, got {text}")


def env_issues(env: list[EnvVar], path: str) -> Iterator[Issue]:
    """Variables with two values, and references to two things or none."""
    for index, variable in enumerate(env):
        here = f"{path}[{index}]"
        if variable.value_from is None:
            continue
        if "value" in variable.model_fields_set:
            yield Issue(here, "write one of value, valueFrom, not both")
        source = variable.value_from
        if (source.secret_key_ref is None) == (source.config_map_key_ref is None):
            yield Issue(f"{here}.valueFrom", "write one of secretKeyRef, configMapKeyRef")


def pod_issues(pod: PodOptions, path: str) -> Iterator[Issue]:
    """Volumes and mounts that don't fit together or are in the operator's way."""
    for index, volume in enumerate(pod.volumes):
        here = f"{path}.volumes[{index}]"
        if volume.name in RESERVED_VOLUMES:
            message = f"the volume names {', '.join(RESERVED_VOLUMES)} are the operator's; write another name"
            yield Issue(f"{here}.name", message)
        if sum(source is not None for source in _sources(volume)) != 1:
            yield Issue(here, "write exactly one of persistentVolumeClaim, emptyDir, configMap, secret")
    for index, toleration in enumerate(pod.tolerations):
        if not toleration.key and toleration.operator != "Exists":
            yield Issue(f"{path}.tolerations[{index}]", "write a key, or operator: Exists for all taints")
    names = {volume.name for volume in pod.volumes}
    for index, mount in enumerate(pod.volume_mounts):
        here = f"{path}.volumeMounts[{index}]"
        if mount.name not in names:
            yield Issue(f"{here}.name", f"there is no volume {mount.name!r}; add the volume or correct the name")
        if _is_reserved(mount.mount_path):
            taken = ", ".join(RESERVED_MOUNTS)
            yield Issue(f"{here}.mountPath", f"must not be one of {taken}: the operator mounts its own volumes there")


def _sources(volume: Volume) -> list[object]:
    return [volume.persistent_volume_claim, volume.empty_dir, volume.config_map, volume.secret]


def _is_reserved(path: str) -> bool:
    return f"{path}/".startswith(tuple(f"{taken}/" for taken in RESERVED_MOUNTS))
