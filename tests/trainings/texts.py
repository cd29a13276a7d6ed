"""Small trainings of BERT, and real prose for them."""

from __future__ import annotations

from importlib import import_module

SMALL = {
    "architecture": "tiny",
    "sequenceLength": 32,
    "vocabularySize": 512,
    "batchSize": 9,
    "maxSteps": 6,
    "learningRate": 1e-3,
    "evaluationFraction": 0.2,
}
# Without dropout, and without Adam, which makes much of rounding errors in gradients near zero.
EXACT = {**SMALL, "dropout": 0, "optimizer": "sgd", "learningRate": 0.1}


def texts(count: int = 24) -> list[str]:
    """Real prose: topics of Python's help."""
    topics: dict[str, str] = import_module("pydoc_data.topics").topics
    return [topics[name][:3000] for name in sorted(topics)[:count]]
