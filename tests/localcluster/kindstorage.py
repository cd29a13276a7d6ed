"""Claims in the kind cluster: kind's own provisioner, told that the directories of its node serve every node.

As kind ships it, a volume is made where its first pod was placed, by a helper pod there. On a fake node that helper
never ends, and four of them stop the provisioner for every other claim.
"""

import hashlib
import http.client
import json
import re
import time

from localcluster import rendering
from localcluster.api import Api, ApiError, Object
from localcluster.layout import STORAGE_CLASS, LocalClusterError

PROVISIONER = "rancher.io/local-path"
NAMESPACE = "local-path-storage"
CONFIGURATION = f"/api/v1/namespaces/{NAMESPACE}/configmaps/local-path-config"
DEPLOYMENT = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/local-path-provisioner"
CLASSES = "/apis/storage.k8s.io/v1/storageclasses"
CLASS = f"{CLASSES}/{STORAGE_CLASS}"
HELPER = "helperPod.yaml"
READ_BY = "modelyard.dev/configuration"
RESTART_SECONDS = 120


def share(api: Api, node: str) -> None:
    """Have one directory of `node` a claim, whichever node its pods are on. Nothing happens when that is so."""
    found: dict[str, str] = api.get(CONFIGURATION)["data"]
    wanted = shared(found, node)
    if wanted != found:
        api.patch(CONFIGURATION, {"data": wanted})
    # read anew within minutes otherwise, and the old one knows no claim without a node
    digest = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:16]
    api.patch(DEPLOYMENT, {"spec": {"template": {"metadata": {"annotations": {READ_BY: digest}}}}})
    _wait_until_restarted(api)
    wanted_class = rendering.storage_class(PROVISIONER)
    present = _find(api, CLASS)
    if present is not None and present.get("volumeBindingMode") != wanted_class["volumeBindingMode"]:
        api.delete(CLASS)  # the mode of a class never changes
        present = None
    if present is None:
        api.create(CLASSES, wanted_class)


def shared(configuration: dict[str, str], node: str) -> dict[str, str]:
    """The provisioner's files: its first directory for all nodes, and its helper pods on `node` alone."""
    settings, helper = json.loads(configuration["config.json"]), configuration[HELPER]
    if "nodePathMap" in settings:
        settings["sharedFileSystemPath"] = settings.pop("nodePathMap")[0]["paths"][0]
    if "nodeName:" not in helper:
        helper, found = re.subn(r"^spec:\n", f"spec:\n  nodeName: {node}\n", helper, count=1, flags=re.MULTILINE)
        if not found:
            raise LocalClusterError(f"kind's volume provisioner has an unknown {HELPER}:\n{helper}")
    return {**configuration, "config.json": json.dumps(settings), HELPER: helper}


def is_restarted(deployment: Object) -> bool:
    """Whether its one pod is of the newest template, and no other is left."""
    status = deployment.get("status") or {}
    seen = status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
    return seen and all(status.get(name) == 1 for name in ("replicas", "updatedReplicas", "availableReplicas"))


def _wait_until_restarted(api: Api) -> None:
    deadline = time.monotonic() + RESTART_SECONDS
    while not is_restarted(api.get(DEPLOYMENT)):
        if time.monotonic() > deadline:
            raise LocalClusterError(
                f"kind's volume provisioner is not available after {RESTART_SECONDS} s: look at it with "
                f"`kubectl --namespace {NAMESPACE} describe pods`"
            )
        time.sleep(0.2)


def _find(api: Api, path: str) -> Object | None:
    try:
        return api.get(path)
    except ApiError as error:
        if error.status != http.client.NOT_FOUND:
            raise
        return None
