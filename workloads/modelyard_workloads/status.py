"""Tells the operator how far the training is: Kubeflow's TrainJob status protocol, over HTTPS, from a thread of its
own.

Whatever happens to a report never disturbs the training: one attempt, five seconds, and the next report is newer
anyway.
"""

from __future__ import annotations

import json
import ssl
import sys
import threading
import time
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modelyard_workloads.termination import checkpoint_fields

INTERVAL_SECONDS = 5.0
TIMEOUT_SECONDS = 5.0
_URL = "KUBEFLOW_TRAINER_SERVER_URL"
_CA = "KUBEFLOW_TRAINER_SERVER_CA_CERT"
_TOKEN_FILE = "KUBEFLOW_TRAINER_SERVER_TOKEN"  # noqa: S105 - the path of one
_PROGRESS_FIELDS = ("step", "totalSteps", "epoch", "samplesPerSecond", "phase")


class Estimator:
    """Seconds to go, from the speed since this process started (pauses for evaluation and checkpoints included)."""

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None

    def remaining(self, step: int, total_steps: int, now: float) -> int | None:
        """None until there is a speed."""
        if self._first is None:
            self._first = (step, now)
        first_step, first_time = self._first
        if step <= first_step:
            return None
        return round((total_steps - step) * (now - first_time) / (step - first_step))


def report(
    progress: Mapping[str, Any] | None, checkpoint: Mapping[str, Any] | None, remaining: int | None
) -> dict[str, Any]:
    """The body of one report; `progress` and `checkpoint` are events of rank 0."""
    progress = progress or {}
    total = progress.get("totalSteps", 0)
    status: dict[str, Any] = {
        "progressPercentage": min(100, 100 * progress.get("step", 0) // total) if total else 0,
        "metrics": [{"name": name, "value": f"{value:.6g}"} for name, value in progress.get("metrics", {}).items()],
        "lastUpdatedTime": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
    }
    if remaining is not None:
        status["estimatedRemainingSeconds"] = remaining
    body: dict[str, Any] = {"trainerStatus": status}
    if progress:
        body["progress"] = {name: progress[name] for name in _PROGRESS_FIELDS if name in progress}
    if checkpoint is not None:
        body["checkpoint"] = checkpoint_fields(checkpoint)
    return body


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_arguments: Any, **_keywords: Any) -> None:
        """The token is for one address only."""


class StatusReporter:
    """Posts the newest report, at most one every five seconds, the last one at the end."""

    def __init__(self, url: str, ca_file: str, token_file: str) -> None:
        """Raises OSError or ssl.SSLError when the certificate cannot be read, ValueError unless the URL is https."""
        if not url.startswith("https://"):
            raise ValueError(f"{_URL}={url!r} must start with https://, a token goes there")
        context = ssl.create_default_context(cafile=ca_file or None)
        # No proxies: the address is inside the cluster.
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context), _NoRedirect()
        )
        self._url = url
        self._token_file = Path(token_file)
        self._changed = threading.Condition()
        self._pending: dict[str, Any] | None = None
        self._closed = False
        self._complaint = ""
        self._thread = threading.Thread(target=self._work, name="status", daemon=True)
        self._thread.start()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> StatusReporter | None:
        """None when the operator asked for no reports, or when they cannot be sent (a line on stderr says why)."""
        url = environment.get(_URL, "")
        if not url:
            return None
        try:
            return cls(url, environment.get(_CA, ""), environment.get(_TOKEN_FILE, ""))
        except (OSError, ValueError) as error:
            sys.stderr.write(f"progress is not reported: {error}\n")
            return None

    def offer(self, body: dict[str, Any]) -> None:
        """Send this, unless something newer comes before the next report is due."""
        with self._changed:
            self._pending = body
            self._changed.notify()

    def close(self, body: dict[str, Any]) -> None:
        """Send the last report now and wait for it, but not longer than one timeout and a second."""
        with self._changed:
            self._pending = body
            self._closed = True
            self._changed.notify()
        self._thread.join(TIMEOUT_SECONDS + 1)

    def _work(self) -> None:
        next_at = 0.0
        while True:
            with self._changed:
                while not self._closed and (self._pending is None or time.monotonic() < next_at):
                    wait = None if self._pending is None else max(0.0, next_at - time.monotonic())
                    self._changed.wait(wait)
                body, self._pending, closed = self._pending, None, self._closed
            if body is not None:
                self._post(body)
            if closed:
                return
            next_at = time.monotonic() + INTERVAL_SECONDS

    def _post(self, body: dict[str, Any]) -> None:
        try:
            token = self._token_file.read_text().strip()  # read anew: the kubelet rotates it
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
            request = urllib.request.Request(self._url, json.dumps(body).encode(), headers, method="POST")
            with self._opener.open(request, timeout=TIMEOUT_SECONDS) as response:
                response.read(1 << 16)
            complaint = ""
        except Exception as error:
            # Any error at all: a report is never worth a training. Said once, not every five seconds.
            complaint = f"progress report failed: {type(error).__name__}: {error}"
        if complaint and complaint != self._complaint:
            sys.stderr.write(f"{complaint}\n")
        self._complaint = complaint
