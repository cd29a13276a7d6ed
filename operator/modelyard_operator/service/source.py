"""How a model comes into a server's pod: mounted from a claim, or loaded before the server starts. Pure."""

from __future__ import annotations

import json

from modelyard_operator.objects import is_owned_by, is_terminating, owner_reference
from modelyard_operator.plan import Children, Object, Patch
from modelyard_operator.podspec import container_security_context
from modelyard_operator.service.spec import ModelServiceSpec
from modelyard_operator.uris import parse_uri

MODEL_PATH = "/modelyard/model"
FETCH = "fetch"
FETCH_PORT = 9401
CREDENTIALS_PREFIX = "MODELYARD_MODEL_"


def claim_of(model: Object | None) -> str | None:
    """The claim that a model lies on; None for a model that is loaded from elsewhere."""
    if not model:
        return None
    location = parse_uri(model["uri"])
    return location.authority if location.scheme == "pvc" else None


def model_directory(model: Object) -> str:
    """Where the model is in the pod."""
    path = parse_uri(model["uri"]).path if claim_of(model) else ""
    return f"{MODEL_PATH}/{path}".rstrip("/")


def model_volume(model: Object) -> Object:
    claim = claim_of(model)
    if claim:
        return {"name": "model", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
    return {"name": "model", "emptyDir": {}}


def fetch_container(spec: ModelServiceSpec, model: Object, image: str) -> Object | None:
    """What loads the model before the server starts; None where it is mounted. Only it gets the credentials."""
    if claim_of(model):
        return None
    config = {"uri": model["uri"], "digest": model.get("digest") or "", "path": MODEL_PATH, "port": FETCH_PORT}
    container: Object = {
        "name": FETCH,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-m", "modelyard_workloads.fetch"],
        "env": [
            {"name": "HOME", "value": "/tmp"},
            {"name": "MODELYARD_FETCH", "value": json.dumps(config, separators=(",", ":"))},
        ],
        "ports": [{"name": "fetch", "containerPort": FETCH_PORT, "protocol": "TCP"}],
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": container_security_context(read_only_root=True),
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, {"name": "model", "mountPath": MODEL_PATH}],
    }
    if secret := spec.model.secret_ref or model.get("secretRef"):
        container["envFrom"] = [{"prefix": CREDENTIALS_PREFIX, "secretRef": {"name": secret}}]
    return container


def claim_patches(service: Object, model: Object, children: Children) -> tuple[Patch, ...]:
    """Keep the claim that is served from, let go of those that were.

    A claim that goes with its training gets this service as a second owner: the garbage collector takes it when both
    are gone, whatever becomes of the training. No finalizer is needed, and deletion works without the operator. A claim
    that nobody owns is kept anyway and is left alone.
    """
    wanted = claim_of(model)
    patches = []
    for claim in children.held_claims:
        meta = claim["metadata"]
        owners = list(meta.get("ownerReferences") or ())
        held = is_owned_by(claim, service)
        keep = meta["name"] == wanted and any(o["uid"] != service["metadata"]["uid"] for o in owners)
        if is_terminating(claim) or held == keep or (held and meta["name"] == wanted):
            continue
        ours = {**owner_reference(service), "controller": False, "blockOwnerDeletion": False}
        kept = [o for o in owners if o["uid"] != service["metadata"]["uid"]]
        body = {
            "metadata": {
                "resourceVersion": meta["resourceVersion"],
                "ownerReferences": [*kept, ours] if keep else kept,
            }
        }
        patches.append(Patch(kind="PersistentVolumeClaim", name=meta["name"], body=body))
    return tuple(patches)
