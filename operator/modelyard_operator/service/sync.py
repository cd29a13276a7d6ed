"""`sync` of a ModelService: observed parent and children in, complete desired state out. Pure.

A revision is a Deployment of its own. The one that serves keeps all traffic until every pod of the new one is
available, which a bundled server is only after it reproduced the golden answers; then `rollout` says who gets what,
`scaling` how many there are, and `routing` turns the Service. What a router may still send requests to is not removed.
"""

from __future__ import annotations

from datetime import datetime

from modelyard_operator.lineage import Unresolved
from modelyard_operator.objects import ANNOTATION_GENERATION, LABEL_REVISION, format_time, is_owned_by
from modelyard_operator.plan import Children, Event, Object, Plan
from modelyard_operator.refusal import refuse
from modelyard_operator.schema import InvalidSpec
from modelyard_operator.service import scaling
from modelyard_operator.service.children import desired_children
from modelyard_operator.service.failures import find_failure
from modelyard_operator.service.model import resolve
from modelyard_operator.service.render import revision_of
from modelyard_operator.service.rollout import Observed, plan_rollout
from modelyard_operator.service.runtime import Installation
from modelyard_operator.service.source import claim_patches
from modelyard_operator.service.spec import ModelServiceSpec, parse
from modelyard_operator.service.status import Seen, make_status, urgency_of

KEPT_CONDITIONS = ("ModelResolved", "PredictorReady", "ModelLoaded", "Validated", "RoutesReady", "Ready")
LOOK_SECONDS = 2.0
"""How often a canary and a scale are looked at while figures come in."""


def sync(service: Object, children: Children, now: datetime, installation: Installation) -> Plan:
    """The plan for one ModelService. `installation` is what this operator gives to all services."""
    before = service.get("status") or {}
    try:
        spec = parse(service)
        installation.check(spec)
    except InvalidSpec as invalid:
        return refuse(service, invalid, now, KEPT_CONDITIONS)
    revisions = _by_revision(service, children)
    if any(_generation(d) > service["metadata"].get("generation", 1) for d in revisions.values()):
        return Plan(requeue_after=0.5)  # the spec at hand is older than the Deployments: the watch will bring the newer
    model = resolve(service, spec, children.training)
    if isinstance(model, Unresolved):
        seen = _seen(service, spec, model, children, now, None)
        status = make_status(seen)
        event = Event(reason=model.reason, message=model.message, type="Warning" if model.final else "Normal")
        return Plan(status=status, urgency=urgency_of(before, status), events=(event,))  # what serves goes on serving
    if before.get("model") != model:
        status = make_status(_seen(service, spec, model, children, now, None))
        event = Event(reason="ModelResolved", message=f"serving {model['uri']}")
        return Plan(status=status, decided=True, events=(event,))
    return _serving(service, spec, model, children, now, installation)


def _serving(
    service: Object,
    spec: ModelServiceSpec,
    model: Object,
    children: Children,
    now: datetime,
    installation: Installation,
) -> Plan:
    before = service.get("status") or {}
    revision = revision_of(service, spec, model, installation)
    seen = _seen(service, spec, model, children, now, revision)
    status = make_status(seen)
    if seen.rollout.decided or (seen.scale is not None and seen.scale != before.get("scaling")):
        events = tuple(event for event in (seen.rollout.event, _scaled(seen.scale, before)) if event is not None)
        return Plan(status=status, decided=True, events=events)
    wanted = desired_children(seen, installation)
    events = ()
    if seen.rollout.ready and before.get("latestReadyRevision") != revision:
        events = (Event(reason="RevisionReady", message=f"revision {revision} is ready and has all traffic"),)
    elif "lastFailure" in status and status["lastFailure"] != before.get("lastFailure"):
        told = status["lastFailure"]
        events = (Event(reason=told["reason"], message=f"{told['podName']}: {told['message']}", type="Warning"),)
    looks = seen.rollout.is_split or seen.scale is not None
    return Plan(
        status=status,
        urgency=urgency_of(before, status),
        apply=wanted.apply,
        patch=(*wanted.patch, *claim_patches(service, model, children)),
        delete=wanted.delete,
        events=events,
        requeue_after=LOOK_SECONDS if looks else None,
    )


def _seen(
    service: Object,
    spec: ModelServiceSpec,
    model: Object | Unresolved,
    children: Children,
    now: datetime,
    revision: str | None,
) -> Seen:
    before = service.get("status") or {}
    scale = _scale(spec, before, children, now)
    replicas = 0 if spec.suspend else spec.replicas if scale is None else int(scale["desired"])
    failure = find_failure(children, revision)
    revisions = _by_revision(service, children)
    last = next((t["revisionName"] for t in before.get("traffic") or ()), None)
    observed = Observed(
        available={
            name: _available(d, _wanted(spec, name, last, replicas), proven=name == before.get("latestReadyRevision"))
            for name, d in revisions.items()
        },
        failure=f"{failure.reason}: {failure.message}" if failure is not None and failure.exit_code is not None else "",
        load=children.load,
        now=now,
    )
    rollout = plan_rollout(spec, before, revision, observed)
    return Seen(
        service=service,
        spec=spec,
        model=model,
        rollout=rollout,
        revisions=revisions,
        replicas=replicas,
        scale=scale,
        failure=failure,
        children=children,
        now=now,
    )


def _wanted(spec: ModelServiceSpec, revision: str, last: str | None, replicas: int) -> int:
    """The servers that a revision must have: one that has not served yet proves itself even where none are wanted."""
    return replicas if spec.suspend or revision == last else max(1, replicas)


def _scale(spec: ModelServiceSpec, before: Object, children: Children, now: datetime) -> Object | None:
    """`status.scaling`: the number decided, and a new one where the load asks for it; None without scaling of ours."""
    if spec.scaling is None or spec.scaling.backend != "Internal":
        return None
    known: Object | None = before.get("scaling")
    current = int(known["desired"]) if known else max(1, spec.scaling.min_replicas)
    if not spec.suspend:
        decision = scaling.decide(spec.scaling, children.load, current, now)
        if known is None or decision.replicas != current:
            return {
                "desired": decision.replicas,
                "reason": decision.reason,
                "message": decision.message,
                "lastScaleTime": format_time(now),
            }
    return known


def _scaled(scale: Object | None, before: Object) -> Event | None:
    known = before.get("scaling")
    if scale is None or known is None or scale["desired"] == known["desired"]:
        return None
    message = f"{known['desired']} -> {scale['desired']} servers: {scale['message']}"
    return Event(reason="Scaled", message=message)


def _available(deployment: Object, wanted: int, *, proven: bool) -> bool:
    """Whether all replicas of the current template are available, as the Deployment controller last saw it.

    Of a revision that was ready before, what it last saw counts although the Deployment has changed since: to have
    fewer servers makes none of them worse.
    """
    status = deployment.get("status") or {}
    seen = (status.get("observedGeneration") or 0) >= (deployment["metadata"].get("generation") or 0)
    return (
        (seen or proven)
        and (status.get("updatedReplicas") or 0) >= wanted
        and (status.get("availableReplicas") or 0) >= wanted
    )


def _by_revision(service: Object, children: Children) -> dict[str, Object]:
    return {
        d["metadata"]["labels"][LABEL_REVISION]: d
        for d in children.deployments
        if is_owned_by(d, service) and LABEL_REVISION in (d["metadata"].get("labels") or {})
    }


def _generation(deployment: Object) -> int:
    return int((deployment["metadata"].get("annotations") or {}).get(ANNOTATION_GENERATION) or 0)
