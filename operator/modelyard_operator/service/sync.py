"""`sync` of a ModelService: observed parent and children in, complete desired state out. Pure.

A revision is a Deployment of its own. The one that serves keeps all traffic until every pod of the new one is
available, which a bundled server is only after it reproduced the golden answers; then the Service turns, and the
old Deployment goes.
"""

from __future__ import annotations

from datetime import datetime

from modelyard_operator.objects import ANNOTATION_GENERATION, LABEL_REVISION, deletion_of, is_owned_by, is_terminating
from modelyard_operator.plan import Children, Event, Object, Plan
from modelyard_operator.refusal import refuse
from modelyard_operator.schema import InvalidSpec
from modelyard_operator.service.model import Unresolved, resolve
from modelyard_operator.service.render import make_deployment, make_service, revision_of
from modelyard_operator.service.spec import ModelServiceSpec, parse
from modelyard_operator.service.status import Rollout, make_status, urgency_of

KEPT_CONDITIONS = ("ModelResolved", "PredictorReady", "ModelLoaded", "Validated", "RoutesReady", "Ready")


def sync(service: Object, children: Children, now: datetime, image: str) -> Plan:
    """The plan for one ModelService. `image` is the installation's own server image."""
    before = service.get("status") or {}
    try:
        spec = parse(service)
    except InvalidSpec as invalid:
        return refuse(service, invalid, now, KEPT_CONDITIONS)
    revisions = _by_revision(service, children)
    if any(_generation(d) > service["metadata"].get("generation", 1) for d in revisions.values()):
        return Plan(requeue_after=0.5)  # the spec at hand is older than the Deployments: the watch will bring the newer
    model = resolve(service, spec, children.training)
    if isinstance(model, Unresolved):
        status = make_status(service, spec, model, _rollout(service, revisions, None, spec), children, now)
        event = Event(reason=model.reason, message=model.message, type="Warning" if model.final else "Normal")
        return Plan(status=status, urgency=urgency_of(before, status), events=(event,))  # what serves goes on serving
    if before.get("model") != model:
        status = make_status(service, spec, model, _rollout(service, revisions, None, spec), children, now)
        event = Event(reason="ModelResolved", message=f"serving {model['uri']}")
        return Plan(status=status, decided=True, events=(event,))
    return _serving(service, spec, model, children, now, image)


def _serving(
    service: Object, spec: ModelServiceSpec, model: Object, children: Children, now: datetime, image: str
) -> Plan:
    before = service.get("status") or {}
    revision = revision_of(service, spec, model, image)
    revisions = _by_revision(service, children)
    rollout = _rollout(service, revisions, revision, spec)
    status = make_status(service, spec, model, rollout, children, now)
    wanted = [make_deployment(service, spec, model, revision, image)]
    if rollout.serving:
        wanted.append(make_service(service, rollout.serving))
    turned = bool(children.services) and children.services[0]["spec"]["selector"].get(LABEL_REVISION) == revision
    old = [d for r, d in revisions.items() if r != revision and not is_terminating(d)] if turned else []
    events: tuple[Event, ...] = ()
    if rollout.ready and before.get("latestReadyRevision") != revision:
        events = (Event(reason="RevisionReady", message=f"revision {revision} is ready and has all traffic"),)
    elif "lastFailure" in status and status["lastFailure"] != before.get("lastFailure"):
        told = status["lastFailure"]
        events = (Event(reason=told["reason"], message=f"{told['podName']}: {told['message']}", type="Warning"),)
    return Plan(
        status=status,
        urgency=urgency_of(before, status),
        apply=tuple(wanted),
        delete=tuple(deletion_of(d) for d in old),
        events=events,
    )


def _rollout(service: Object, revisions: dict[str, Object], revision: str | None, spec: ModelServiceSpec) -> Rollout:
    """Who serves: the wanted revision when it is ready, else the one that did; the first has nobody to wait for."""
    ready = revision is not None and revision in revisions and _available(revisions[revision], spec)
    traffic = (service.get("status") or {}).get("traffic") or []
    last = traffic[0]["revisionName"] if traffic else None
    serving = revision if ready or last not in revisions else last
    return Rollout(revision=revision, serving=serving, ready=ready)


def _available(deployment: Object, spec: ModelServiceSpec) -> bool:
    """Whether all replicas of the current template are available, as the Deployment controller last saw it."""
    status = deployment.get("status") or {}
    wanted = 0 if spec.suspend else spec.replicas
    return (
        (status.get("observedGeneration") or 0) >= (deployment["metadata"].get("generation") or 0)
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
