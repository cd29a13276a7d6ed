"""The termination message: what the operator reads when the pod has ended. JSON, at most 4,096 bytes (the kubelet's
limit).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelyard_workloads.supervisor import Outcome

LIMIT = 4096
MESSAGE_LIMIT = 1024
TAIL_LIMIT = 2048
PATH_VARIABLE = "MODELYARD_TERMINATION_LOG"
DEFAULT_PATH = "/dev/termination-log"
_CHECKPOINT_FIELDS = ("step", "uri", "time", "sizeBytes", "saveSeconds")


def message(outcome: Outcome) -> dict[str, Any]:
    """What is known of how the ranks ended; see the operator's reading of it."""
    body: dict[str, Any] = {}
    if outcome.failure is None:
        if outcome.result is not None:
            body["result"] = outcome.result
    else:
        failure = outcome.failure
        body["failure"] = {
            "rank": failure.rank,
            "exitCode": failure.exit_code,
            "signal": failure.signal,
            "exceptionType": failure.exception_type,
            "message": clip(failure.message, MESSAGE_LIMIT, keep_end=False),
            "logTail": clip("\n".join(outcome.log_tail), TAIL_LIMIT, keep_end=True),
        }
        if failure.reason:
            body["failure"]["reason"] = failure.reason
    if outcome.progress is not None and outcome.progress.get("step"):
        body["step"] = outcome.progress["step"]
    if outcome.checkpoint is not None:
        body["checkpoint"] = checkpoint_fields(outcome.checkpoint)
        body["step"] = max(body.get("step", 0), outcome.checkpoint.get("step", 0))
    if outcome.timing:
        body["timing"] = outcome.timing
    if outcome.stacks is not None:
        body["stacks"] = {name: value for name, value in outcome.stacks.items() if name != "digest"}  # in logTail
    return body


def checkpoint_fields(event: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a checkpoint event that the status shows."""
    return {name: event[name] for name in _CHECKPOINT_FIELDS if name in event}


def encode(body: dict[str, Any]) -> bytes:
    """At most LIMIT bytes: the log's tail is shortened first, then the message, then metrics of artifacts are left
    out.
    """
    data = _dump(body)
    for name, keep_end in (("logTail", True), ("message", False)):
        while len(data) > LIMIT and body.get("failure", {}).get(name):
            text = body["failure"][name]
            shorter = max(0, len(text.encode()) - max(16, len(data) - LIMIT))
            body = {**body, "failure": {**body["failure"], name: clip(text, shorter, keep_end=keep_end)}}
            data = _dump(body)
    if len(data) > LIMIT and "result" in body:
        artifacts = [{**artifact, "metrics": {}} for artifact in body["result"].get("artifacts", [])]
        data = _dump({**body, "result": {**body["result"], "artifacts": artifacts}})
    return data


def write(body: dict[str, Any], environment: Mapping[str, str]) -> None:
    """Write the message where the kubelet looks; without such a file (outside a pod) a line on stderr says so."""
    path = Path(environment.get(PATH_VARIABLE) or DEFAULT_PATH)
    try:
        path.write_bytes(encode(body))
    except OSError as error:
        sys.stderr.write(f"no termination message: {error}\n")


def clip(text: str, limit: int, *, keep_end: bool) -> str:
    """At most `limit` bytes of UTF-8, without cutting a character in two."""
    data = text.encode()
    if len(data) <= limit:
        return text
    if limit <= 0:
        return ""
    return (data[-limit:] if keep_end else data[:limit]).decode(errors="ignore")


def _dump(body: dict[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
