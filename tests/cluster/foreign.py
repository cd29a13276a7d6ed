"""Controllers of other people's, beside a cluster: their modules, their definitions, their processes; gone at the end.

They run as processes of this machine and reach pods by their addresses, so this needs the local cluster.
"""

from __future__ import annotations

import base64
import os
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

import yaml
from cluster.kubernetes_api import Object, eventually
from cluster.ranks import environment, kubectl
from localcluster import golang
from localcluster.layout import SOURCES, Layout


def run(*arguments: str, text: str = "") -> str:
    """What kubectl prints. Raises AssertionError with what it said where it fails."""
    done = subprocess.run(
        kubectl(*arguments), input=text, env=environment(), capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def apply(*objects: Object) -> None:
    """By `kubectl apply` on the server's side: some definitions are larger than an annotation may be."""
    run("apply", "--server-side", "--filename", "-", text=yaml.safe_dump_all(objects))


def module_directory(binary: golang.Binary, module: str) -> Path:
    """The sources of a module that a binary is built from."""
    command = ["go", "list", "-m", "-f", "{{.Dir}}", module]
    directory = SOURCES / "go" / binary.module
    return Path(
        subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=300, check=True).stdout.strip()
    )


def read(paths: Iterator[Path]) -> list[Object]:
    """The objects in some files, by the order of their names."""
    return [body for path in sorted(paths) for body in yaml.safe_load_all(path.read_text()) if body]


@contextmanager
def defined(definitions: Sequence[Object]) -> Iterator[None]:
    """The kinds are there; at the end neither they nor any object of theirs is, whatever state it is in."""
    names = [definition["metadata"]["name"] for definition in definitions]
    there = run("get", "crd", "--output", "name").split()
    known = [name for name in names if f"customresourcedefinition.apiextensions.k8s.io/{name}" in there]
    assert not known, f"{known} belong to somebody else"
    try:
        apply(*definitions)
        run("wait", "--for=condition=Established", "--timeout=60s", *(f"crd/{name}" for name in names))
        yield
    finally:
        for name in names:
            if run("get", "crd", name, "--ignore-not-found"):
                let_go(name, "")
        run("delete", *(f"crd/{name}" for name in names), "--ignore-not-found", "--timeout=120s")


def command_of(binary: golang.Binary, options: Mapping[str, str]) -> list[str]:
    """A binary of ours with its options, each as `--name=value`."""
    path = Layout.from_environment().bin / binary.name
    return [str(path), *(f"--{name}={value}" for name, value in options.items())]


@contextmanager
def process(
    command: Sequence[str], variables: Mapping[str, str], log: Path, ready: Callable[[], bool]
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs while the block does, from when it is ready."""
    with log.open("wb") as output:
        started = subprocess.Popen(command, env={**os.environ, **variables}, stdout=output, stderr=output)

    def told() -> str:
        return log.read_text(errors="replace")[-3000:]

    def is_ready() -> bool:
        assert started.poll() is None, f"{command[0]} has ended\n{told()}"
        return ready()

    try:
        eventually(f"{command[0]} is ready", is_ready, 120, told)
        yield started
    finally:
        started.terminate()
        with suppress(subprocess.TimeoutExpired):
            started.wait(30)
        started.kill()
        started.wait(30)


def answers(url: str) -> bool:
    """Whether a GET is answered with 200."""
    with suppress(OSError), urlopen(url, timeout=2) as answer:
        return bool(answer.status == 200)
    return False


def listens(port: int) -> bool:
    """Whether somebody takes connections to a port of this machine."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2):
        return True
    return False


def certificate(directory: Path, name: str, alternatives: str) -> str:
    """A pair of tls.crt and tls.key in a directory, which is its own authority; the certificate as webhooks and
    APIServices want it. `alternatives`: as openssl writes them, `IP:127.0.0.1`.
    """
    key, written = directory / "tls.key", directory / "tls.crt"
    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc", "-keyout", str(key))
    about = ("-subj", f"/CN={name}", "-addext", f"subjectAltName={alternatives}", "-days", "2", "-out", str(written))
    subprocess.run(["openssl", "req", "-x509", *new, *about], check=True, capture_output=True, timeout=60)
    return base64.b64encode(written.read_bytes()).decode()


def own_kubeconfig(directory: Path) -> Path:
    """A kubeconfig of nothing but the chosen context, which others need not be told the name of."""
    path = directory / "kubeconfig"
    path.write_text(run("config", "view", "--minify", "--raw"))
    return path


def let_go(kind: str, namespace: str) -> None:
    """Take the finalizers from all objects of a kind; of all namespaces, where none is named."""
    where = ["--namespace", namespace] if namespace else ["--all-namespaces"]
    each = "{range .items[*]}{.metadata.namespace} {.metadata.name}{'\\n'}{end}"
    found = run("get", kind, *where, "--output", f"jsonpath={each}")
    for line in found.splitlines():
        *spaces, name = line.split()
        of = ["--namespace", spaces[0]] if spaces else []
        with suppress(AssertionError):  # it went in the meantime
            run("patch", kind, name, *of, "--type=merge", "--patch", '{"metadata":{"finalizers":null}}')
