"""What a user may say about pods: an allow-list, so that no object can ask for more than the `restricted` profile.

Host paths, host networks, security contexts, node names, other namespaces: none of them can be written at all.
"""

# ruff: noqa: RUF012 - pydantic copies the defaults of its models

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field

from modelyard_operator.affinity import Affinity
from modelyard_operator.schema import ListMap, MapKeys, Matches, Model, Quantity, Rule, cel, has_text

_OURS = ("app.kubernetes.io/", "modelyard.dev/")
_OURS_CEL = " && ".join(f"!k.startsWith('{prefix}')" for prefix in _OURS)
_QUALIFIED = r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_LABEL_VALUE = r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?"
_SEGMENT = r"\.?[^/:.][^/:]*"
_SUBDOMAIN = r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?"

ObjectName = Annotated[str, Matches(_SUBDOMAIN, "must be the name of an object: lower-case letters, digits, '-', '.'")]
LabelName = Annotated[
    str, Matches(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", "must be lower-case letters, digits and '-'", max_length=63)
]
EnvName = Annotated[str, Matches(r"[-._a-zA-Z][-._a-zA-Z0-9]*", "must be letters, digits, '_', '-', '.'")]


def _users_own_key(key: str) -> bool:
    return not key.startswith(_OURS) and re.fullmatch(_QUALIFIED, key) is not None


_UserKeys = MapKeys(
    f"{_OURS_CEL} && k.matches(r'^{_QUALIFIED}$')",
    _users_own_key,
    "keys must be [prefix/]name; app.kubernetes.io/ and modelyard.dev/ are the operator's: write others",
)
LabelValue = Annotated[
    str, Matches(_LABEL_VALUE, "must be empty or letters, digits, '-', '_', '.', beginning and ending alike", 63)
]
Labels = Annotated[dict[str, LabelValue], _UserKeys]
Annotations = Annotated[dict[str, str], _UserKeys]

_RESOURCES = ("cpu", "memory", "ephemeral-storage")


def _is_resource(key: str) -> bool:
    return key in _RESOURCES or "/" in key or key.startswith("hugepages-")


Amounts = Annotated[
    dict[str, Quantity],
    MapKeys(
        f"k in {list(_RESOURCES)} || k.contains('/') || k.startsWith('hugepages-')",
        _is_resource,
        "write cpu, memory, ephemeral-storage or an extended resource such as nvidia.com/gpu",
        max_items=16,
    ),
]

_REQUESTS_FIT = Rule(
    "!has(self.requests) || !has(self.limits) || self.requests.all(k, !(k in self.limits)"
    " || quantity(string(self.requests[k])).compareTo(quantity(string(self.limits[k]))) <= 0)",
    "a request is above its limit; lower the request or raise the limit",
)
_EXTENDED_EQUAL = Rule(
    "!has(self.requests) || self.requests.all(k, !k.contains('/') || (has(self.limits) && k in self.limits"
    " && quantity(string(self.requests[k])).compareTo(quantity(string(self.limits[k]))) == 0))",
    "extended resources such as nvidia.com/gpu can't be overcommitted; write them under limits",
)


class Resources(Model, json_schema_extra=cel(_REQUESTS_FIT, _EXTENDED_EQUAL)):
    """What a pod asks for and may use at most. GPUs go by nvidia.com/gpu, amd.com/gpu or another extended resource."""

    requests: Amounts = {}
    """What is reserved; where missing, the limit."""
    limits: Amounts = {}
    """What may be used at most."""


class KeyRef(Model):
    """One key of a Secret or a ConfigMap in the object's own namespace."""

    name: ObjectName
    """The object's name."""
    key: Annotated[str, Field(min_length=1, max_length=253)]
    """The key in it."""
    optional: bool = False
    """Whether the pod starts without it."""


class EnvSource(
    Model,
    json_schema_extra=cel(
        Rule("has(self.secretKeyRef) != has(self.configMapKeyRef)", "write one of secretKeyRef, configMapKeyRef")
    ),
):
    """Where a variable's value comes from."""

    secret_key_ref: KeyRef | None = None
    """A key of a Secret."""
    config_map_key_ref: KeyRef | None = None
    """A key of a ConfigMap."""


class EnvVar(
    Model,
    json_schema_extra=cel(Rule("!has(self.value) || !has(self.valueFrom)", "write one of value, valueFrom, not both")),
):
    """One environment variable."""

    name: EnvName
    """The variable's name."""
    value: str = ""
    """Its value."""
    value_from: EnvSource | None = None
    """Where the value comes from, instead of value."""


Env = Annotated[list[EnvVar], ListMap(("name",), 128)]


class Toleration(
    Model,
    json_schema_extra=cel(
        Rule(f"{has_text('self.key')} || self.operator == 'Exists'", "write a key, or operator: Exists for all taints")
    ),
):
    """A taint of nodes that the pods tolerate."""

    key: str = ""
    """The taint's key; empty for all."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """Exists ignores the value."""
    value: str = ""
    """The taint's value."""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    """The taint's effect; empty for all."""
    toleration_seconds: int | None = None
    """For NoExecute: how long to stay."""


class ObjectRef(Model):
    """An object in the same namespace."""

    name: ObjectName
    """Its name."""


class ClaimVolume(Model):
    """A PersistentVolumeClaim."""

    claim_name: ObjectName
    """The claim's name."""
    read_only: bool = False
    """Mount it read-only."""


class EmptyDirVolume(Model):
    """A directory that lives as long as the pod."""

    medium: Literal["", "Memory"] = ""
    """Memory makes it a tmpfs, counted in the container's memory."""
    size_limit: Quantity | None = None
    """The most that it may hold."""


class KeyToPath(Model):
    """Which key becomes which file."""

    key: str
    """The key."""
    path: str
    """The file's path, relative to the mount."""


class ConfigMapVolume(Model):
    """A ConfigMap as files."""

    name: ObjectName
    """The ConfigMap's name."""
    items: list[KeyToPath] = []
    """Only these keys; all if empty."""
    optional: bool = False
    """Whether the pod starts without it."""


class SecretVolume(Model):
    """A Secret as files."""

    secret_name: ObjectName
    """The Secret's name."""
    items: list[KeyToPath] = []
    """Only these keys; all if empty."""
    optional: bool = False
    """Whether the pod starts without it."""


_VOLUME_KINDS = ("persistentVolumeClaim", "emptyDir", "configMap", "secret")
_ONE_VOLUME = Rule(
    f"[{', '.join(f'has(self.{kind})' for kind in _VOLUME_KINDS)}].filter(x, x).size() == 1",
    f"write exactly one of {', '.join(_VOLUME_KINDS)}",
)


class Volume(Model, json_schema_extra=cel(_ONE_VOLUME)):
    """A volume: a claim, an empty directory, a ConfigMap or a Secret."""

    name: LabelName
    """The name by which volumeMounts refer to it."""
    persistent_volume_claim: ClaimVolume | None = None
    """A PersistentVolumeClaim."""
    empty_dir: EmptyDirVolume | None = None
    """A directory that lives as long as the pod."""
    config_map: ConfigMapVolume | None = None
    """A ConfigMap as files."""
    secret: SecretVolume | None = None
    """A Secret as files."""


class VolumeMount(Model):
    """Where a volume stands in the container."""

    name: Annotated[str, Field(min_length=1, max_length=63)]
    """The volume's name."""
    mount_path: Annotated[str, Matches(rf"(/{_SEGMENT})+/?", "must be an absolute path without ':' and '..'", 512)]
    """The absolute path."""
    sub_path: Annotated[str, Matches(rf"({_SEGMENT}(/{_SEGMENT})*)?", "must be a relative path without '..'", 512)] = ""
    """A path inside the volume; the whole volume if empty."""
    read_only: bool = False
    """Mount it read-only."""


RESERVED_MOUNTS = ("/tmp", "/dev/shm", "/modelyard", "/var/run/modelyard", "/var/run/secrets")
"""Where the operator mounts its own volumes; what lies below them is taken too."""
RESERVED_VOLUMES = ("tmp", "shm", "output", "dataset", "model", "status", "api-keys")
"""The names of the operator's own volumes."""
_MOUNTS_KNOWN = Rule(
    "!has(self.volumeMounts) || self.volumeMounts.all(m,"
    " has(self.volumes) && self.volumes.exists(v, v.name == m.name))",
    "a volumeMount names a volume that is not in volumes; add the volume or correct the name",
)
_MOUNTS_FREE = Rule(
    "!has(self.volumeMounts) || self.volumeMounts.all(m, "
    + " && ".join(f"!(m.mountPath + '/').startsWith('{path}/')" for path in RESERVED_MOUNTS)
    + ")",
    f"mountPath must not be one of {', '.join(RESERVED_MOUNTS)}: the operator mounts its own volumes there",
)
_VOLUMES_FREE = Rule(
    f"!has(self.volumes) || self.volumes.all(v, !(v.name in {list(RESERVED_VOLUMES)}))",
    f"the volume names {', '.join(RESERVED_VOLUMES)} are the operator's; write another name",
)


POD_RULES = (_MOUNTS_KNOWN, _MOUNTS_FREE, _VOLUMES_FREE)


class PodOptions(Model, json_schema_extra=cel(*POD_RULES)):
    """What may be said about the pods."""

    labels: Labels = {}
    """Labels for the pods."""
    annotations: Annotations = {}
    """Annotations for the pods."""
    node_selector: Annotated[dict[str, str], Field(max_length=64)] = {}
    """Labels that a node must have."""
    tolerations: Annotated[list[Toleration], Field(max_length=64)] = []
    """Taints that the pods tolerate."""
    affinity: Affinity | None = None
    """Where pods go, by labels of nodes and of other pods."""
    service_account_name: Annotated[str, Field(max_length=253)] = ""
    """The ServiceAccount to run as; its token is not mounted."""
    image_pull_secrets: Annotated[list[ObjectRef], ListMap(("name",), 16)] = []
    """Secrets with which images are pulled."""
    runtime_class_name: Annotated[str, Field(max_length=253)] = ""
    """The container runtime's class."""
    volumes: Annotated[list[Volume], ListMap(("name",), 32)] = []
    """PersistentVolumeClaim, emptyDir, configMap and secret volumes."""
    volume_mounts: Annotated[list[VolumeMount], ListMap(("mountPath",), 32)] = []
    """Where the volumes stand in the container."""
