"""Process 1 of a training pod: `python -m modelyard_workloads.launch`. Imports no torch.

    start the ranks of this node -> pass their output on, report progress -> SIGTERM: let them save -> reap -> say how
    it ended

The exit code is that of the root cause (exits.py), the termination message names it.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from modelyard_workloads import stacks, termination
from modelyard_workloads.exits import BAD_CONFIG, BAD_ENVIRONMENT, CHECKPOINTED, ConfigError, PodError
from modelyard_workloads.hardware import available_cores, openmp_environment
from modelyard_workloads.peers import PeerClient, PeerServer
from modelyard_workloads.processes import Failure, start
from modelyard_workloads.stopwatch import STARTED_VARIABLE
from modelyard_workloads.supervisor import Outcome, Supervisor
from modelyard_workloads.watchdog import DEADLINE_VARIABLE, Investigator, Watchdog

if TYPE_CHECKING:
    from modelyard_workloads.config import TrainingConfig

GRACE_VARIABLE = "MODELYARD_GRACE_SECONDS"
_DEFAULT_GRACE_SECONDS = 120.0


class StoppedEarly(Exception):
    """SIGTERM came before there was anything to stop."""


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
    started = time.monotonic()
    supervisor = Supervisor()
    supervisor.prepare()
    # These take a good part of a second; a SIGTERM that comes meanwhile is not lost any more.
    from modelyard_workloads import config as configuration
    from modelyard_workloads.announcer import Announcer

    try:
        config = configuration.load(environment)
        environments = rank_environments({**environment, STARTED_VARIABLE: str(started)})
        grace = float(environment.get(GRACE_VARIABLE) or _DEFAULT_GRACE_SECONDS)
        deadline = float(environment.get(DEADLINE_VARIABLE) or "inf")
        world_size = int(environments[min(environments)]["WORLD_SIZE"])
        configuration.check_batch_size(config, world_size)
    except ConfigError as error:
        return _refuse(error, BAD_CONFIG, environment)
    except (PodError, ValueError) as error:
        return _refuse(error, BAD_ENVIRONMENT, environment)
    if supervisor.stopping:
        return _refuse(StoppedEarly("stopped by SIGTERM before any rank was started"), CHECKPOINTED, environment)

    announcer = Announcer(environment, config) if 0 in environments else None
    supervisor.configure(grace_seconds=grace, prefix=world_size > 1, on_event=announcer.update if announcer else None)
    investigator = _investigator(config, environments, supervisor)
    supervisor.watchdog = Watchdog(deadline if math.isfinite(deadline) else None, investigator.start)
    ranks = [start(rank, variables) for rank, variables in environments.items()]
    investigator.watch(ranks)
    if announcer:
        announcer.connect(supervisor, investigator)
    outcome = supervisor.run(ranks)
    termination.write(termination.message(outcome), environment)
    if announcer:
        announcer.close()
    return outcome.exit_code


def _investigator(
    config: TrainingConfig, environments: Mapping[int, Mapping[str, str]], supervisor: Supervisor
) -> Investigator:
    """Node 0 asks the other launchers and keeps what they say; the others answer it."""
    first = environments[min(environments)]
    processes, world = int(first["LOCAL_WORLD_SIZE"]), int(first["WORLD_SIZE"])
    investigator = Investigator(say=supervisor.say)
    node, nodes, port = min(environments) // processes, world // processes, int(first["MASTER_PORT"]) + 1
    if node == 0:
        investigator.keep = partial(stacks.keep, config.output.path, config.output.uri, config.attempt)
    if node == 0 and nodes > 1:
        ranks_of = {other: range(other * processes, (other + 1) * processes) for other in range(1, nodes)}
        investigator.peers = PeerServer(port, ranks_of)
    elif nodes > 1:
        PeerClient((first["MASTER_ADDR"], port), node, investigator.local)
    return investigator


def _refuse(error: Exception, code: int, environment: Mapping[str, str]) -> int:
    """Nothing was started: say what is wrong with the configuration or the environment, or that it was to stop."""
    sys.stderr.write(f"error: {error}\n")
    node = environment.get("NODE_RANK", "0")
    failure = Failure(
        rank=int(node) if node.isdecimal() else 0,
        at=0.0,
        exit_code=code,
        exception_type=type(error).__name__,
        message=str(error),
        reason="Checkpointed" if code == CHECKPOINTED else "",
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
