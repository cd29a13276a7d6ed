"""The TLS server that trainings post their progress to, in the TrainJob status protocol of Kubeflow Trainer.

POST …/namespaces/{namespace}/modeltrainings/{name}/status with a pod's projected token. The token is checked by
TokenReview for our audience, and the pod it is bound to must belong to the training's current attempt: a pod of an
attempt that was given up, or of another training, is refused. An unmodified Hugging Face Trainer speaks this protocol
(its KubeflowCallback); `progress`, `checkpoint`, `timing` and `stacks` are additions of the bundled trainers.

The answer is `{"directive": "continue" | "checkpoint" | "dumpStacks", "directiveId": "…"}`; the id is there with all
but continue, and a launcher acts once an id. Node 0 alone tells of progress. The launchers of the other nodes may post
too: what they say is checked and not kept, and they hear the directive, so that every rank can be asked for its stacks.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from modelyard_operator.cluster import ApiError, Cluster
from modelyard_operator.objects import API_VERSION, TRAINING, is_owned_by, pod_name
from modelyard_operator.plan import Key, Object
from modelyard_operator.store import Store
from modelyard_operator.training.directives import instruction_for
from modelyard_operator.training.environment import STATUS_AUDIENCE
from modelyard_operator.training.report import Posted, taken
from modelyard_operator.workqueue import WorkQueue

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 64 * 1024
REVIEW_SECONDS = 60.0
"""How long the answer to a TokenReview is believed."""
MAX_REVIEWS = 10_000


class StatusServer:
    """Takes reports into the store and wakes the training they belong to."""

    def __init__(self, cluster: Cluster, store: Store, queue: WorkQueue[Key]) -> None:
        self._cluster = cluster
        self._store = store
        self._queue = queue
        self._reviews: OrderedDict[str, tuple[float, dict[str, Any] | None]] = OrderedDict()

    def app(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        path = f"/apis/{API_VERSION}/namespaces/{{namespace}}/modeltrainings/{{name}}/status"
        app.router.add_post(path, self._post)
        return app

    async def _post(self, request: web.Request) -> web.Response:
        key = Key(TRAINING, request.match_info["namespace"], request.match_info["name"])
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or not token:
            return _answer(401, "a bearer token is required")
        try:
            user = await self._review(token)
        except ApiError as error:
            log.warning("token review: %s", error)
            return _answer(503, "the token could not be checked; try again")
        if user is None:
            return _answer(401, "the token is not valid for this server")
        training = self._store.get(*key)
        if training is None:
            return _answer(404, "there is no such training")
        attempt = int((training.get("status") or {}).get("attempt") or 1)
        rank, refused = self._rank(training, user, attempt)
        if rank is None:
            return _answer(403, refused)
        try:
            body = Posted.model_validate_json(await request.read())
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
            return _answer(400, f"not a trainer status: {wrong}")
        if rank == 0:
            self._store.reports[key] = taken(self._store.reports.get(key), attempt, body, datetime.now(UTC))
            self._queue.add(key)
        return web.json_response(instruction_for(training).as_json())

    def _rank(self, training: Object, user: dict[str, Any], attempt: int) -> tuple[int | None, str]:
        """(the node of the current attempt that this user is, "") or (None, why it is none)."""
        meta = training["metadata"]
        extra = user.get("extra") or {}
        name = next(iter(extra.get("authentication.kubernetes.io/pod-name") or ()), "")
        uid = next(iter(extra.get("authentication.kubernetes.io/pod-uid") or ()), "")
        if not str(user.get("username", "")).startswith(f"system:serviceaccount:{meta['namespace']}:"):
            return None, "the token belongs to another namespace"
        prefix, _, rank = name.rpartition("-")
        if not rank.isdecimal() or f"{prefix}-{rank}" != pod_name(meta["name"], attempt, int(rank)):
            return None, f"only pods of the current attempt, {attempt}, report"
        known = self._store.get("Pod", meta["namespace"], name)
        if known is None or known["metadata"]["uid"] != uid or not is_owned_by(known, training):
            return None, "the token belongs to a pod of the past"
        return int(rank), ""

    async def _review(self, token: str) -> dict[str, Any] | None:
        """The user that a token stands for, or None; answers are kept by the token's hash, never the token."""
        name = hashlib.sha256(token.encode()).hexdigest()
        until, user = self._reviews.get(name, (0.0, None))
        if monotonic() < until:
            return user
        review = await self._cluster.create(
            {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenReview",
                "spec": {"token": token, "audiences": [STATUS_AUDIENCE]},
            }
        )
        status = review.get("status") or {}
        valid = status.get("authenticated") and STATUS_AUDIENCE in (status.get("audiences") or ())
        user = status.get("user") if valid else None
        self._reviews[name] = (monotonic() + REVIEW_SECONDS, user)
        while len(self._reviews) > MAX_REVIEWS:
            self._reviews.popitem(last=False)
        return user


def _answer(code: int, message: str) -> web.Response:
    return web.json_response({"error": message}, status=code)
