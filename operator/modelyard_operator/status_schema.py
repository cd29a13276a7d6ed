"""The parts of a status that both kinds share, as the CRDs describe them. The operator writes dicts, not these."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from modelyard_operator.schema import ListMap, Model, Time


class Condition(Model):
    """One thing that is, is not, or may be so (metav1.Condition)."""

    type: Annotated[str, Field(max_length=316)]
    """What is meant, in CamelCase."""
    status: Literal["True", "False", "Unknown"]
    """Whether it is so."""
    reason: Annotated[str, Field(min_length=1, max_length=1024)]
    """Why, in one CamelCase word."""
    message: Annotated[str, Field(max_length=32768)]
    """Why, for people."""
    observed_generation: Annotated[int, Field(ge=0)] = 0
    """The generation of the spec that this is about."""
    last_transition_time: Time
    """When the status last changed."""


Conditions = Annotated[list[Condition], ListMap(("type",), 32)]


class ResolvedModel(Model):
    """A model, as what the spec names resolved to."""

    source: str | None = None
    """The training or the URI that the spec names."""
    artifact: str | None = None
    """The training's artifact."""
    step: int | None = None
    """Its step."""
    uri: str | None = None
    """Where it is."""
    digest: str | None = None
    """The sha256 of its manifest."""
    size_bytes: int | None = None
    """Its size."""
    secret_ref: str | None = None
    """The Secret of the training's output, where that is on an object store."""
    task: str | None = None
    """What it is for."""
