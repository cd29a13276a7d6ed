"""Where models, data sets and outputs are: URIs, what is known of them, and what this version can open."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from modelyard_operator.schema import Matches

_NAME = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_PATH = r"(/[A-Za-z0-9_=@+-][A-Za-z0-9_.=@+-]*)*/?"
"""Segments that begin with a dot are left out, and with them `..`."""
_FORMS = {
    "example": (f"example://{_NAME}", "example://NAME"),
    "pvc": (rf"pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?{_PATH}", "pvc://CLAIM[/PATH]"),
    "training": (f"training://{_NAME}(/{_NAME})?", "training://NAME[/ARTIFACT]"),
    "s3": (r"s3://[^\s]+", "s3://BUCKET/PATH"),
    "gs": (r"gs://[^\s]+", "gs://BUCKET/PATH"),
    "https": (r"https://[^\s]+", "https://HOST/PATH"),
    "hf": (r"hf://[^\s]+", "hf://OWNER/NAME"),
    "oci": (r"oci://[^\s]+", "oci://REGISTRY/NAME[:TAG|@DIGEST]"),
}


@dataclass(frozen=True)
class Location:
    """A URI in its parts: `pvc://claim/a/b` has the authority `claim` and the path `a/b`."""

    scheme: str
    authority: str
    path: str


def parse_uri(uri: str) -> Location:
    """The parts of a URI. Raises ValueError for what is none."""
    found = re.fullmatch(r"([a-z0-9]+)://([^/]+)/?(.*)", uri)
    if not found:
        raise ValueError(f"{uri!r} is not SCHEME://NAME[/PATH]")
    return Location(found[1], found[2], found[3].strip("/"))


def training_artifact(uri: str) -> tuple[str, str] | None:
    """(training, artifact) of `training://NAME[/ARTIFACT]`, the best one if none is named; None for other URIs."""
    if not uri.startswith("training://"):
        return None
    name, _, artifact = uri.removeprefix("training://").strip("/").partition("/")
    return name, artifact or "best"


def uri_form(supported: Sequence[str]) -> Matches:
    """The marker of a URI field: empty, or one of the schemes."""
    patterns = "|".join(_FORMS[scheme][0] for scheme in supported)
    return Matches(f"|{patterns}", f"write {forms(supported)}", max_length=1024)


def forms(schemes: Sequence[str]) -> str:
    """`example://NAME or pvc://CLAIM[/PATH]`."""
    words = [_FORMS[scheme][1] for scheme in schemes]
    return " or ".join((", ".join(words[:-1]), words[-1])) if len(words) > 1 else words[0]
