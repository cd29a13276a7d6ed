"""`example://python-code`: which words of Python's language reference are code. The reference marks code by quotes;
here the quotes are gone, and what was between them is to be found: real text, labels known by construction.

train.conll and test.conll. Entities: EXCEPTION (names of exceptions), KEYWORD (the language's own words), METHOD (with
underscores or parentheses), CODE (the rest). A fifth of the sentences, by their content, is for the test.
"""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Iterator
from pathlib import Path

from modelyard_workloads.data.corpus import is_held_out, python_documents
from modelyard_workloads.data.documents import sentences

_CODE = re.compile(r'"([^"\n]{1,40})"')
_WORD = re.compile(r"\w+|[^\w\s]")
_LONGEST = 6  # words of code; what is longer is an example rather than a name
_EXCEPTIONS = frozenset(
    name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, BaseException)
)


def write(directory: Path) -> None:
    """The files of the example."""
    parts: dict[bool, list[str]] = {False: [], True: []}
    for document in python_documents():
        if document.name.startswith("topics/"):
            for sentence in sentences(document.text):
                rows = list(_tagged(sentence))
                if len(rows) >= 5 and any(tag != "O" for _, tag in rows):
                    block = "".join(f"{word} {tag}\n" for word, tag in rows)
                    parts[is_held_out(block, 0.2)].append(block)
    for held_out, name in ((False, "train"), (True, "test")):
        (directory / f"{name}.conll").write_text("\n".join(dict.fromkeys(parts[held_out])), encoding="utf-8")


def _tagged(sentence: str) -> Iterator[tuple[str, str]]:
    place = 0
    for found in _CODE.finditer(sentence):
        words = _WORD.findall(found[1])
        if not words or len(words) > _LONGEST:
            continue
        yield from ((word, "O") for word in _WORD.findall(sentence[place : found.start()]) if word != '"')
        kind = _kind(found[1])
        yield from ((word, f"{'I' if number else 'B'}-{kind}") for number, word in enumerate(words))
        place = found.end()
    yield from ((word, "O") for word in _WORD.findall(sentence[place:]) if word != '"')


def _kind(code: str) -> str:
    if code in _EXCEPTIONS:
        return "EXCEPTION"
    if code in keyword.kwlist or code in keyword.softkwlist:
        return "KEYWORD"
    return "METHOD" if "__" in code or code.endswith("()") else "CODE"
