"""Process 1 of a training pod: `python -m modelyard_workloads.launch`. Imports no torch.

    start the ranks of this node -> pass their output on, report progress -> SIGTERM: let them save -> reap -> say how
    it ended

The exit code is that of the root cause (exits.py), the termination message names it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping

from modelyard_workloads import config as configuration
from modelyard_workloads import termination
from modelyard_workloads.exits import BAD_CONFIG, BAD_ENVIRONMENT, ConfigError, PodError
from modelyard_workloads.exporter import Exporter
from modelyard_workloads.hardware import available_cores, openmp_environment
from modelyard_workloads.processes import Failure, start
from modelyard_workloads.status import Estimator, StatusReporter, report
from modelyard_workloads.supervisor import Outcome, Supervisor

GRACE_VARIABLE = "MODELYARD_GRACE_SECONDS"
_DEFAULT_GRACE_SECONDS = 120.0


class Announcer:
    """Carries rank 0's events to the operator and to Prometheus; on other nodes there is nothing to carry."""

    def __init__(self, environment: Mapping[str, str], exporter: Exporter) -> None:
        self._exporter = exporter
        self._status = StatusReporter.from_environment(environment)
        self._estimator = Estimator()
        self._remaining: int | None = None
        self._checkpoint: object = None
        if self._status:
            self._status.offer(report(None, None, None))

    def update(self, outcome: Outcome) -> None:
        """Something new is known."""
        progress, checkpoint = outcome.progress, outcome.checkpoint
        if progress is not None:
            self._exporter.progress(progress)
            self._remaining = self._estimator.remaining(progress["step"], progress["totalSteps"], time.monotonic())
        if checkpoint is not None and checkpoint is not self._checkpoint:
            self._exporter.checkpoint(checkpoint)
            self._checkpoint = checkpoint
        if self._status:
            self._status.offer(report(progress, checkpoint, self._remaining))

    def close(self, outcome: Outcome) -> None:
        """The last report."""
        if self._status:
            done = 0 if outcome.result is not None else self._remaining
            self._status.close(report(outcome.progress, outcome.checkpoint, done))


def rank_environments(environment: Mapping[str, str]) -> dict[int, dict[str, str]]:
    """The environment of every rank of this node, by global rank. Raises PodError when the node's variables are
    wrong.
    """
    nodes = _number(environment, "NNODES", 1)
    node = _number(environment, "NODE_RANK", 0)
    processes = _number(environment, "NPROC_PER_NODE", 1)
    if nodes < 1 or processes < 1 or node >= nodes:
        raise PodError(f"NNODES={nodes} NODE_RANK={node} NPROC_PER_NODE={processes} is impossible")
    base = {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "29500",
        **openmp_environment(available_cores() // processes),
        # cuBLAS is deterministic only with a fixed workspace, which must be known before it starts.
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        # glibc gives large tensors back to the kernel at every step and faults them in again: a tenth of a CPU's time.
        "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
        **environment,
        "WORLD_SIZE": str(nodes * processes),
        "LOCAL_WORLD_SIZE": str(processes),
    }
    first = node * processes
    return {first + i: {**base, "RANK": str(first + i), "LOCAL_RANK": str(i)} for i in range(processes)}


def main(environment: Mapping[str, str] = os.environ) -> int:
    """Run the ranks of this node; returns the pod's exit code."""
    try:
        config = configuration.load(environment)
        environments = rank_environments(environment)
        grace = float(environment.get(GRACE_VARIABLE) or _DEFAULT_GRACE_SECONDS)
        configuration.check_batch_size(config, int(environments[min(environments)]["WORLD_SIZE"]))
    except ConfigError as error:
        return _refuse(error, BAD_CONFIG, environment)
    except (PodError, ValueError) as error:
        return _refuse(error, BAD_ENVIRONMENT, environment)

    announcer: Announcer | None = None
    if 0 in environments:
        exporter = Exporter(config.training.namespace, config.training.name)
        exporter.serve(environment)
        announcer = Announcer(environment, exporter)
    supervisor = Supervisor(
        grace_seconds=grace,
        prefix=int(environments[min(environments)]["WORLD_SIZE"]) > 1,
        on_event=announcer.update if announcer else None,
    )
    supervisor.prepare()
    outcome = supervisor.run([start(rank, variables) for rank, variables in environments.items()])
    termination.write(termination.message(outcome), environment)
    if announcer:
        announcer.close(outcome)
    return outcome.exit_code


def _refuse(error: Exception, code: int, environment: Mapping[str, str]) -> int:
    """Nothing was started: say what is wrong with the configuration or the environment."""
    sys.stderr.write(f"error: {error}\n")
    node = environment.get("NODE_RANK", "0")
    failure = Failure(
        rank=int(node) if node.isdecimal() else 0,
        at=0.0,
        exit_code=code,
        exception_type=type(error).__name__,
        message=str(error),
    )
    termination.write(termination.message(Outcome(exit_code=code, failure=failure)), environment)
    return code


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name) or str(default)
    if not text.isdecimal():
        raise PodError(f"{name}={text!r} must be a number")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
