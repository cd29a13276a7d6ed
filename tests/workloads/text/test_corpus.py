"""The text that every Python brings along: always the same, real, and split by document."""

from __future__ import annotations

import hashlib
import subprocess
import sys

from modelyard_workloads.data.corpus import is_held_out, python_docstrings, python_documents


def test_the_documents_are_the_language_reference_and_the_modules() -> None:
    documents = python_documents()
    names = [document.name for document in documents]
    assert len(set(names)) == len(names) > 300
    assert {"topics/for", "topics/with", "modules/json", "modules/argparse"} <= set(names)
    assert sum(len(document.text) for document in documents) > 1_500_000
    json = next(document for document in documents if document.name == "modules/json")
    assert json.text.startswith("module json\n\nJSON (JavaScript Object Notation)")
    assert "def dumps(obj, *, skipkeys=False" in json.text


def test_docstrings_come_with_their_signature() -> None:
    (found,) = [d for d in python_docstrings() if (d.module, d.name) == ("textwrap", "TextWrapper.wrap")]
    assert found.signature == "def wrap(self, text)"
    assert found.text.startswith("wrap(text : string) -> [string]")


def test_another_process_reads_the_same() -> None:
    code = (
        "import hashlib; from modelyard_workloads.data.corpus import python_documents;"
        " print(hashlib.sha256(repr(python_documents()).encode()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120).stdout
    assert other.strip() == hashlib.sha256(repr(python_documents()).encode()).hexdigest()


def test_a_share_of_the_names_is_held_out_and_a_larger_share_has_the_smaller_within() -> None:
    names = [document.name for document in python_documents()]
    tenth = {name for name in names if is_held_out(name, 0.1)}
    fifth = {name for name in names if is_held_out(name, 0.2)}
    assert 0.05 < len(tenth) / len(names) < 0.15
    assert tenth < fifth
