"""Waiting until the service is Ready, or until it is clear that it will not be."""

import time
from collections.abc import Callable

from demo.api import ApiError
from demo.clock import Clock, seconds_text
from demo.errors import DemoError
from demo.installation import NAMESPACE
from demo.observation import Observer, Snapshot
from demo.words import is_ready, why_hopeless

DEADLINE_SECONDS = 20 * 60
LOOK_SECONDS = 1.0
PATIENCE_SECONDS = 5.0  # what is refused or failed may be told of the object as it was before this apply
ADVICE = f"""\
Look closer:  kubectl -n {NAMESPACE} describe mt,ms digits
              kubectl -n {NAMESPACE} logs -l app.kubernetes.io/instance=digits --tail=50
              kubectl -n {NAMESPACE} get events --sort-by=.lastTimestamp
Then, with the cause put right, `make demo` trains anew."""


def wait_until_ready(observer: Observer, clock: Clock, show: Callable[[Snapshot], None]) -> Snapshot:
    """Look every second and show it; the last look. Raises DemoError with the cause when waiting is in vain."""
    deadline, hopeless_since, problem = time.monotonic() + DEADLINE_SECONDS, 0.0, ""
    step = "train"
    while (now := time.monotonic()) < deadline:
        with clock.step(step):
            try:
                snapshot = observer.look()
            except ApiError as error:
                problem = str(error)
            else:
                show(snapshot)
                problem = _why_hopeless(snapshot)
                if snapshot.service is not None and is_ready(snapshot.service):
                    return snapshot
                step = "serve" if _is_trained(snapshot) else "train"
                hopeless_since = (hopeless_since or now) if problem else 0.0
                if problem and now - hopeless_since >= PATIENCE_SECONDS:
                    raise DemoError(f"{problem}\n\n{ADVICE}")
            time.sleep(max(0.0, LOOK_SECONDS - (time.monotonic() - now)))
    raise DemoError(f"the service was not Ready within {seconds_text(DEADLINE_SECONDS)}. {problem}\n\n{ADVICE}")


def _why_hopeless(snapshot: Snapshot) -> str:
    resources = (resource for resource in (snapshot.training, snapshot.service) if resource is not None)
    return next((why for why in map(why_hopeless, resources) if why), "")


def _is_trained(snapshot: Snapshot) -> bool:
    return ((snapshot.training or {}).get("status") or {}).get("phase") == "Succeeded"
