"""More memory after running out of it: `failurePolicy.onOOM`. Pure.

What the container may use is its limit; the request is raised in proportion. What has been raised stays raised for the
rest of the training's life, unless the spec comes to ask for more.
"""

from __future__ import annotations

from decimal import Decimal

from modelyard_operator.pods import Resources
from modelyard_operator.quantity import amount
from modelyard_operator.training.failure import Failure
from modelyard_operator.training.spec import ModelTrainingSpec

_MIB = 1024**2


def raised(spec: ModelTrainingSpec, failure: Failure) -> str | None:
    """The memory limit of the next attempt, if this failure asks for more and the cap allows it; else None.

    `spec` is that of the attempt that failed: its limit is what it had.
    """
    policy, limit = spec.failure_policy.on_oom, spec.trainer.resources_per_node.limits.get("memory")
    if failure.reason != "OOMKilled" or policy is None or policy.memory_max is None or limit is None:
        return None
    before = amount(str(limit))
    after = min(before * Decimal(str(policy.memory_factor)), amount(str(policy.memory_max)))
    text = _whole(after)
    return text if amount(text) > before else None


def with_memory(resources: Resources, memory: str) -> Resources:
    """The resources of a node with this much memory, if that is more than they ask for."""
    limit = resources.limits.get("memory")
    if limit is None or amount(memory) <= amount(str(limit)):
        return resources
    requests = dict(resources.requests)
    if "memory" in requests:
        requests["memory"] = _whole(amount(str(requests["memory"])) * amount(memory) / amount(str(limit)))
    limits = {**resources.limits, "memory": memory}
    return resources.model_copy(update={"limits": limits, "requests": requests})


def _whole(size: Decimal) -> str:
    """In whole MiB, downwards: a cap is not exceeded by rounding. Less than one stays as it is."""
    return f"{int(size // _MIB)}Mi" if size >= _MIB else str(int(size))
