"""`python -m modelyard_workloads.serve`: the server of one model, configured by MODELYARD_CONFIG.

Exit codes: 0 after SIGTERM, 64 for a bad configuration, 65 when the model cannot be served.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
from contextlib import suppress

from modelyard_workloads.hardware import available_cores, openmp_environment
from modelyard_workloads.serve.batcher import InferenceThread
from modelyard_workloads.serve.config import InvalidConfig, ServeConfig, parse_config
from modelyard_workloads.serve.dataplane import DataPlane
from modelyard_workloads.serve.errors import LoadFailure
from modelyard_workloads.serve.loading import Loaded, load
from modelyard_workloads.serve.metrics import ServerMetrics
from modelyard_workloads.serve.server import Server
from modelyard_workloads.serve.termination import LogTail, write_termination_message
from modelyard_workloads.serve.wiring import loaded_model, serve

EX_USAGE, EX_DATAERR = 64, 65
# The inference thread needs the interpreter for microseconds between two kernels; with CPython's default of 5 ms it
# would wait that long for an event loop that is busy with requests.
_SWITCH_SECONDS = 0.0005
_NEW_OBJECTS = 20_000  # before the cycle collector looks at them; its 700 are those of few concurrent requests

log = logging.getLogger(__name__)


class ModelServer:
    """Everything of one process, wired together."""

    def __init__(self, config: ServeConfig) -> None:
        self.failure: LoadFailure | None = None
        self._config = config
        self._plane = DataPlane(config.model.name, config.model.version)
        self._metrics = ServerMetrics(config.model.name)
        self._thread = InferenceThread()
        self._server = Server(config, serve(self._plane, self._metrics, config), self._start_loading)

    def run(self) -> None:
        """Serve until told to end; `failure` tells whether the model was the reason."""
        self._server.run()

    def batch(self, requests: int, rows: int, waits: list[float], seconds: float) -> None:
        """A batch ran; see BatchObserver."""
        self._plane.statistics.batch(requests, rows, waits, seconds)
        self._metrics.batch(requests, rows, waits, seconds)

    def step(self, sequences: int, waits: list[float], seconds: float) -> None:
        """A step of a language model; see BatchObserver."""
        self._plane.statistics.step(sequences, waits, seconds)
        self._metrics.step(sequences, waits, seconds)

    def _start_loading(self) -> None:
        self._thread.start()
        loop = asyncio.get_running_loop()

        def job() -> None:
            gc.disable()  # torch alone has half a million objects, which stay: no collection needs to visit them
            try:
                outcome: Loaded | LoadFailure = load(self._config)
            except LoadFailure as failure:
                outcome = failure
            gc.freeze()
            gc.enable()
            with suppress(RuntimeError):  # the loop is closed: the server was told to end meanwhile
                loop.call_soon_threadsafe(self._loading_ended, outcome)

        self._thread.submit(job)

    def _loading_ended(self, outcome: Loaded | LoadFailure) -> None:
        if isinstance(outcome, LoadFailure):
            self.failure = outcome
            self._plane.failed()
            self._server.should_exit = True
            return
        manifest = outcome.artifact.manifest
        origin = (outcome.artifact.digest, manifest.training.step)
        model = loaded_model(outcome.runtime, origin, self._config, self._thread, (self, self._metrics))
        self._plane.loaded(model)
        self._metrics.loaded(self._config.model.version, model.digest, manifest.task, model.step, outcome.seconds)
        log.info("ready after %.2f s: model '%s', %s", outcome.seconds, self._plane.name, model.digest)


def tune_interpreter() -> None:
    """Settings of this process for short pauses: see the constants."""
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.set_threshold(_NEW_OBJECTS)


def main() -> int:
    """Configure, serve, and say why not when it fails."""
    tail = LogTail()
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        handlers=[logging.StreamHandler(), tail],
    )
    tail.setFormatter(logging.getLogger().handlers[0].formatter)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # its start and end are in our own words
    tune_interpreter()
    # One core is left to the event loop; what the pod's environment says already, stays.
    for name, value in openmp_environment(available_cores() - 1).items():
        os.environ.setdefault(name, value)
    try:
        config = parse_config(os.environ.get("MODELYARD_CONFIG", ""))
    except InvalidConfig as error:
        log.error("%s", error)
        write_termination_message("InvalidConfig", str(error), tail.text())
        return EX_USAGE
    server = ModelServer(config)
    server.run()
    if server.failure is not None:
        log.error("%s: %s", server.failure.reason, server.failure)
        write_termination_message(server.failure.reason, str(server.failure), tail.text())
        return EX_DATAERR
    return 0


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    # The inference thread may be inside torch: the interpreter's own end would pull it away underneath.
    os._exit(code)
