"""Waiting until the service is Ready, or until it is clear that it will not be."""

import time
from collections.abc import Callable

from demo.api import ApiError
from demo.clock import Clock, seconds_text
from demo.errors import DemoError
from demo.installation import NAMESPACE
from demo.observation import Observer, Snapshot
from demo.words import Object, is_ready, why_hopeless, why_stalled

DEADLINE_SECONDS = 20 * 60
LOOK_SECONDS = 1.0
PATIENCE_SECONDS = 5.0  # what is refused or failed may be told of the object as it was before this apply
STALL_SECONDS = 120.0  # what stalls may still resolve, such as a full cluster
ADVICE = f"""\
Look closer:  kubectl -n {NAMESPACE} describe mt,ms digits
              kubectl -n {NAMESPACE} logs -l app.kubernetes.io/instance=digits --tail=50
              kubectl -n {NAMESPACE} get events --sort-by=.lastTimestamp
Then, with the cause put right, `make demo` trains anew."""


def wait_until_ready(observer: Observer, clock: Clock, show: Callable[[Snapshot], None]) -> Snapshot:
    """Look every second and show it; the last look. Raises DemoError with the cause when waiting is in vain."""
    deadline, problem = time.monotonic() + DEADLINE_SECONDS, ""
    hopeless, stalled = _Lasting(PATIENCE_SECONDS), _Lasting(STALL_SECONDS)
    step = "train"
    while (now := time.monotonic()) < deadline:
        with clock.step(step):
            try:
                snapshot = observer.look()
            except ApiError as error:
                problem = str(error)
            else:
                show(snapshot)
                problem = _first(why_hopeless, snapshot) or _first(why_stalled, snapshot)
                if snapshot.service is not None and is_ready(snapshot.service):
                    return snapshot
                step = "serve" if _is_trained(snapshot) else "train"
                if hopeless.lasts(_first(why_hopeless, snapshot)) or stalled.lasts(_first(why_stalled, snapshot)):
                    raise DemoError(f"{problem}\n\n{ADVICE}")
            time.sleep(max(0.0, LOOK_SECONDS - (time.monotonic() - now)))
    raise DemoError(f"the service was not Ready within {seconds_text(DEADLINE_SECONDS)}. {problem}\n\n{ADVICE}")


class _Lasting:
    """Whether something has been so for a while."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: float | None = None

    def lasts(self, why: str) -> bool:
        """Told at each look why it is so; empty: it is not."""
        if not why:
            self._since = None
            return False
        self._since = self._since or time.monotonic()
        return time.monotonic() - self._since >= self._seconds


def _first(why: Callable[[Object], str], snapshot: Snapshot) -> str:
    """The first resource's answer that is not empty."""
    resources = (resource for resource in (snapshot.training, snapshot.service) if resource is not None)
    return next((answer for answer in map(why, resources) if answer), "")


def _is_trained(snapshot: Snapshot) -> bool:
    return ((snapshot.training or {}).get("status") or {}).get("phase") == "Succeeded"
