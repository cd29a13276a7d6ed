"""Curves for TensorBoard, beside the checkpoints: `tensorboard --logdir <output>/tensorboard`.

Rank 0 writes a file an attempt. A resumed run takes back the points after the step that it resumes from (TensorBoard's
`purge_step`), so that every step is drawn once.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter

from modelyard_workloads.exits import Ending

logger = logging.getLogger(__name__)

_FLUSH_SECONDS = 10


class Curves:
    """The event file of one attempt. A volume that refuses ends the curves, not the training."""

    def __init__(self, directory: Path, resumed_step: int) -> None:
        self._directory = directory
        self._resumed_step = resumed_step
        self._writer: SummaryWriter | None = None
        self._ended = False

    def draw(self, step: int, values: Mapping[str, float]) -> None:
        """One point of every curve."""
        if self._ended:
            return
        try:
            writer = self._writer = self._writer or self._open()
            for name, value in values.items():
                writer.add_scalar(name, value, step)
        except OSError as error:
            self._stop(error)

    def close(self, _ending: Ending) -> None:
        """Flush, and write no more."""
        self._ended = True
        try:
            if self._writer is not None:
                self._writer.close()
        except OSError as error:
            self._stop(error)

    def _open(self) -> SummaryWriter:
        """With the first point: importing TensorBoard must not delay the first step."""
        from torch.utils.tensorboard.writer import SummaryWriter

        return SummaryWriter(str(self._directory), purge_step=self._resumed_step + 1, flush_secs=_FLUSH_SECONDS)

    def _stop(self, error: OSError) -> None:
        logger.warning("no curves for TensorBoard are written: %s", error)
        self._ended = True
