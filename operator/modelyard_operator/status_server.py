"""The TLS server that trainings post their progress to, in the TrainJob status protocol of Kubeflow Trainer.

POST …/namespaces/{namespace}/modeltrainings/{name}/status with a pod's projected token. The token is checked by
TokenReview for our audience, and the pod it is bound to must be rank 0 of the training's current attempt: a pod of
an attempt that was given up, or of another training, is refused. An unmodified Hugging Face Trainer speaks this
protocol (its KubeflowCallback); `progress` and `checkpoint` are additions of the bundled trainers.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from datetime import UTC, datetime
from time import monotonic
from typing import Annotated, Any

from aiohttp import web
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from modelyard_operator.cluster import ApiError, Cluster
from modelyard_operator.objects import API_VERSION, TRAINING, is_owned_by, pod_name
from modelyard_operator.plan import Key, Object, Report
from modelyard_operator.store import Store
from modelyard_operator.training.environment import STATUS_AUDIENCE
from modelyard_operator.workqueue import WorkQueue

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 64 * 1024
MAX_METRICS = 64
REVIEW_SECONDS = 60.0
"""How long the answer to a TokenReview is believed."""
MAX_REVIEWS = 10_000

_Whole = Annotated[int, BeforeValidator(lambda v: round(v) if isinstance(v, float) else v)]


class _Posted(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="ignore")


class _Metric(_Posted):
    name: Annotated[str, Field(max_length=128)]
    value: Annotated[str, Field(max_length=128)]


class _TrainerStatus(_Posted):
    progress_percentage: Annotated[_Whole, Field(ge=0, le=100)] | None = None
    estimated_remaining_seconds: Annotated[_Whole, Field(ge=0)] | None = None
    metrics: Annotated[list[_Metric], Field(max_length=MAX_METRICS)] = []


class _Progress(_Posted):
    step: Annotated[int, Field(ge=0)] | None = None
    total_steps: Annotated[int, Field(ge=0)] | None = None
    epoch: float | None = None
    samples_per_second: float | None = None


class _Checkpoint(_Posted):
    step: Annotated[int, Field(ge=0)]
    uri: Annotated[str, Field(max_length=1024)]
    time: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$")]
    size_bytes: Annotated[int, Field(ge=0)]


class _Body(_Posted):
    trainer_status: _TrainerStatus
    progress: _Progress = _Progress()
    checkpoint: _Checkpoint | None = None


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
        if refused := self._not_rank_zero(training, user, attempt):
            return _answer(403, refused)
        try:
            body = _Body.model_validate_json(await request.read())
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
            return _answer(400, f"not a trainer status: {wrong}")
        self._store.reports[key] = self._report(self._store.reports.get(key), attempt, body)
        self._queue.add(key)
        return web.json_response({"directive": "continue"})

    def _not_rank_zero(self, training: Object, user: dict[str, Any], attempt: int) -> str:
        """Why this user may not report for the training; empty when it may. A namesake of the past may not."""
        meta = training["metadata"]
        extra = user.get("extra") or {}
        name = next(iter(extra.get("authentication.kubernetes.io/pod-name") or ()), "")
        uid = next(iter(extra.get("authentication.kubernetes.io/pod-uid") or ()), "")
        if not str(user.get("username", "")).startswith(f"system:serviceaccount:{meta['namespace']}:"):
            return "the token belongs to another namespace"
        if name != pod_name(meta["name"], attempt, 0):
            return f"only rank 0 of the current attempt, {attempt}, reports"
        known = self._store.get("Pod", meta["namespace"], name)
        if known is None or known["metadata"]["uid"] != uid or not is_owned_by(known, training):
            return "the token belongs to a pod of the past"
        return ""

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

    @staticmethod
    def _report(before: Report | None, attempt: int, body: _Body) -> Report:
        now = datetime.now(UTC)
        status = body.trainer_status.model_dump(by_alias=True, exclude_none=True)
        progress = body.progress.model_dump(by_alias=True, exclude_none=True)
        same = before is not None and before.attempt == attempt
        mark = (progress.get("step"), status.get("progressPercentage"))
        moved = not same or before is None or mark != _mark(before)
        checkpoint = body.checkpoint.model_dump(by_alias=True) if body.checkpoint else None
        return Report(
            attempt=attempt,
            received=now,
            advanced=now if moved or before is None else before.advanced,
            trainer_status=status,
            progress=progress,
            checkpoint=checkpoint or (before.checkpoint if same and before else None),
        )


def _mark(report: Report) -> tuple[Any, Any]:
    return report.progress.get("step"), report.trainer_status.get("progressPercentage")


def _answer(code: int, message: str) -> web.Response:
    return web.json_response({"error": message}, status=code)
