"""`example://clicks`: who clicks on what, from a generator whose probabilities are known.

So the best possible AUC is known too: that of the true probabilities, which are in the column `probability` (no
feature: it would be the answer). Three things decide, and each needs another part of a model:

    country x device        a table of effects with no marginal ones: only a cross can know it
    user . item             low-rank tastes, sparse: embeddings
    price, hour             a smooth optimum: a network, not a line
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SEED = 20240607
SAMPLES, HELD_OUT = 120_000, 30_000
USERS, ITEMS, RANK = 200, 150, 2
COUNTRIES = ["br", "cn", "de", "fr", "in", "jp", "ke", "mx", "ng", "us"]
DEVICES = ["desktop", "phone", "tablet", "tv"]


def write(directory: Path) -> None:
    """Write train/ and test/ as Parquet."""
    import pyarrow
    from pyarrow import parquet

    columns = generate(SAMPLES + HELD_OUT, SEED)
    for name, part in (("train", slice(0, SAMPLES)), ("test", slice(SAMPLES, None))):
        (directory / name).mkdir()
        table = pyarrow.table({column: values[part] for column, values in columns.items()})
        parquet.write_table(table, directory / name / "clicks.parquet", row_group_size=16_384)


def generate(count: int, seed: int) -> dict[str, NDArray[np.generic]]:
    """The columns of `count` samples."""
    world = np.random.default_rng(SEED)  # what people like does not depend on the sample
    tastes = world.normal(size=(USERS, RANK))
    kinds = world.normal(size=(ITEMS, RANK))
    pairs = world.normal(size=(len(COUNTRIES), len(DEVICES)))
    pairs -= pairs.mean(axis=0) + pairs.mean(axis=1, keepdims=True) - pairs.mean()
    popular = world.normal(scale=0.4, size=ITEMS)

    draw = np.random.default_rng(seed)
    user = np.minimum((USERS * draw.random(count) ** 1.5).astype(np.int64), USERS - 1)
    item = np.minimum((ITEMS * draw.random(count) ** 2).astype(np.int64), ITEMS - 1)
    country = draw.integers(len(COUNTRIES), size=count)
    device = draw.integers(len(DEVICES), size=count)
    hour = draw.integers(24, size=count)
    price = np.round(draw.lognormal(3, 1, size=count), 2)
    logit = (
        -1.6
        + popular[item]
        + 1.2 * pairs[country, device] / pairs.std()
        + 1.0 * (tastes[user] * kinds[item]).sum(axis=1) / np.sqrt(RANK)
        + 0.5 * np.cos((hour - 20) * np.pi / 12)
        - 0.4 * (np.log(price) - 3) ** 2
    )
    probability = 1 / (1 + np.exp(-logit))
    return {
        "clicked": (draw.random(count) < probability).astype(np.int8),
        "user": user,
        "item": item,
        "country": np.array(COUNTRIES)[country],
        "device": np.array(DEVICES)[device],
        "hour": hour,
        "price": price,
        "probability": probability,
    }
