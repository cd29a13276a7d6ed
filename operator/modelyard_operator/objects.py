"""Names, labels and owner references: the one place that knows how children are called and recognised."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from modelyard_operator.plan import Deletion, Object

GROUP = "modelyard.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
TRAINING = "ModelTraining"
SERVICE = "ModelService"

MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "modelyard"
MANAGED_SELECTOR = f"{MANAGED_BY}={MANAGER}"
LABEL_TRAINING = f"{GROUP}/training"
LABEL_SERVICE = f"{GROUP}/service"
LABEL_ATTEMPT = f"{GROUP}/attempt"
LABEL_RANK = f"{GROUP}/rank"
LABEL_ROLE = f"{GROUP}/role"
LABEL_REVISION = f"{GROUP}/revision"
LABEL_COMPONENT = f"{GROUP}/component"
LABEL_TABLE = f"{GROUP}/table"
ROUTER = "router"
ANNOTATION_STATUS_CA = f"{GROUP}/status-ca"
ANNOTATION_GENERATION = f"{GROUP}/generation"

_PARENT_LABEL = {TRAINING: LABEL_TRAINING, SERVICE: LABEL_SERVICE}


def pod_name(training: str, attempt: int, rank: int) -> str:
    return f"{training}-{attempt}-{rank}"


def peer_service_name(training: str) -> str:
    """Not the training's own name: a ModelService may have that, and its Service has the same."""
    return f"{training}-nodes"


def output_claim_name(training: str) -> str:
    return f"{training}-output"


def revision_name(service: str, revision: str) -> str:
    return f"{service}-{revision}"


def router_name(service: str) -> str:
    return f"{service}-router"


def labels_for(kind: str, name: str, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The labels of every child: found by the watch through managed-by, by people through the parent's name."""
    return {
        **(extra or {}),
        MANAGED_BY: MANAGER,
        "app.kubernetes.io/name": kind.lower(),
        "app.kubernetes.io/instance": name,
        _PARENT_LABEL[kind]: name,
    }


def owner_reference(parent: Object) -> Object:
    meta = parent["metadata"]
    return {
        "apiVersion": parent.get("apiVersion", API_VERSION),
        "kind": parent["kind"],
        "name": meta["name"],
        "uid": meta["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def child_metadata(parent: Object, name: str, extra: Mapping[str, str] | None = None) -> Object:
    """The metadata of a child of this name, which goes with its parent. `extra`: labels beside those of every child."""
    meta = parent["metadata"]
    return {
        "name": name,
        "namespace": meta["namespace"],
        "labels": labels_for(parent["kind"], meta["name"], extra),
        "ownerReferences": [owner_reference(parent)],
    }


def is_owned_by(child: Object, parent: Object) -> bool:
    uid = parent["metadata"]["uid"]
    return any(ref.get("uid") == uid for ref in child["metadata"].get("ownerReferences") or ())


def parent_of(child: Object) -> tuple[str, str] | None:
    """The (kind, name) that a child's labels name, or None for an object that is not ours."""
    labels = child["metadata"].get("labels") or {}
    for kind, label in _PARENT_LABEL.items():
        if name := labels.get(label):
            return kind, name
    return None


def deletion_of(child: Object, grace_seconds: int | None = None) -> Deletion:
    meta = child["metadata"]
    return Deletion(kind=child["kind"], name=meta["name"], uid=meta["uid"], grace_seconds=grace_seconds)


def is_terminating(obj: Object) -> bool:
    return "deletionTimestamp" in obj["metadata"]


def content_hash(value: Any) -> str:
    """Ten hexadecimal digits that name a JSON value: equal values, equal hash, whatever the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def covers(desired: Any, observed: Any) -> bool:
    """Whether everything that `desired` says is so in `observed`, which may say more (defaults, other writers).

    Lists must have the same length and cover each other item by item: the API server keeps their order. What is empty
    (no annotations, an environment variable with no text) is dropped by the API server, so that absent is as good. In a
    selector one key more would select nothing: it must be equal. An object may have more owners than one.
    """
    if isinstance(desired, Mapping):
        return isinstance(observed, Mapping) and all(
            _field_covers(key, value, observed[key]) if key in observed else not value for key, value in desired.items()
        )
    if isinstance(desired, (list, tuple)):
        return (
            isinstance(observed, (list, tuple))
            and len(desired) == len(observed)
            and all(covers(a, b) for a, b in zip(desired, observed, strict=True))
        )
    return bool(desired == observed)


def _field_covers(key: str, desired: Any, observed: Any) -> bool:
    if key == "selector":
        return bool(desired == observed)
    if key == "ownerReferences":
        return all(any(covers(owner, other) for other in observed) for owner in desired)
    return covers(desired, observed)


def parse_time(text: str | None) -> datetime | None:
    """RFC 3339 as the API server writes it, to an aware UTC datetime; None for None."""
    if not text:
        return None
    return datetime.fromisoformat(text).astimezone(UTC)


def format_time(moment: datetime) -> str:
    """RFC 3339 with whole seconds, as `metav1.Time` has it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def format_duration(seconds: float) -> str:
    """Seconds as people read them, in at most two units: `45s`, `2m5s`, `3h12m`, `2d4h`."""
    whole = max(0, round(seconds))
    units = [("d", 86400), ("h", 3600), ("m", 60), ("s", 1)]
    parts: list[str] = []
    for index, (unit, size) in enumerate(units):
        count, whole = divmod(whole, size)
        if count or (parts and whole):
            parts.append(f"{count}{unit}")
        if len(parts) == 2 or (parts and index == len(units) - 1):
            break
    return "".join(part for part in parts if not part.startswith("0")) or "0s"
