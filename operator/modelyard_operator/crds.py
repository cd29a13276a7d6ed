"""`python -m modelyard_operator.crds DIR`: the CRDs, the chart's copies and the reference page, from the models.

DIR is the root of the repository. The same files are compared with the models by a contract test.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from modelyard_operator.objects import GROUP, VERSION
from modelyard_operator.resources import Resource
from modelyard_operator.schema import VALIDATIONS
from modelyard_operator.service.resource import RESOURCE as SERVICE
from modelyard_operator.training.resource import RESOURCE as TRAINING

RESOURCES = (TRAINING, SERVICE)
HEADER = "# Generated from the models in operator/modelyard_operator by `make generate`; change those.\n"
CRD_FOLDERS = ("manifests/crds", "charts/modelyard/files/crds")
REFERENCE = "manifests/reference.md"


class _Dumper(yaml.SafeDumper):
    """Every value written out: Kubernetes knows anchors, people and diffs don't like them."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's signature
        return True


def to_yaml(value: Any) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


def generated_files() -> dict[str, str]:
    """Path in the repository -> content, of every file that is made from the models."""
    files = {
        f"{folder}/{resource.file_name}": HEADER + to_yaml(resource.definition())
        for folder in CRD_FOLDERS
        for resource in RESOURCES
    }
    return {**files, REFERENCE: reference(RESOURCES)}


def reference(resources: Sequence[Resource]) -> str:
    """The reference page: every field with its type, default, description and rules."""
    lines = [
        "# Reference",
        "",
        f"The resources of `{GROUP}/{VERSION}`. Generated from the models in `operator/modelyard_operator` by"
        " `make generate`; `kubectl explain` shows the same.",
    ]
    for resource in resources:
        schema = resource.schema()
        lines += ["", f"## {resource.kind} (`{resource.short_name}`)", "", resource.description]
        lines += _rules(schema)
        for part in ("spec", "status"):
            lines += [
                "",
                f"### {resource.kind} {part}",
                "",
                "| field | type | default | what it is |",
                "|---|---|---|---|",
            ]
            lines += _rows(part, schema["properties"][part])
    return "\n".join(lines) + "\n"


def _rules(schema: dict[str, Any]) -> list[str]:
    rules = schema.get(VALIDATIONS, [])
    listed = [f"- `{rule.get('fieldPath', '').lstrip('.') or 'metadata'}`: {rule['message']}" for rule in rules]
    return ["", *dict.fromkeys(listed)]


def _rows(path: str, schema: dict[str, Any]) -> Iterator[str]:
    required = schema.get("required", [])
    for name, field in schema.get("properties", {}).items():
        here = f"{path}.{name}"
        default = "required" if name in required else _default(field)
        rules = " ".join(f"Rule: {rule['message']}." for rule in field.get(VALIDATIONS, []))
        text = " ".join(f"{field.get('description', '')} {rules}".split()).replace("|", "\\|")
        yield f"| `{here}` | {_type(field)} | {default} | {text} |"
        inner = field.get("items", field)
        if "properties" in inner:
            yield from _rows(f"{here}[]" if "items" in field else here, inner)


def _type(field: dict[str, Any]) -> str:
    if "x-kubernetes-int-or-string" in field:
        return "integer or string"
    if values := [value for value in field.get("enum", []) if value]:
        return " \\| ".join(f"`{value}`" for value in values)
    if field["type"] == "array":
        return f"list of {_type(field['items'])}"
    if "additionalProperties" in field:
        return f"map of {_type(field['additionalProperties'])}"
    return str(field["type"])


def _default(field: dict[str, Any]) -> str:
    default = field.get("default")
    if default is None or default == {}:
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", metavar="DIR", type=Path, help="the root of the repository")
    root: Path = parser.parse_args(arguments).dir
    for name, content in generated_files().items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        print(f"{name}: {len(content.encode())} bytes")


if __name__ == "__main__":
    main()
