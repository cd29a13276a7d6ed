"""An explanation as a server gives it: by the process beside it, over HTTP."""

from __future__ import annotations

from typing import Any

import numpy as np
from modelyard_workloads.artifact import Artifact
from modelyard_workloads.serve.loading import load

from servers.inprocess import MODEL, PATIENT, VERSION, configure, eventually, running


def explained(artifact: Artifact, instance: Any) -> dict[str, Any]:
    """The explanation of one instance of KServe's v1 protocol."""
    model = {"name": MODEL, "path": str(artifact.path), "digest": artifact.digest, "version": VERSION}
    config = configure(model=model, explain={"enabled": True, "steps": 20}, limits=PATIENT)
    with running(load(config).runtime, config) as server:
        eventually(lambda: server.plane.ready)
        reply = server.infer({"instances": [instance]}, path=f"/v1/models/{MODEL}:explain")
    assert reply.status == 200, reply.body
    (row,) = reply.json()["explanations"]
    found: dict[str, Any] = row
    return found


def check_sum(row: dict[str, Any], attributions: Any) -> None:
    """What the pieces contribute is the difference between the score and that of the baseline."""
    missing = np.sum(attributions) - (row["output"] - row["baseline"])
    assert abs(missing) <= abs(row["delta"]) + 1e-3, row
    assert row["output"] != row["baseline"], "there is something to account for"
