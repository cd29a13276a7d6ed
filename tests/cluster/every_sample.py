"""`make samples`: everything under manifests/samples, applied at once as it is, until all of it has trained and serves.

STEPS=20 cuts every bundled training after so many steps: minutes instead of an hour, and everything else the same. A
service is Ready when its server gave the answers that the trainer had got from the same weights.
"""

from __future__ import annotations

import os
import sys
import time

import pytest
import yaml
from cluster.kubernetes_api import Object
from cluster.laboratory import Laboratory, show
from cluster.operator_process import ROOT

STEPS = int(os.environ.get("STEPS") or 0)
SECONDS = 3 * 3600
POLL_SECONDS = 5


def samples() -> list[Object]:
    """In the order of their files: who begins with what is not there yet has to wait for it."""
    found = []
    for path in sorted((ROOT / "manifests" / "samples").glob("*.yaml")):
        found += list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    for body in found:
        trainer = body["spec"].get("trainer", {})
        if STEPS and "builtin" in trainer:
            trainer.setdefault("parameters", {})["maxSteps"] = STEPS
    return found


def phase(obj: Object) -> str:
    return str((obj.get("status") or {}).get("phase", ""))


def line(obj: Object, seconds: float) -> str:
    status = obj.get("status") or {}
    progress = status.get("progress") or {}
    metrics = ", ".join(f"{name} {value}" for name, value in (progress.get("metrics") or {}).items())
    return f"{obj['kind']:<14} {obj['metadata']['name']:<16} {phase(obj):<10} {seconds:6.0f} s  {metrics}"


@pytest.mark.timeout(SECONDS + 300)
def test_every_sample_trains_and_serves(laboratory: Laboratory) -> None:
    namespace = laboratory.make_namespace("samples")
    laboratory.start_operator([namespace])
    began = time.monotonic()
    waited = [laboratory.api.create(body, namespace) for body in samples()]
    while waited:
        time.sleep(POLL_SECONDS)
        for body in list(waited):
            found = laboratory.api.get(body["kind"], namespace, body["metadata"]["name"])
            assert phase(found) != "Failed", show(found)
            if phase(found) in ("Succeeded", "Ready"):
                sys.stderr.write(line(found, time.monotonic() - began) + "\n")
                waited.remove(body)
        left = [f"{body['kind']} {body['metadata']['name']}" for body in waited]
        assert time.monotonic() - began < SECONDS, f"not done: {', '.join(left)}"
