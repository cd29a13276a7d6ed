"""What every trainer understands that reads rows of text, tables or JSON. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from modelyard_workloads.parameters.base import Parameters


class RowParameters(Parameters):
    """What to do with rows that cannot be read."""

    on_bad_row: Literal["fail", "skip"] = Field(
        "fail", description="fail: a row that cannot be read ends the training, with its file and line; skip: count it."
    )
    max_bad_rows: int = Field(
        100, ge=0, description="With onBadRow: skip, how many rows may be left out before the training fails after all."
    )
