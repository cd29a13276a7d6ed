"""The process that explains: requests one after the other, as long as the server lives."""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
from pathlib import Path
from time import monotonic
from typing import BinaryIO

import torch

from modelyard_workloads.artifact import read_artifact
from modelyard_workloads.serve.config import parse_config
from modelyard_workloads.serve.errors import InvalidInput, without_text
from modelyard_workloads.serve.explain.explainers import Explainer, build_explainer
from modelyard_workloads.serve.explain.explanation import Explanation
from modelyard_workloads.serve.explain.frames import read_request, write_explanations, write_ready, write_refusal
from modelyard_workloads.serve.explain.gradients import Effort
from modelyard_workloads.serve.tensors import Array

log = logging.getLogger(__name__)

_Request = tuple[dict[str, Array], float]  # arrays, and when the answer must be there
_SPARE = 0.8  # of a request's time: a late answer is none


def run(config_text: str) -> None:
    """Until the server ends."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the answers
    requests: queue.SimpleQueue[_Request] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(sys.stdin.buffer, requests), daemon=True).start()
    config = parse_config(config_text)
    assert config.explain is not None
    explainer: Explainer | None = None
    try:
        explainer = _load(config.model.path, config.model.digest)
    except Exception as error:  # whoever asks tries it again, and is told
        log.error("cannot load the model", exc_info=without_text(error))
    write_ready(answers)
    while True:
        arrays, deadline = requests.get()
        try:
            explainer = explainer or _load(config.model.path, config.model.digest)
            found = explain(explainer, arrays, Effort(config.explain.steps, deadline))
        except InvalidInput as error:
            write_refusal(answers, str(error), invalid=True)
        except Exception as error:
            log.error("an explanation failed", exc_info=without_text(error))
            write_refusal(answers, "the model failed on this request", invalid=False)
        else:
            write_explanations(answers, found)


def _load(path: Path, digest: str) -> Explainer:
    began = monotonic()
    explainer = build_explainer(read_artifact(path, digest))
    log.info("ready to explain after %.2f s", monotonic() - began)
    return explainer


def explain(explainer: Explainer, arrays: dict[str, Array], effort: Effort) -> list[Explanation]:
    """Every row; each has its share of the time that is left."""
    rows, found = len(next(iter(arrays.values()))), []
    for row in range(rows):
        now = monotonic()
        share = now + _SPARE * (effort.deadline - now) / (rows - row)
        found.append(explainer.explain(arrays, row, Effort(effort.steps, share)))
    return found


def _receive(stream: BinaryIO, requests: queue.SimpleQueue[_Request]) -> None:
    """Put requests in the queue; when the server is gone, end in the midst of whatever is computed."""
    try:
        while True:
            arrays, seconds = read_request(stream)
            requests.put((arrays, monotonic() + seconds))
    finally:
        os._exit(0)
