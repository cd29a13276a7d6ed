"""The only place where effects are ordered: observe -> sync -> write.

A decision is written to status first and nothing else is done with it; children are written before the status that
reports them; Events come after the status they describe.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from modelyard_operator import metrics
from modelyard_operator.capacity import SAID_AGAIN_SECONDS, Capacity
from modelyard_operator.cluster import ApiError, Cluster, kind_of
from modelyard_operator.events import EventRecorder
from modelyard_operator.objects import covers, is_owned_by, is_terminating
from modelyard_operator.plan import Children, Deletion, Key, Object, Patch, Plan, Urgency
from modelyard_operator.pod_reasons import PodReasons
from modelyard_operator.store import Store
from modelyard_operator.workqueue import WorkQueue

log = logging.getLogger(__name__)

Sync = Callable[[Object, Children, datetime], Plan]

STATUS_DELAY: Mapping[Urgency, float] = {Urgency.NOW: 0.0, Urgency.SOON: 1.0, Urgency.LATER: 10.0}
"""Seconds that a status may wait to be merged with the next."""
BACKLOG_DELAY = 0.02
BACKLOG_DELAY_LIMIT = 10.0
"""What is not urgent gives way while others wait for a worker: so much longer for each of them, in seconds."""
GROUPED_ERRORS = (403, 404, 409, 422)
"""Refusals of a child that trying again at once cannot mend: shown in the parent's status, retried with back-off."""


def utc_now() -> datetime:
    return datetime.now(UTC)


