"""The data sets `example://NAME` that need no network, as files. `example://digits` is read by its task directly."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

# name -> module with `write(directory)`, which writes the same files on every machine
_WRITERS: dict[str, str] = {
    "clicks": "modelyard_workloads.data.clicks",
    "docstring-summaries": "modelyard_workloads.data.summaries",
    "english-german": "modelyard_workloads.data.translations",
    "python-areas": "modelyard_workloads.data.docstring_areas",
    "python-code": "modelyard_workloads.data.code_names",
    "python-docs": "modelyard_workloads.data.corpus",
    "python-questions": "modelyard_workloads.data.signature_questions",
}


def write_example(name: str, directory: Path) -> None:
    """Write the files of an example. Raises FileNotFoundError for an unknown name, with the known ones."""
    if name not in _WRITERS:
        near = get_close_matches(name, _WRITERS)
        hint = f"; did you mean example://{near[0]}?" if near else ""
        known = ", ".join(f"example://{n}" for n in sorted(_WRITERS))
        raise FileNotFoundError(f"there is no such example{hint} Known: {known or 'none'}")
    module: Any = import_module(_WRITERS[name])
    module.write(directory)
