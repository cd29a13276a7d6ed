"""A training as a run of Weights & Biases, where its variables are set and its package is in the image.

The variables are its own: WANDB_API_KEY, WANDB_BASE_URL, WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY, WANDB_DIR and all the
others. https://docs.wandb.ai/models/track/environment-variables
"""

from __future__ import annotations

import importlib.util
import logging
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from modelyard_workloads.config import TrainingConfig
from modelyard_workloads.exits import Ending
from modelyard_workloads.tracked_run import Point, TrackedRun

logger = logging.getLogger(__name__)

KEY, MODE = "WANDB_API_KEY", "WANDB_MODE"


class WandbRun(TrackedRun):
    """The run, by the package itself; its id is the training's uid."""

    tracker = "Weights & Biases"

    def __init__(self, config: TrainingConfig, environment: Mapping[str, str]) -> None:
        self._config = config
        self._environment = environment
        self._run: Any = None
        super().__init__()

    @classmethod
    def wanted(cls, config: TrainingConfig, environment: Mapping[str, str]) -> WandbRun | None:
        """None where nothing asks for it, and where the package is missing, which the log says."""
        if not (environment.get(KEY) or environment.get(MODE)) or environment.get(MODE) == "disabled":
            return None
        if importlib.util.find_spec("wandb") is None:
            logger.warning("%s or %s is set, and wandb is not in this image: build one that has it", KEY, MODE)
            return None
        return cls(config, environment)

    def begin(self) -> None:
        import wandb

        training = self._config.training
        self._run = wandb.init(
            project=self._environment.get("WANDB_PROJECT") or "modelyard",
            dir=self._environment.get("WANDB_DIR") or tempfile.gettempdir(),
            id=training.uid,
            name=training.name,
            resume="allow",
            job_type=self._config.task,
            config=self._config.parameters.model_dump(by_alias=True, mode="json"),
            settings=wandb.Settings(console="off", silent=True, disable_git=True, save_code=False),
        )

    def tell(self, points: Sequence[Point]) -> None:
        for step, values in points:
            self._run.log(values, step=step)

    def finish(self, ending: Ending) -> None:
        """Only when its process has ended is all of it in the file or away: `Run.finish` waits for neither.

        The package would wait for it in an atexit hook, which a rank never runs: it ends with `os._exit`.
        """
        import wandb

        if ending == "stopped":
            self._run.mark_preempting()
        code = 0 if ending == "complete" else 1
        self._run.finish(exit_code=code)
        wandb.teardown(exit_code=code)