class Reconciler:
    """Works keys off the queue until cancelled."""

    def __init__(
        self,
        cluster: Cluster,
        store: Store,
        queue: WorkQueue[Key],
        recorder: EventRecorder,
        syncs: Mapping[str, Sync],
    ) -> None:
        self._cluster = cluster
        self._store = store
        self._queue = queue
        self._recorder = recorder
        self._syncs = syncs
        self._reasons = PodReasons(cluster)
        self._capacity = Capacity(cluster, queue.add)
        # When a status difference was first seen and when a status was last written. Only ever used to delay a write:
        # a fresh process that knows neither writes at once.
        self._differs_since: dict[Key, float] = {}
        self._written: dict[Key, float] = {}

    async def work(self) -> None:
        """One worker: several run side by side, never two on one key."""
        while True:
            key = await self._queue.get()
            metrics.QUEUE_DEPTH.set(len(self._queue))
            try:
                with metrics.RECONCILE_SECONDS.labels(key.kind).time():
                    await self.reconcile(key)
                self._queue.forget(key)
            except ApiError as error:
                metrics.RECONCILE_ERRORS.labels(key.kind).inc()
                delay = self._queue.retry(key, at_least=error.retry_after)
                log.warning("%s %s/%s: %s; again in %.0f s", *key, error, delay)
            except Exception:
                metrics.RECONCILE_ERRORS.labels(key.kind).inc()
                delay = self._queue.retry(key)
                log.exception("%s %s/%s failed; again in %.0f s", *key, delay)
            finally:
                self._queue.done(key)

    async def reconcile(self, key: Key) -> None:
        parent = self._store.get(*key)
        if parent is None or is_terminating(parent):
            # Children go by their owner references; what is left here is memory.
            self._differs_since.pop(key, None)
            self._written.pop(key, None)
            self._reasons.forget(key)
            self._capacity.forget(key)
            return
        pods = self._store.children(key).pods
        told = await self._reasons.of(key, pods)
        room = self._capacity.of(key, pods)
        children = replace(self._store.children(key), pod_warnings=told.warnings, room=room)
        plan = self._syncs[key.kind](parent, children, utc_now())
        if plan.decided:
            if await self._write_status(key, parent, plan):
                self._queue.add(key)
            return
        if plan.verify:
            await self._verify_absence(key, parent, plan)
            self._queue.add(key)
            return
        if plan.delete_parent:
            meta = parent["metadata"]
            await self._cluster.delete(key.kind, key.namespace, key.name, uid=meta["uid"])
            return
        await self._write_children(key, parent, plan)
        retry = self._store.refusals.look(key, (*plan.apply, *plan.create), children.refusals)
        wait = await self._write_status_when_due(key, parent, plan)
        again = SAID_AGAIN_SECONDS if room else None
        delays = [delay for delay in (plan.requeue_after, wait, told.next_look, again, retry) if delay is not None]
        if delays:
            self._queue.add_after(key, min(delays))

    async def _verify_absence(self, key: Key, parent: Object, plan: Plan) -> None:
        """Ask the API server itself for pods that the watch does not show: one may merely have lost its labels."""
        for name in plan.verify:
            try:
                live = await self._cluster.get("Pod", key.namespace, name)
            except ApiError as error:
                if not error.not_found:
                    raise
                self._store.absent[key].add(name)
                continue
            if not is_owned_by(live, parent):
                self._store.absent[key].add(name)
                continue
            labels = next(pod["metadata"]["labels"] for pod in plan.create if pod["metadata"]["name"] == name)
            patch: Object = {"metadata": {"labels": labels, "uid": live["metadata"]["uid"]}}
            self._store.put("Pod", await self._cluster.merge("Pod", key.namespace, name, patch))

    async def _write_children(self, key: Key, parent: Object, plan: Plan) -> None:
        for child in plan.apply:
            await self._apply(key, parent, child)
        for patch in plan.patch:
            await self._patch(key, patch)
        missing = [
            pod
            for pod in plan.create
            if self._store.get(pod["kind"], key.namespace, pod["metadata"]["name"]) is None
            and not self._store.refusals.waits(key, pod)
        ]
        results = await asyncio.gather(
            *(self._create(key, parent, pod) for pod in missing),
            *(self._delete(key, deletion) for deletion in plan.delete),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _apply(self, key: Key, parent: Object, child: Object) -> None:
        """Bring one child to what was rendered; a namesake that is somebody else's is left alone and reported."""
        kind, name = child["kind"], child["metadata"]["name"]
        known = self._store.get(kind, key.namespace, name)
        if known is not None and covers(child, known):
            self._store.refusals.drop(key, child)
            return
        if self._store.refusals.waits(key, child):
            return
        try:
            if known is None:
                answer = await self._create_or_take_back(parent, child)
            else:
                body = {**child, "metadata": {**child["metadata"], "uid": known["metadata"]["uid"]}}
                if turned := _turned_selector(child, known):
                    await self._cluster.merge(kind_of(child), key.namespace, name, turned)
                answer = await self._cluster.apply(body)
                if not covers(child, answer):
                    # A list item of somebody else's survives an apply (a port, a container): replace whole lists.
                    answer = await self._cluster.merge(kind_of(child), key.namespace, name, body)
        except ApiError as error:
            self._refuse(key, child, error)
            return
        self._accept(key, child, answer)

    async def _patch(self, key: Key, patch: Patch) -> None:
        """Change fields of an object that is there. One that has changed meanwhile is looked at anew."""
        known = self._store.get(patch.kind, key.namespace, patch.name)
        if known is None or (covers(patch.body, known) and _owners(patch.body) in (None, _owners(known))):
            return
        try:
            answer = await self._cluster.merge(patch.kind, key.namespace, patch.name, dict(patch.body))
        except ApiError as error:
            if error.not_found:
                return
            if not error.conflict:
                raise
            self._queue.add_after(key, 0.5)
            return
        self._store.put(patch.kind, answer)

    async def _create(self, key: Key, parent: Object, pod: Object) -> None:
        try:
            answer = await self._create_or_take_back(parent, pod)
        except ApiError as error:
            self._refuse(key, pod, error)
            return
        self._accept(key, pod, answer)

    async def _delete(self, key: Key, deletion: Deletion) -> None:
        kind, name, uid = deletion.kind, deletion.name, deletion.uid
        left = await self._cluster.delete(kind, key.namespace, name, uid=uid, grace_seconds=deletion.grace_seconds)
        if left is not None:
            self._store.put(kind, left)
        else:
            self._store.remove(kind, {"metadata": {"namespace": key.namespace, "name": name, "uid": uid}})

    async def _create_or_take_back(self, parent: Object, child: Object) -> Object:
        """Create a child. One of that name that is ours already, but lost its labels, gets them back."""
        try:
            return await self._cluster.create(child)
        except ApiError as error:
            if not error.already_exists:
                raise
            kind, meta = child["kind"], child["metadata"]
            live = await self._cluster.get(kind_of(child), meta["namespace"], meta["name"])
            ours = is_owned_by(live, parent) or (
                kind == "PersistentVolumeClaim" and covers(_identity(child), _identity(live))
            )
            if not ours and "ownerReferences" in meta:
                message = f'{kind} "{meta["name"]}" exists and does not belong to this {parent["kind"]}'
                raise ApiError(409, "NotOwned", message) from error
            if covers(meta["labels"], live["metadata"].get("labels") or {}):
                return live
            patch: Object = {"metadata": {"labels": meta["labels"], "uid": live["metadata"]["uid"]}}
            return await self._cluster.merge(kind_of(child), meta["namespace"], meta["name"], patch)

    def _accept(self, key: Key, child: Object, answer: Object) -> None:
        self._store.put(child["kind"], answer)
        self._store.refusals.drop(key, child)

    def _refuse(self, key: Key, child: Object, error: ApiError) -> None:
        """Remember a refusal for the status. Errors that will pass by themselves are raised: the key is retried."""
        if error.code not in GROUPED_ERRORS:
            raise error
        self._store.refusals.add(key, child, error.about(child))

    async def _write_status_when_due(self, key: Key, parent: Object, plan: Plan) -> float | None:
        """Write a status that differs, now or when its urgency asks for it. Returns the seconds left until then."""
        if plan.status is None or plan.status == parent.get("status"):
            self._differs_since.pop(key, None)
            return None
        now = monotonic()
        since = self._differs_since.setdefault(key, now)
        if plan.urgency is Urgency.LATER:
            since = self._written.get(key, since - STATUS_DELAY[Urgency.LATER])
        delay = STATUS_DELAY[plan.urgency]
        if delay:
            delay += min(BACKLOG_DELAY_LIMIT, BACKLOG_DELAY * len(self._queue))
        left = since + delay - now
        if left > 0:
            return left
        await self._write_status(key, parent, plan)
        return None

    async def _write_status(self, key: Key, parent: Object, plan: Plan) -> bool:
        """Whether it was written: not if the parent is gone, or somebody else's write came between."""
        meta = parent["metadata"]
        body: Object = {
            "apiVersion": parent["apiVersion"],
            "kind": key.kind,
            "metadata": {
                "name": key.name,
                "namespace": key.namespace,
                "uid": meta["uid"],
                "resourceVersion": meta["resourceVersion"],
            },
            "status": plan.status,
        }
        try:
            answer = await self._cluster.apply(body, "status")
        except ApiError as error:
            if error.not_found:
                return False
            if error.conflict:
                # Someone was faster. The watch brings what they wrote; the answer is computed anew from that.
                self._queue.add_after(key, 0.1)
                return False
            raise
        self._store.put(key.kind, answer)
        metrics.observe_status(key, parent.get("status") or {}, plan.status or {})
        self._differs_since.pop(key, None)
        self._written[key] = monotonic()
        for event in plan.events:
            self._recorder.record(parent, event)
        return True


def _identity(obj: Object) -> Object:
    labels = obj["metadata"].get("labels") or {}
    return {k: v for k, v in labels.items() if k.startswith(("modelyard.dev/", "app.kubernetes.io/"))}


def _turned_selector(child: Object, known: Object) -> Object | None:
    """The patch that turns a Service whose selector loses a key, at once; None where it loses none.

    An apply would keep the key, because the object was made by a plain create: the Service would select nobody.
    """
    wanted, there = ((o.get("spec") or {}).get("selector") for o in (child, known))
    if child["kind"] != "Service" or not wanted or not there or not set(there) - set(wanted):
        return None
    selector = {**dict.fromkeys(set(there) - set(wanted)), **wanted}
    return {"metadata": {"uid": known["metadata"]["uid"]}, "spec": {"selector": selector}}


def _owners(obj: Mapping[str, Any]) -> list[str] | None:
    """The uids of the owners; None where nothing is said of them."""
    owners = (obj.get("metadata") or {}).get("ownerReferences")
    return None if owners is None else sorted(owner["uid"] for owner in owners)
