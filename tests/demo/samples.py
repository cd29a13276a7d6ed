"""The two samples: applied together, and deleted when a run has been shown, so that the next one learns anew."""

import contextlib
from typing import Any

from demo.errors import DemoError
from demo.installation import FIELD_MANAGER, NAMESPACE
from demo.kubectl import Tools
from demo.target import REPOSITORY

NAME = "digits"
FILES = tuple(REPOSITORY / "manifests" / "samples" / f"digits-{kind}.yaml" for kind in ("training", "service"))
SHOWN = "demo.modelyard.dev/shown"
IN_NAMESPACE = ("--namespace", NAMESPACE)


def apply(tools: Tools) -> str:
    """Apply both; what there is now. A training that runs since an interrupted demo goes on."""
    training = tools.get(*IN_NAMESPACE, "modeltraining", NAME)
    if training is None:
        _apply(tools)
        return "both samples applied"
    if not _is_over(tools, training):
        with contextlib.suppress(DemoError):  # the sample was edited, and what is trained cannot be changed meanwhile
            _apply(tools)
            return "the training of the interrupted demo goes on"
    delete(tools)
    _apply(tools)
    return "both samples applied anew"


def _apply(tools: Tools) -> None:
    files = [f"--filename={path}" for path in FILES]
    tools.run_kubectl("apply", "--server-side", FIELD_MANAGER, *IN_NAMESPACE, *files)


def delete(tools: Tools) -> None:
    """Delete training, service and volume. The pods serve nobody any more: they need no time to drain."""
    wait = ("--ignore-not-found", "--timeout=120s")
    tools.run_kubectl("delete", *IN_NAMESPACE, f"ms/{NAME}", f"mt/{NAME}", *wait, seconds=130)
    pods = ("delete", *IN_NAMESPACE, "pods", "--selector=app.kubernetes.io/managed-by=modelyard", "--grace-period=1")
    tools.run_kubectl(*pods, "--timeout=120s", seconds=130)
    tools.run_kubectl("delete", *IN_NAMESPACE, f"pvc/{NAME}-output", *wait, seconds=130)


def mark_shown(tools: Tools, training: dict[str, Any]) -> None:
    """Remember in the cluster that the person saw the end of this run."""
    value = f"{SHOWN}={training['metadata']['uid']}"
    tools.run_kubectl("annotate", "namespace", NAMESPACE, value, "--overwrite")


def _is_over(tools: Tools, training: dict[str, Any]) -> bool:
    """Failed, being deleted, or shown to the end."""
    namespace = tools.get("namespace", NAMESPACE) or {}
    shown = (namespace.get("metadata", {}).get("annotations") or {}).get(SHOWN)
    metadata, phase = training["metadata"], (training.get("status") or {}).get("phase")
    return phase == "Failed" or "deletionTimestamp" in metadata or shown == metadata["uid"]
