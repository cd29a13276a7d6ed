"""Gives every claim of class `standard` a directory of the node, and takes it away with the claim.

kube-controller-manager has a hostPath provisioner of its own (--enable-hostpath-provisioner), but its directories
belong to root with mode 0750: no pod that runs as another user could write to its volume.
"""

import http.client
import shutil
import sys
import threading
import time
from collections.abc import Callable

from localcluster.api import Api, ApiError, Object
from localcluster.layout import STORAGE_CLASS, Layout, LocalClusterError
from localcluster.rendering import PROVISIONER

CLAIMS = "/api/v1/persistentvolumeclaims"
VOLUMES = "/api/v1/persistentvolumes"
MADE_BY = "pv.kubernetes.io/provisioned-by"
RETRY_SECONDS = 0.5


def wants_volume(claim: Object) -> bool:
    """A claim of our class that has no volume yet and is not being deleted."""
    spec, metadata = claim["spec"], claim["metadata"]
    pending = claim.get("status", {}).get("phase", "Pending") == "Pending"
    unbound = not spec.get("volumeName") and "deletionTimestamp" not in metadata
    return pending and unbound and spec.get("storageClassName") == STORAGE_CLASS


def is_released(volume: Object) -> bool:
    """A volume that we made and whose claim is gone."""
    annotations = volume["metadata"].get("annotations", {})
    return annotations.get(MADE_BY) == PROVISIONER and volume.get("status", {}).get("phase") in ("Released", "Failed")


def volume_for(claim: Object, directory: str) -> Object:
    """The PersistentVolume, bound to this very claim by its uid."""
    spec, metadata = claim["spec"], claim["metadata"]
    reference = {name: metadata[name] for name in ("namespace", "name", "uid")}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"pvc-{metadata['uid']}", "annotations": {MADE_BY: PROVISIONER}},
        "spec": {
            "capacity": {"storage": spec["resources"]["requests"]["storage"]},
            "accessModes": spec["accessModes"],
            "volumeMode": "Filesystem",
            "storageClassName": STORAGE_CLASS,
            "persistentVolumeReclaimPolicy": "Delete",
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", **reference},
            "hostPath": {"path": directory, "type": "Directory"},
        },
    }


def run(layout: Layout) -> None:
    """Serve until the process is ended."""
    threading.Thread(target=_follow, args=(layout, VOLUMES, _release), daemon=True).start()
    _follow(layout, CLAIMS, _provision)


def _provision(layout: Layout, api: Api, claim: Object) -> None:
    if not wants_volume(claim):
        return
    directory = layout.volumes / f"pvc-{claim['metadata']['uid']}"
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o777)
    try:
        api.create(VOLUMES, volume_for(claim, str(directory)))
    except ApiError as error:
        if error.status != http.client.CONFLICT:
            raise


def _release(layout: Layout, api: Api, volume: Object) -> None:
    if not is_released(volume):
        return
    name = volume["metadata"]["name"]
    try:
        api.delete(f"{VOLUMES}/{name}")
    except ApiError as error:
        if error.status != http.client.NOT_FOUND:
            raise
    shutil.rmtree(layout.volumes / name, ignore_errors=True)


def _follow(layout: Layout, path: str, act: Callable[[Layout, Api, Object], None]) -> None:
    """List, then watch, for ever; whatever goes wrong is written down, and all is listed anew."""
    while True:
        try:
            api = Api(layout, "volumes")
            listed = api.get(path)
            for item in listed["items"]:
                act(layout, api, item)
            for event in api.watch(path, listed["metadata"]["resourceVersion"]):
                if event["type"] == "ERROR":
                    break
                if event["type"] in ("ADDED", "MODIFIED"):
                    act(layout, api, event["object"])
        except (LocalClusterError, OSError, http.client.HTTPException, ValueError) as error:
            print(f"{path}: {error}", file=sys.stderr, flush=True)
            time.sleep(RETRY_SECONDS)
