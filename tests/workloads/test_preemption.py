"""SIGTERM at any moment: exit 75 and nothing lost, or the training was complete; never a success that is none.

The moments are drawn at random; PREEMPTIONS says how many (the long form: 50).
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from trainings.pods import SMALL, Pod, configuration, weights_digest

ROUNDS = int(os.environ.get("PREEMPTIONS", "5"))
PARAMETERS = {**SMALL, "epochs": 4}
EVERY_SECOND = {"everySteps": None, "everySeconds": 1, "keepLast": 2, "resume": "Auto"}


def begun(pod: Pod, moment: str) -> bool:
    """Is the pod at this moment of its life?"""
    children = Path(f"/proc/{pod.process.pid}/task/{pod.process.pid}/children")
    return {
        "at once": catches_sigterm(pod.process.pid),
        "ranks exist": not children.exists() or bool(children.read_text()),
        "training": bool(pod.events("started")),
        "evaluating": bool(pod.events("evaluation")),
        "saving": bool(pod.events("checkpoint")),
    }[moment]


def catches_sigterm(pid: int) -> bool:
    """Has the interpreter come so far? As process 1 of a pod it would only ignore the signal until then."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1)
    return False


def ended(pod: Pod) -> bool:
    return pod.process.poll() is not None


@pytest.mark.timeout(60 + 60 * ROUNDS)
def test_at_any_moment(tmp_path: Path) -> None:
    chance = random.Random(5)
    output = tmp_path / "out"
    moments = ["at once", "ranks exist", "training", "evaluating", "saving"]
    reached, attempt = 0, 0
    while attempt < ROUNDS:
        attempt += 1
        moment = moments[attempt - 1] if attempt <= len(moments) else chance.choice(moments)
        pod = Pod(tmp_path, configuration(output, PARAMETERS, attempt=attempt, checkpoint=EVERY_SECOND))
        pod.wait_for(lambda pod=pod, moment=moment: ended(pod) or begun(pod, moment))  # type: ignore[misc]
        time.sleep(chance.uniform(0, 0.5))  # the property holds at any moment: this only spreads them
        pod.process.send_signal(signal.SIGTERM)
        code = pod.wait(180)
        message = pod.termination
        if code == 0:
            assert message["result"]["step"] == message["result"]["totalSteps"]
            break
        assert (code, message["failure"].get("reason")) == (75, "Checkpointed"), pod.text
        assert "result" not in message
        assert not any(path.name.startswith("damaged") for path in output.glob("checkpoints/*"))
        resumed = [event["step"] for event in pod.events("resumed")]
        assert not resumed or resumed[0] >= reached  # no step was lost
        done = [event["step"] for event in pod.events("progress")]
        saved = message.get("checkpoint", {}).get("step", 0)
        assert saved >= max(done, default=0)
        reached = max(reached, saved)
    final = Pod(tmp_path, configuration(output, PARAMETERS, attempt=attempt + 1, checkpoint=EVERY_SECOND))
    assert final.wait(180) == 0, final.text
    undisturbed = Pod(tmp_path, configuration(tmp_path / "undisturbed", PARAMETERS))
    assert undisturbed.wait(180) == 0, undisturbed.text
    assert weights_digest(final.termination, output) == weights_digest(
        undisturbed.termination, tmp_path / "undisturbed"
    )
