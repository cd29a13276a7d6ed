"""`example://python-docs`: the documentation that every Python brings along, as text to learn from without a network.

    topics      the language reference as `help("…")` shows it (pydoc_data): some 80 documents of English prose
    modules     one document for each module of the standard library: its docstrings with the signatures above them

The sources are parsed, never imported or run. The documents are those of the running Python, in the order of their
names, so equal on all ranks of an image. Some 2 MB of text, in documents.jsonl with
`name` and `text`. Imports no torch.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# Tests, other people's packages, and what Linux distributions and slim images leave out.
_EXCLUDED = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3", "distutils"}
    | {"ensurepip", "pydoc_data", "__pycache__", "__phello__", "encodings"}
)
_Documented = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, kw_only=True)
class Document:
    """A text and its name, such as `topics/for` or `modules/json.decoder`."""

    name: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Docstring:
    """What is written about one module, class or function."""

    module: str  # "json.decoder"
    name: str  # "JSONDecoder.decode"; empty for the module itself
    signature: str  # "def decode(self, s, _w=WHITESPACE.match)", "class JSONDecoder", "module json.decoder"
    text: str


@cache
def python_documents() -> tuple[Document, ...]:
    """All documents: first the topics, then the modules."""
    from pydoc_data.topics import topics

    documents = [Document(name=f"topics/{name}", text=topics[name].strip()) for name in sorted(topics)]
    parts: dict[str, list[str]] = {}
    for doc in python_docstrings():
        parts.setdefault(doc.module, []).append(f"{doc.signature}\n\n{doc.text}")
    documents += [Document(name=f"modules/{module}", text="\n\n".join(texts)) for module, texts in parts.items()]
    return tuple(documents)


@cache
def python_docstrings() -> tuple[Docstring, ...]:
    """All docstrings of the standard library, by module, in the order of the source."""
    library = Path(sysconfig.get_path("stdlib"))
    found: list[Docstring] = []
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).with_suffix("").parts
        if _EXCLUDED.isdisjoint(parts):
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found += _docstrings_of(name, path.read_bytes())
    return tuple(found)


def write(directory: Path) -> None:
    """The files of `example://python-docs`: documents.jsonl with `name` and `text` on each line."""
    with (directory / "documents.jsonl").open("w", encoding="utf-8") as file:
        for document in python_documents():
            file.write(json.dumps({"name": document.name, "text": document.text}) + "\n")


def is_held_out(name: str, fraction: float) -> bool:
    """Whether a document (or a row) of this name is kept for evaluation: a share of about `fraction`, which depends on
    the name alone, so that one part is never seen by any training, whatever its seed and its number of ranks.
    """
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def _docstrings_of(module: str, source: bytes) -> Iterator[Docstring]:
    if b'"""' not in source and b"'''" not in source:
        return
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # templates that only look like modules
        return
    text = ast.get_docstring(tree)
    if text:
        yield Docstring(module=module, name="", signature=f"module {module}", text=text)
    yield from _members(module, "", tree.body)


def _members(module: str, prefix: str, body: list[ast.stmt]) -> Iterator[Docstring]:
    for node in body:
        if not isinstance(node, _Documented):
            continue
        name = f"{prefix}{node.name}"
        text = ast.get_docstring(node)
        if text:
            yield Docstring(module=module, name=name, signature=_signature(node), text=text)
        if isinstance(node, ast.ClassDef):
            yield from _members(module, f"{name}.", node.body)


def _signature(node: _Documented) -> str:
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        return f"class {node.name}({bases})" if bases else f"class {node.name}"
    return f"def {node.name}({ast.unparse(node.args)})"
