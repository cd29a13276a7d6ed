"""Why nodes do not run yet, and what they ask for of that of which there is too little. Pure.

The operator has no rights on nodes: how much is free it does not know. The scheduler says on how many nodes too little
is; this says how much is wanted, which the scheduler does not.
"""

from __future__ import annotations

import re

from modelyard_operator.training.gang import waiting_reasons
from modelyard_operator.training.situation import Situation
from modelyard_operator.training.spec import ModelTrainingSpec

_SHORT_OF = re.compile(r"Insufficient ([A-Za-z0-9][-A-Za-z0-9_./]*[A-Za-z0-9])")
"""In the scheduler's words: `0/5 nodes are available: 5 Insufficient nvidia.com/gpu.`"""


def waiting(situation: Situation) -> list[tuple[str, str]]:
    """(reason, message) of every pod that waits: `waiting_reasons`, with what was asked for."""
    found = waiting_reasons(situation.gang, situation.children.pod_warnings, situation.now)
    return [(reason, text + asked(situation.spec, text)) for reason, text in found]


def asked(spec: ModelTrainingSpec, message: str) -> str:
    """`; asked for: 2 nodes with nvidia.com/gpu 8 each`, of what the scheduler says is short; else empty."""
    resources, nodes = spec.trainer.resources_per_node, spec.trainer.num_nodes
    amounts = {**resources.limits, **resources.requests}
    short = [name for name in dict.fromkeys(_SHORT_OF.findall(message)) if name in amounts]
    if not short:
        return ""
    wanted = ", ".join(f"{name} {amounts[name]}" for name in short)
    return f"; asked for: {nodes} nodes with {wanted} each" if nodes > 1 else f"; asked for: {wanted}"
