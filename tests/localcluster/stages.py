"""What kwok does to fake nodes and their pods: its own fast stages without `pod-complete`, and two of ours on demand.

A pod on a fake node runs until it is deleted, or until its annotation modelyard.dev/kwok-exit-code says how its
containers ended ("0": well); modelyard.dev/kwok-termination-message is their termination message.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

from localcluster.layout import SOURCES, LocalClusterError

EXIT_CODE = "modelyard.dev/kwok-exit-code"
MESSAGE = "modelyard.dev/kwok-termination-message"
PARALLELISM = 16
POD_ADDRESSES = "10.245.0.1/16"  # of pods on fake nodes; nothing answers there
SHIPPED = (
    "node/fast/node-initialize.yaml",
    "node/heartbeat-with-lease/node-heartbeat-with-lease.yaml",
    "pod/fast/pod-ready.yaml",
    "pod/fast/pod-delete.yaml",
)
FINISHED_STATUS = """
{{ $now := Now }}
{{ $code := index .metadata.annotations "%(code)s" }}
{{ $message := or ( index .metadata.annotations "%(message)s" ) "" }}
conditions:
- lastTransitionTime: {{ $now | Quote }}
  status: "False"
  reason: %(reason)s
  type: Ready
- lastTransitionTime: {{ $now | Quote }}
  status: "False"
  reason: %(reason)s
  type: ContainersReady
containerStatuses:
{{ range .spec.containers }}
- image: {{ .image | Quote }}
  name: {{ .name | Quote }}
  ready: false
  started: false
  restartCount: 0
  state:
    terminated:
      exitCode: {{ $code }}
      reason: %(state)s
      message: {{ $message | Quote }}
      startedAt: {{ $now | Quote }}
      finishedAt: {{ $now | Quote }}
{{ end }}
phase: %(phase)s
"""


def config() -> str:
    """kwok's configuration file: options, then one stage a document."""
    options = {
        "apiVersion": "config.kwok.x-k8s.io/v1alpha1",
        "kind": "KwokConfiguration",
        "options": {
            "cidr": POD_ADDRESSES,
            "podPlayStageParallelism": PARALLELISM,
            "nodePlayStageParallelism": PARALLELISM,
            "nodeLeaseDurationSeconds": 40,
            "nodeLeaseParallelism": PARALLELISM,
            "podsOnNodeSyncParallelism": PARALLELISM,
        },
    }
    directory = _shipped_stages()
    documents = [json.dumps(options), *((directory / name).read_text().strip() for name in SHIPPED)]
    documents += [json.dumps(stage) for stage in (finished("Succeeded"), finished("Failed"))]
    return "\n---\n".join([*documents, ""])


def finished(phase: str) -> dict[str, Any]:
    """The stage that ends a running pod once its annotation says so."""
    succeeds = phase == "Succeeded"
    expression = f'.metadata.annotations["{EXIT_CODE}"]'
    selector: list[dict[str, Any]] = [
        {"key": ".metadata.deletionTimestamp", "operator": "DoesNotExist"},
        {"key": ".status.phase", "operator": "In", "values": ["Running"]},
        {"key": expression, "operator": "Exists"},
        {"key": expression, "operator": "In" if succeeds else "NotIn", "values": ["0"]},
    ]
    status = FINISHED_STATUS % {
        "code": EXIT_CODE,
        "message": MESSAGE,
        "reason": "PodCompleted" if succeeds else "PodFailed",
        "state": "Completed" if succeeds else "Error",
        "phase": phase,
    }
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": f"pod-{phase.lower()}-on-demand"},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": "Pod"},
            "selector": {"matchExpressions": selector},
            "next": {"statusTemplate": status},
        },
    }


def _shipped_stages() -> Path:
    """The stages in the source of the module that kwok is built from."""
    command = ["go", "mod", "download", "-json", "sigs.k8s.io/kwok"]
    done = subprocess.run(
        command, cwd=SOURCES / "go" / "kwok", capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode != 0:
        raise LocalClusterError(f"{' '.join(command)} failed: {done.stderr.strip()[-400:]}")
    return Path(json.loads(done.stdout)["Dir"]) / "kustomize" / "stage"
