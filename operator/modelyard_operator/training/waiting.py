"""Why nodes do not run yet, with what they ask for and what is left of it. Pure.

On how many nodes too little is free is what the scheduler says; how much is wanted stands in the spec, and how much is
free of a GPU is read from the nodes where the operator may. Of a quota all is known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal

from modelyard_operator import quantity
from modelyard_operator.room import Room, short_of
from modelyard_operator.training.gang import waiting_reasons
from modelyard_operator.training.situation import Situation
from modelyard_operator.training.spec import ModelTrainingSpec

_UNPLACED = re.compile(r"(\d+)/(\d+) nodes are available: (.+)", re.DOTALL)
"""In the scheduler's words: `0/5 nodes are available: 5 Insufficient nvidia.com/gpu.`"""
_SECOND_THOUGHTS = re.compile(r"\.? (?:[a-z][A-Za-z ]*, )?preemption: .*", re.DOTALL)
"""`. no new claims to deallocate, preemption: 0/5 nodes are available: …`: that nobody is to be put out for this pod,
node by node again. The first half is there since Kubernetes 1.32."""
_QUOTA = re.compile(r"exceeded quota: ([^,]+), requested: .+, used: (.+), limited: ([^;\s]+)")
"""`exceeded quota: team, requested: requests.nvidia.com/gpu=8, used: requests.nvidia.com/gpu=2, limited: …`"""


def waiting(situation: Situation) -> list[tuple[str, str]]:
    """(reason, message) of every pod that waits: `waiting_reasons`, with what was asked for."""
    found = waiting_reasons(situation.gang, situation.children.pod_warnings, situation.now)
    return [(reason, unplaced(situation.spec, text, situation.children.room)) for reason, text in found]


def unplaced(spec: ModelTrainingSpec, message: str, room: Mapping[str, Room]) -> str:
    """What the scheduler says, with how much is asked for and free of that which is short; any other message as it is.

    `asks for 8 nvidia.com/gpu on each of 2 nodes; 0 of 5 nodes have that free (3 Insufficient nvidia.com/gpu, …); free:
    10 of 32 nvidia.com/gpu on 4 nodes, at most 6 on one`
    """
    found = _UNPLACED.search(message)
    if found is None:
        return message
    why = _SECOND_THOUGHTS.sub("", found[3]).rstrip(". ")
    resources, nodes = spec.trainer.resources_per_node, spec.trainer.num_nodes
    amounts = {**resources.limits, **resources.requests}
    short = [name for name in short_of(why) if name in amounts]
    wanted = [f"{amounts[name]} {name}" for name in short]
    if not wanted:
        return f"{message[: found.start(3)]}{why}"
    where = f"each of {nodes} nodes" if nodes > 1 else "one node"
    asks = f"asks for {' and '.join(wanted)} on {where}"
    free = "".join(f"; {_free(name, room[name])}" for name in short if name in room)
    return f"{message[: found.start()]}{asks}; {found[1]} of {found[2]} nodes have that free ({why}){free}"


def _free(name: str, room: Room) -> str:
    if not room.nodes:
        return f"no node that takes pods has any {name}"
    where = f"{room.nodes} nodes, at most {room.most:f} on one" if room.nodes > 1 else "one node"
    return f"free: {room.free:f} of {room.total:f} {name} on {where}"


def refused(situation: Situation) -> str:
    """What the API server refused of the children that are needed, which spare pods are not; alike ones are counted."""
    spares = f"Pod/{situation.name}-{situation.gang.attempt}-"
    told: dict[str, list[str]] = {}
    for child, text in sorted(situation.children.refusals.items()):
        if child.startswith(spares) and int(child.removeprefix(spares)) >= situation.gang.size:
            continue
        quota = _QUOTA.search(text)
        alike = quota[1] if quota else text.replace(child.partition("/")[2], "")
        told.setdefault(alike, []).append(f"{child}: {text}{left_of(text)}")
    return "; ".join(first + (f" (and {len(more)} more)" if more else "") for first, *more in told.values())


def left_of(message: str) -> str:
    """`; free: 2 requests.nvidia.com/gpu` of a quota that the message says is exceeded; else empty."""
    found = _QUOTA.search(message)
    if found is None:
        return ""
    used, limited = _amounts(found[2]), _amounts(found[3])
    left = [f"{_difference(limited[name], used[name])} {name}" for name in limited if name in used]
    return f"; free: {', '.join(left)}" if left else ""


def _amounts(text: str) -> Mapping[str, str]:
    """Resource -> quantity, of `requests.cpu=2,pods=1`; what is not a quantity is left out."""
    pairs = (pair.partition("=") for pair in text.split(","))
    return {name.strip(): amount for name, _, amount in pairs if re.fullmatch(quantity.PATTERN, amount)}


def _difference(limited: str, used: str) -> str:
    left = max(quantity.amount(limited) - quantity.amount(used), Decimal(0))
    return quantity.canonical(f"{left / 1024:f}Ki" if limited.endswith("i") else f"{left:f}")
