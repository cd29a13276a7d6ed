"""The children that a ModelService is to have, from what was seen of it: Deployments, Services, routes. Pure.

Order is what loses no request: the Service turns to the routers when they are available with their table, and back
when a revision has everything; routers go when the Service was seen not to name them; revisions go when no router is
left that knows them.
"""

from __future__ import annotations

from dataclasses import dataclass

from modelyard_operator.objects import LABEL_TABLE, deletion_of, is_owned_by, is_terminating
from modelyard_operator.plan import Deletion, Object, Patch
from modelyard_operator.service.autoscalers import make_autoscaler
from modelyard_operator.service.disruption import make_disruption_budgets
from modelyard_operator.service.render import make_deployment, selector_of
from modelyard_operator.service.routing import (
    make_http_route,
    make_ingress,
    make_revision_service,
    make_router,
    make_service,
    needs_router,
    router_selector,
)
from modelyard_operator.service.runtime import Installation
from modelyard_operator.service.status import Seen


@dataclass(frozen=True, kw_only=True)
class Desired:
    apply: tuple[Object, ...]
    patch: tuple[Patch, ...]
    delete: tuple[Deletion, ...]


def desired_children(seen: Seen, installation: Installation) -> Desired:
    """Everything to be made, changed and removed now; what has to wait for something comes in a later look."""
    rollout, name = seen.rollout, seen.name
    routed = needs_router(seen.spec, rollout)
    named = [r for r, _ in rollout.shares] + ([rollout.mirror] if rollout.mirror else [])
    selector = _selector(seen, routed)
    settled = _is_settled(seen, routed)
    apply = [_revision_deployment(seen, settled, installation)]
    addressed = named if routed else []
    grpc = installation.profile(seen.spec).grpc_port is not None
    apply += [make_revision_service(seen.service, revision, grpc=grpc) for revision in addressed]
    if routed:
        apply.append(make_router(seen.service, seen.spec, rollout, installation))
    if selector is not None:
        apply.append(make_service(seen.service, selector, grpc=grpc))
    extras = _extras(seen, installation, routed=routed)
    delete = _unneeded(seen, routed, settled, {f"{name}-{r}" for r in addressed})
    kept = {(extra["kind"], extra["metadata"]["name"]) for extra in extras}
    # KEDA copies a ScaledObject's labels to the autoscaler that it makes of it: labels alone do not say whose it is
    owned = [extra for extra in seen.children.extras if is_owned_by(extra, seen.service)]
    delete += [deletion_of(extra) for extra in owned if (extra["kind"], extra["metadata"]["name"]) not in kept]
    return Desired(apply=(*apply, *extras), patch=tuple(_resized(seen)), delete=tuple(delete))


def _revision_deployment(seen: Seen, settled: bool, installation: Installation) -> Object:
    """The Deployment of the revision of the spec. One that was rolled back has no pods once nobody sends to them."""
    rollout = seen.rollout
    assert rollout.revision is not None
    assert isinstance(seen.model, dict)
    replicas = seen.replicas
    if rollout.rolled_back and settled:
        replicas = 0
    elif rollout.serving != rollout.revision and not seen.spec.suspend:
        replicas = max(1, replicas)
    return make_deployment(seen.service, seen.spec, seen.model, rollout.revision, replicas, installation)


def _resized(seen: Seen) -> list[Patch]:
    """The number of servers of the revision that still answers; nothing else of it is known any more."""
    patches = []
    for revision, deployment in seen.revisions.items():
        serves = any(revision == name for name, _ in seen.rollout.shares)
        if serves and revision != seen.rollout.revision and not is_terminating(deployment):
            name = deployment["metadata"]["name"]
            patches.append(Patch(kind="Deployment", name=name, body={"spec": {"replicas": seen.replicas}}))
    return patches


def _selector(seen: Seen, routed: bool) -> dict[str, str] | None:
    """Whom the Service names; None before anything serves."""
    if seen.rollout.serving is None:
        return None
    if routed and (seen.front == router_selector(seen.name) or _router_available(seen)):
        return router_selector(seen.name)
    return selector_of(seen.name, seen.rollout.serving)


def _router_available(seen: Seen) -> bool:
    """Whether all routers have the table of the rollout and are available."""
    for deployment in seen.routers:
        status, meta, spec = deployment.get("status") or {}, deployment["metadata"], deployment["spec"]
        wanted = spec["replicas"]
        return bool(
            spec["template"]["metadata"]["labels"].get(LABEL_TABLE) == seen.rollout.table
            and (status.get("observedGeneration") or 0) >= (meta.get("generation") or 0)
            and (status.get("updatedReplicas") or 0) >= wanted
            and (status.get("availableReplicas") or 0) >= wanted
        )
    return False


def _is_settled(seen: Seen, routed: bool) -> bool:
    """Whether nothing is left that sends requests to another revision than those of the rollout."""
    pods = seen.router_pods
    if not routed:
        serving = seen.rollout.serving
        return serving is not None and seen.front == selector_of(seen.name, serving) and not pods
    tables = {p["metadata"]["labels"].get(LABEL_TABLE) for p in pods}
    return seen.front == router_selector(seen.name) and _router_available(seen) and tables == {seen.rollout.table}


def _unneeded(seen: Seen, routed: bool, settled: bool, addressed: set[str]) -> list[Deletion]:
    gone = []
    if not routed and seen.front is not None and seen.front != router_selector(seen.name):
        gone += [router for router in seen.routers if not is_terminating(router)]
    if settled:
        named = {seen.rollout.revision, seen.rollout.serving, *(r for r, _ in seen.rollout.shares)}
        gone += [d for r, d in seen.revisions.items() if r not in named and not is_terminating(d)]
        gone += [
            s
            for s in seen.children.services
            if s["metadata"]["name"] not in {seen.name, *addressed}
            and is_owned_by(s, seen.service)
            and not is_terminating(s)
        ]
    return [deletion_of(child) for child in gone]


def _extras(seen: Seen, installation: Installation, *, routed: bool) -> list[Object]:
    """Routes from outside, autoscalers of others, and what a drain may take."""
    made = make_disruption_budgets(seen.service, seen.spec, installation, routed=routed)
    if not seen.spec.suspend:
        autoscaler = make_autoscaler(seen.service, seen.spec, installation)
        made += [autoscaler] if autoscaler is not None else []
    if seen.rollout.serving is not None and seen.spec.route.mode == "HTTPRoute":
        made.append(make_http_route(seen.service, seen.spec))
    if seen.rollout.serving is not None and seen.spec.route.mode == "Ingress":
        made.append(make_ingress(seen.service, seen.spec))
    return made
