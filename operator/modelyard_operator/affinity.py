"""Node and pod affinity, without the fields that name other namespaces."""

# ruff: noqa: RUF012 - pydantic copies the defaults of its models

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from modelyard_operator.schema import Model


class Requirement(Model):
    """One condition on a label."""

    key: str
    """The label's key."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]
    """How the label relates to the values."""
    values: list[str] = []
    """The values; none for Exists and DoesNotExist, one for Gt and Lt."""


class LabelSelector(Model):
    """Which pods are meant."""

    match_labels: dict[str, str] = {}
    """Labels and their values, all of which must be there."""
    match_expressions: list[Requirement] = []
    """Conditions on labels, all of which must hold."""


class NodeSelectorTerm(Model):
    """Conditions that must all hold for a node."""

    match_expressions: list[Requirement] = []
    """Conditions on the node's labels."""
    match_fields: list[Requirement] = []
    """Conditions on the node's fields: metadata.name."""


class NodeSelector(Model):
    """Nodes for which at least one term holds."""

    node_selector_terms: Annotated[list[NodeSelectorTerm], Field(min_length=1)]
    """The terms; one of them must hold."""


class PreferredNodes(Model):
    """Nodes that are better than others."""

    weight: Annotated[int, Field(ge=1, le=100)]
    """How much better, 1 to 100."""
    preference: NodeSelectorTerm
    """Which nodes."""


class NodeAffinity(Model):
    """Nodes by their labels."""

    required: NodeSelector | None = Field(None, alias="requiredDuringSchedulingIgnoredDuringExecution")
    """The only nodes to run on."""
    preferred: list[PreferredNodes] = Field([], alias="preferredDuringSchedulingIgnoredDuringExecution")
    """The nodes to run on if possible."""


class PodAffinityTerm(Model):
    """Pods of the object's own namespace, and the scope within which they count as near."""

    label_selector: LabelSelector
    """Which pods."""
    topology_key: Annotated[str, Field(min_length=1)]
    """The node label that makes the scope, such as topology.kubernetes.io/zone."""


class PreferredPods(Model):
    """Pods whose nearness is wanted, or not wanted, but not required."""

    weight: Annotated[int, Field(ge=1, le=100)]
    """How much, 1 to 100."""
    pod_affinity_term: PodAffinityTerm
    """Which pods."""


class PodAffinity(Model):
    """Nearness to other pods, or distance from them."""

    required: list[PodAffinityTerm] = Field([], alias="requiredDuringSchedulingIgnoredDuringExecution")
    """What must hold."""
    preferred: list[PreferredPods] = Field([], alias="preferredDuringSchedulingIgnoredDuringExecution")
    """What should hold if possible."""


class Affinity(Model):
    """Where pods go, by labels of nodes and of other pods."""

    node_affinity: NodeAffinity | None = None
    """Nodes by their labels."""
    pod_affinity: PodAffinity | None = None
    """Near which pods."""
    pod_anti_affinity: PodAffinity | None = None
    """Away from which pods."""
