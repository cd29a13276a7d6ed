"""`example://python-areas`: which part of the standard library a docstring is from, of six; real text, real classes.

train.jsonl and test.jsonl with `text` and `label`. A fifth of the docstrings, by their content, is for the test.
"""

from __future__ import annotations

import json
from pathlib import Path

from modelyard_workloads.data.corpus import is_held_out, python_docstrings

AREAS = {
    "network": "http urllib socket ssl smtplib imaplib poplib ftplib nntplib telnetlib socketserver xmlrpc wsgiref"
    " ipaddress selectors asyncore asynchat webbrowser cgi",
    "concurrency": "asyncio threading _threading_local multiprocessing concurrent queue sched subprocess signal",
    "mail and markup": "email mailbox mimetypes html xml quopri plistlib netrc configparser csv json",
    "numbers and time": "_pydecimal fractions statistics random numbers datetime _pydatetime calendar colorsys",
    "files": "os posixpath ntpath genericpath shutil pathlib tarfile zipfile gzip bz2 lzma tempfile glob fileinput"
    " _pyio filecmp zipapp codecs",
    "language": "ast dis inspect importlib typing tokenize pkgutil symtable types pydoc pdb bdb traceback trace doctest"
    " unittest py_compile pickletools enum dataclasses functools",
}
_SHORTEST = 30  # characters


def write(directory: Path) -> None:
    """The files of the example."""
    area_of = {module: area for area, modules in AREAS.items() for module in modules.split()}
    seen: set[str] = set()
    with (
        (directory / "train.jsonl").open("w", encoding="utf-8") as train,
        (directory / "test.jsonl").open("w", encoding="utf-8") as test,
    ):
        for doc in python_docstrings():
            area = area_of.get(doc.module.partition(".")[0])
            if area is None or len(doc.text) < _SHORTEST or doc.text in seen:
                continue
            seen.add(doc.text)
            file = test if is_held_out(doc.text, 0.2) else train
            file.write(json.dumps({"text": doc.text, "label": area}) + "\n")
