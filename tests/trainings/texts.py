"""Small trainings of BERT, and real prose for them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

SMALL = {
    "architecture": "tiny",
    "sequenceLength": 32,
    "vocabularySize": 512,
    "batchSize": 9,
    "maxSteps": 6,
    "learningRate": 1e-3,
    "evaluationFraction": 0.2,
}
# With initial weights, whose shape and tokenizer they are.
GIVEN = {name: value for name, value in SMALL.items() if name not in ("architecture", "vocabularySize")}
# Without dropout, and without Adam, which makes much of rounding errors in gradients near zero.
EXACT = {**SMALL, "dropout": 0, "optimizer": "sgd", "learningRate": 0.1}


def texts(count: int = 24) -> list[str]:
    """Real prose: topics of Python's help."""
    topics: dict[str, str] = import_module("pydoc_data.topics").topics
    return [topics[name][:3000] for name in sorted(topics)[:count]]


_NAMES = ["Ada", "Grace Hopper", "Alan Turing", "Edsger"]
_PLACES = ["Paris", "New York", "Rome", "San Jose"]


def sentence(number: int) -> list[tuple[str, str]]:
    """A sentence with a person and a place; who lives where is to be told by the words around."""
    name, place = _NAMES[number % 4].split(), _PLACES[number // 4 % 4].split()
    if number % 3 == 0:
        name, place = place, name  # strangely named people: the context decides
    rows = [(w, f"{'I' if i else 'B'}-PER") for i, w in enumerate(name)] + [("lives", "O"), ("in", "O")]
    return [*rows, *((w, f"{'I' if i else 'B'}-LOC") for i, w in enumerate(place)), (".", "O"), (f"No{number}", "O")]


def conll(numbers: range) -> str:
    return "-DOCSTART- O\n\n" + "\n".join("".join(f"{w} x {t}\n" for w, t in sentence(n)) for n in numbers)


def squad(numbers: range) -> dict[str, Any]:
    """Who owns what; the question names the thing, the answer is the owner."""
    owners, things = ["Ada", "Grace Hopper", "Alan", "Edsger"], ["boat", "red house", "book"]
    paragraphs = []
    for n in numbers:
        owner, thing = owners[n % 4], things[n // 4 % 3]
        context = f"In the year {1900 + n} there was news. {owner} owns the {thing}. It is well known."
        answers = [{"text": owner, "answer_start": context.index(owner)}]
        paragraphs.append(
            {"context": context, "qas": [{"id": n, "question": f"Who owns the {thing}?", "answers": answers}]}
        )
    return {"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]}
