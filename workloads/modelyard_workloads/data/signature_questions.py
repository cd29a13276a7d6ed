"""`example://python-questions`: questions about functions of the standard library, in SQuAD's JSON.

The text is a real signature and docstring; the question is for the default of a parameter, for the parameter that has
a default, or for the name. Every answer is in the text by construction: the best score is 1. train.json and test.json;
a fifth of the functions, by name, is for the test.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modelyard_workloads.data.corpus import Docstring, is_held_out, python_docstrings

_DEFAULT = re.compile(r"(\w+)=('[^']*'|[\w.+-]+)(?=[,)])")
_LONGEST = 300  # characters of a docstring


def write(directory: Path) -> None:
    """The files of the example."""
    parts: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    for doc in python_docstrings():
        context = f"{doc.signature}. {doc.text[:_LONGEST]}"
        questions = [
            {"id": f"{doc.module}.{doc.name}/{number}", "question": asked, "answers": [answer]}
            for number, (asked, answer) in enumerate(_questions(doc, context))
        ]
        if questions:
            held_out = is_held_out(f"{doc.module}.{doc.name}", 0.2)
            parts[held_out].append({"title": doc.module, "paragraphs": [{"context": context, "qas": questions}]})
    for held_out, name in ((False, "train"), (True, "test")):
        document = {"version": "1.1", "data": parts[held_out]}
        (directory / f"{name}.json").write_text(json.dumps(document), encoding="utf-8")


def _questions(doc: Docstring, context: str) -> Iterator[tuple[str, dict[str, Any]]]:
    found = list(_DEFAULT.finditer(doc.signature)) if doc.signature.startswith("def ") else []
    if not found:
        return
    name = doc.name.rpartition(".")[2]
    yield "What is the name of the function?", {"text": name, "answer_start": context.index(name)}
    values = [match[2] for match in found]
    for match in found:
        yield f"What is the default of {match[1]}?", {"text": match[2], "answer_start": match.start(2)}
        if values.count(match[2]) == 1:
            yield f"Which parameter has the default {match[2]}?", {"text": match[1], "answer_start": match.start(1)}
