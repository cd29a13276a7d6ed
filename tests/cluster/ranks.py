"""The ranks of a training on the real kubelet: what they print, and signals to them from outside."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from localcluster.layout import CONTEXT, Layout

# Signals the training process of the pod and nothing else: process 1 is the launcher, which has to tell why.
_SIGNAL_RANK = """
import os, pathlib, signal, sys, time
for entry in pathlib.Path("/proc").glob("[0-9]*"):
    command = (entry / "cmdline").read_bytes()
    if int(entry.name) not in (1, os.getpid()) and b"modelyard_workloads.train" in command:
        os.kill(int(entry.name), signal.Signals[sys.argv[1]])
        print("signalled", time.time())
"""


def kubectl(*arguments: str) -> list[str]:
    return ["kubectl", "--context", os.environ.get("MODELYARD_CONTEXT", CONTEXT), *arguments]


def environment() -> dict[str, str]:
    layout = Layout.from_environment()
    return {"KUBECONFIG": str(layout.kubeconfig), **os.environ, "PATH": f"{layout.bin}:{os.environ['PATH']}"}


@contextmanager
def events_of(namespace: str, pod: str) -> Iterator[Iterator[dict[str, Any]]]:
    """The JSON lines that a pod writes, as they come."""
    command = kubectl("logs", "--namespace", namespace, "--follow", pod)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment(), text=True)
    try:
        assert process.stdout is not None
        yield (json.loads(line[line.index("{") :]) for line in process.stdout if '{"event"' in line)
    finally:
        process.kill()
        process.wait()


def kill_a_rank(namespace: str, pod: str) -> float | None:
    return signal_a_rank(namespace, pod, "SIGKILL")


def signal_a_rank(namespace: str, pod: str, name: str) -> float | None:
    """A signal to the training processes of a pod; when (seconds, Unix time), or None where there was none."""
    command = kubectl("exec", "--namespace", namespace, pod, "--", "python", "-c", _SIGNAL_RANK, name)
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    return min((float(line.split()[1]) for line in done.stdout.splitlines() if "signalled" in line), default=None)


def wait_for_step(namespace: str, pod: str, step: int) -> int | None:
    """The first step of at least `step` that the pod prints; None if it ended before."""
    with events_of(namespace, pod) as events:
        return next((int(e["step"]) for e in events if e["event"] == "progress" and e["step"] >= step), None)
