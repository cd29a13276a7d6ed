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
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modelyard_workloads.supervisor import Outcome
from modelyard_workloads.termination import checkpoint_fields
from modelyard_workloads.watchdog import DEADLINE_VARIABLE

INTERVAL_SECONDS = 5.0
LEAST_INTERVAL_SECONDS = 0.5
TIMEOUT_SECONDS = 5.0
_URL = "KUBEFLOW_TRAINER_SERVER_URL"
_CA = "KUBEFLOW_TRAINER_SERVER_CA_CERT"
_TOKEN_FILE = "KUBEFLOW_TRAINER_SERVER_TOKEN"  # noqa: S105 - the path of one
_PROGRESS_FIELDS = ("step", "totalSteps", "epoch", "samplesPerSecond", "stepSeconds", "phase")
_ANSWER_BYTES = 1 << 16


def interval(environment: Mapping[str, str]) -> float:
    """Seconds from one report to the next: three within the progress deadline, or the operator would take the pause
    between two of them for a standstill.
    """
    deadline = environment.get(DEADLINE_VARIABLE, "")
    third = int(deadline) / 3 if deadline.isdecimal() else INTERVAL_SECONDS
    return max(LEAST_INTERVAL_SECONDS, min(INTERVAL_SECONDS, third))


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


def report(outcome: Outcome, remaining: int | None) -> dict[str, Any]:
    """The body of one report, of what is known now; `remaining` in seconds."""
    progress = outcome.progress or {}
    total = progress.get("totalSteps", 0)
    status: dict[str, Any] = {
        "progressPercentage": min(100, 100 * progress.get("step", 0) // total) if total else 0,
        "metrics": [{"name": name, "value": f"{value:.6g}"} for name, value in progress.get("metrics", {}).items()],
        "lastUpdatedTime": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
    }
    if remaining is not None:
        status["estimatedRemainingSeconds"] = remaining
    body: dict[str, Any] = {"trainerStatus": status, "progress": {"tick": outcome.tick}}
    body["progress"] |= {name: progress[name] for name in _PROGRESS_FIELDS if name in progress}
    if outcome.checkpoint is not None:
        body["checkpoint"] = checkpoint_fields(outcome.checkpoint)
    if outcome.timing:
        body["timing"] = outcome.timing
    if outcome.stacks is not None:
        body["stacks"] = outcome.stacks
    return body


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_arguments: Any, **_keywords: Any) -> None:
        """The token is for one address only."""


class StatusReporter:
    """Posts a report every few seconds, with news or without: the answer may carry a directive. Sends the last one at
    the end.
    """

    def __init__(
        self,
        address: tuple[str, str, str],
        compose: Callable[[], dict[str, Any]],
        follow: Callable[[str], None],
        seconds: float = INTERVAL_SECONDS,
    ) -> None:
        """`address`: URL, file of the authority's certificate, file of the token. `compose` makes the body of a report,
        `follow` does what a directive asks for; both are called in the reporter's thread. `seconds`: from one report
        to the next. Raises OSError or ssl.SSLError when the certificate cannot be read, ValueError unless the URL is
        https.
        """
        url, ca_file, token_file = address
        if not url.startswith("https://"):
            raise ValueError(f"{_URL}={url!r} must start with https://, a token goes there")
        context = ssl.create_default_context(cafile=ca_file or None)
        # No proxies: the address is inside the cluster.
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context), _NoRedirect()
        )
        self._url = url
        self._token_file = Path(token_file)
        self._compose = compose
        self._follow = follow
        self._seconds = seconds
        self._followed = ""  # the id of the directive that was acted upon
        self._changed = threading.Condition()
        self._urgent = True
        self._closed = False
        self._complaint = ""
        self._thread = threading.Thread(target=self._work, name="status", daemon=True)
        self._thread.start()

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str], compose: Callable[[], dict[str, Any]], follow: Callable[[str], None]
    ) -> StatusReporter | None:
        """None when the operator asked for no reports, or when they cannot be sent (a line on stderr says why)."""
        url = environment.get(_URL, "")
        if not url:
            return None
        try:
            address = url, environment.get(_CA, ""), environment.get(_TOKEN_FILE, "")
            return cls(address, compose, follow, interval(environment))
        except (OSError, ValueError) as error:
            sys.stderr.write(f"progress is not reported: {error}\n")
            return None

    def send_now(self) -> None:
        """Do not wait for the next report to be due."""
        with self._changed:
            self._urgent = True
            self._changed.notify()

    def close(self) -> None:
        """Send the last report now and wait for it, but not longer than one timeout and a second."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(TIMEOUT_SECONDS + 1)

    def _work(self) -> None:
        next_at = 0.0
        while True:
            with self._changed:
                while not (self._closed or self._urgent) and time.monotonic() < next_at:
                    self._changed.wait(max(0.0, next_at - time.monotonic()))
                closed, self._urgent = self._closed, False
            self._post(self._compose(), last=closed)
            if closed:
                return
            next_at = time.monotonic() + self._seconds

    def _post(self, body: dict[str, Any], *, last: bool) -> None:
        try:
            token = self._token_file.read_text().strip()  # read anew: the kubelet rotates it
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
            request = urllib.request.Request(self._url, json.dumps(body).encode(), headers, method="POST")
            with self._opener.open(request, timeout=TIMEOUT_SECONDS) as response:
                answer = response.read(_ANSWER_BYTES)
            complaint = ""
            if not last:
                self._obey(json.loads(answer or b"{}"))
        except Exception as error:
            # Any error at all: a report is never worth a training. Said once, not every five seconds.
            complaint = f"progress report failed: {type(error).__name__}: {error}"
        if complaint and complaint != self._complaint:
            sys.stderr.write(f"{complaint}\n")
        self._complaint = complaint

    def _obey(self, answer: Any) -> None:
        """Act once for every id: the operator repeats itself until it sees the effect."""
        directive, identity = answer.get("directive"), answer.get("directiveId")
        if isinstance(directive, str) and isinstance(identity, str) and identity and identity != self._followed:
            self._followed = identity
            self._follow(directive)
