"""The architecture, as far as imports show it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OPERATOR = ROOT / "operator" / "modelyard_operator"
WORKLOADS = ROOT / "workloads" / "modelyard_workloads"

HEAVY = {"torch", "torchvision", "timm", "numpy", "sklearn", "safetensors", "modelyard_workloads"}
CLUSTER = {"kopf", "kubernetes", "modelyard_operator"}
DANGEROUS = {"pickle.load", "pickle.loads", "torch.load", "yaml.load", "eval", "exec"}


def modules(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Full names of everything that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def packages(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


@pytest.mark.parametrize("path", modules(OPERATOR), ids=lambda p: str(p.relative_to(OPERATOR)))
def test_the_operator_needs_no_numerics_and_talks_to_the_cluster_in_one_place(path: Path) -> None:
    used = packages(path)
    assert not used & HEAVY
    assert "kopf" not in used or path.name == "watch.py"
    assert "kubernetes" not in used or path.name == "cluster.py"


@pytest.mark.parametrize("path", modules(WORKLOADS), ids=lambda p: str(p.relative_to(WORKLOADS)))
def test_the_workloads_know_nothing_of_the_cluster(path: Path) -> None:
    assert not packages(path) & CLUSTER


@pytest.mark.parametrize(("folder", "other"), [("training", "service"), ("service", "training")])
def test_the_two_kinds_do_not_import_each_other(folder: str, other: str) -> None:
    for path in modules(OPERATOR / folder):
        assert not [name for name in imports(path) if name.startswith(f"modelyard_operator.{other}")], path


def test_the_domain_is_pure() -> None:
    """What decides imports no client, no event loop and no HTTP; it can be tested in milliseconds."""
    for path in (*modules(OPERATOR / "training"), *modules(OPERATOR / "service")):
        effects = {"kopf", "kubernetes", "aiohttp", "asyncio", "socket", "subprocess"} & packages(path)
        effects |= {name for name in imports(path) if name.startswith("modelyard_operator.cluster")}
        assert not effects, path


@pytest.mark.parametrize("path", [*modules(OPERATOR), *modules(WORKLOADS)], ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_is_unpickled_or_evaluated(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in DANGEROUS, f"{path}:{node.lineno}"


def test_operator_is_the_standard_librarys_from_the_root_of_the_repository() -> None:
    assert not (ROOT / "operator" / "__init__.py").exists()
    code = "import operator, sys; print(operator.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=180, check=True
    )
    assert not Path(done.stdout.strip()).is_relative_to(ROOT)
