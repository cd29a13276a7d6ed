"""What the local cluster asks of kind and Docker, and leaves alone. Neither is started."""

import argparse
import base64
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from localcluster import __main__ as commands
from localcluster import fakes, kind, kindstorage, settings, teardown
from localcluster.api import ApiError, Object
from localcluster.layout import CONTEXT, Layout, LocalClusterError

FIELD = base64.b64encode(b"pem").decode()
KUBECONFIG = "\n".join(
    [
        "    server: https://127.0.0.1:40123",
        *(f"    {part}-data: {FIELD}" for part in ("certificate-authority", "client-certificate", "client-key")),
    ]
)
CONFIGURATION = {
    "config.json": '{"nodePathMap": [{"node": "DEFAULT_PATH_FOR_NON_LISTED_NODES", "paths": ["/var/volumes"]}]}',
    "helperPod.yaml": "apiVersion: v1\nkind: Pod\nmetadata:\n  name: helper-pod\nspec:\n  containers: []\n",
    "setup": "mkdir",
}


class Programs:
    """kind and docker, which answer as if the cluster were there from its creation on."""

    def __init__(self, *, created: bool = False, running: bool = True) -> None:
        self.called: list[str] = []
        self.created, self.running, self.kubeconfig = created, running, KUBECONFIG
        self.at_creation: Callable[[], None] = lambda: None

    def __call__(self, *command: str, **_: float) -> str:
        self.called.append(" ".join(command[:3]))
        match command[:3]:
            case ("kind", "get", "clusters"):
                return f"another\n{CONTEXT}\n" if self.created else "another\n"
            case ("kind", "create", _):
                self.at_creation()
                self.created = True
            case ("kind", "get", "kubeconfig"):
                return self.kubeconfig
            case ("docker", "inspect", _):
                return f"{str(self.running).lower()}\n"
        return ""


class Storage:
    """An API server that has what kind installs for claims."""

    def __init__(self) -> None:
        self.configuration = dict(CONFIGURATION)
        self.mode: str | None = "WaitForFirstConsumer"
        self.changes: list[str] = []

    def get(self, path: str) -> Object:
        if path == kindstorage.CONFIGURATION:
            return {"data": dict(self.configuration)}
        if path == kindstorage.CLASS and self.mode is None:
            raise ApiError(404, "not found")
        if path == kindstorage.CLASS:
            return {"volumeBindingMode": self.mode}
        return deployment()

    def patch(self, path: str, body: Object) -> None:
        self.configuration.update(body.get("data", {}))
        if path == kindstorage.CONFIGURATION:
            self.changes.append("configuration")

    def delete(self, path: str) -> None:
        assert path == kindstorage.CLASS
        self.mode = None

    def create(self, path: str, body: Object) -> None:
        assert path == kindstorage.CLASSES
        self.mode = body["volumeBindingMode"]
        self.changes.append(f"class of {body['provisioner']}")


def deployment(**status: int) -> Object:
    counts = {"observedGeneration": 2, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1, **status}
    return {"metadata": {"generation": 2}, "status": counts}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> Programs:
    made = Programs()
    monkeypatch.setattr(kind, "_run", made)
    monkeypatch.setattr(kind, "Api", lambda _: argparse.Namespace(is_ready=lambda: True))
    monkeypatch.setattr(fakes, "Api", lambda _: None)
    monkeypatch.setattr(kindstorage, "share", lambda *_: None)
    monkeypatch.setattr(kind.shutil, "which", lambda name: name)  # type: ignore[attr-defined]
    return made


def test_the_audit_log_is_there_and_empty_before_the_api_server_is_so_that_its_reader_owns_it(
    layout: Layout, programs: Programs
) -> None:
    layout.log.mkdir()
    for name in ("audit.log", "audit-2026-01-01.log"):
        (layout.log / name).write_text("of the cluster before")
    found: list[tuple[str, int, int]] = []

    def look() -> None:
        for path in layout.log.iterdir():
            status = path.stat()
            found.append((path.name, status.st_size, status.st_uid))

    programs.at_creation = look
    kind.up(layout)
    assert found == [("audit.log", 0, os.geteuid())]


def test_a_node_that_docker_has_stopped_is_started_again(layout: Layout, programs: Programs) -> None:
    programs.created, programs.running = True, False
    kind.up(layout)
    assert f"docker start {kind.NODE}" in programs.called
    assert not any("create" in command for command in programs.called)


def test_a_cluster_that_runs_is_neither_created_nor_started(layout: Layout, programs: Programs) -> None:
    programs.created = True
    kind.up(layout)
    assert not any("create" in command or "start" in command for command in programs.called)
    assert settings.load(layout).node == kind.NODE


def test_a_cluster_that_does_not_answer_is_told_how_to_be_made_anew(
    layout: Layout, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs.created = True
    monkeypatch.setattr(kind, "Api", lambda _: argparse.Namespace(is_ready=lambda: False))
    monkeypatch.setattr(kind, "API_SECONDS", 0)
    with pytest.raises(LocalClusterError, match="cluster-down cluster"):
        kind.up(layout)


def test_a_cluster_without_a_kubeconfig_is_told_so_too(layout: Layout, programs: Programs) -> None:
    programs.created, programs.kubeconfig = True, ""
    with pytest.raises(LocalClusterError, match=r"lacks server.*\n.*cluster-down cluster"):
        kind.up(layout)


def test_a_program_that_went_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(LocalClusterError, match="kind is missing"):
        kind._run("kind", "get", "clusters")


def test_purge_takes_kinds_cluster_and_our_cache_and_nothing_else_of_the_machine(
    layout: Layout, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind.up(layout)
    (layout.bin / "kubectl").touch()

    def refuse(_: Layout) -> None:
        raise AssertionError("it ends processes and removes network rules that may belong to another Kubernetes")

    monkeypatch.setattr(teardown, "down", refuse)
    assert commands._purge(layout, argparse.Namespace()) == 0
    assert "kind delete cluster" in programs.called
    assert not layout.root.exists()


@pytest.mark.usefixtures("programs")
def test_env_names_no_container_runtime_that_is_not_on_this_machine(
    layout: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    kind.up(layout)
    commands._env(layout, argparse.Namespace())
    printed = capsys.readouterr().out
    assert f"KUBECONFIG={layout.kubeconfig}" in printed
    assert "CONTAINERD_ADDRESS" not in printed


def test_volumes_are_made_on_the_one_real_node_for_pods_of_every_node() -> None:
    shared = kindstorage.shared(CONFIGURATION, "the-node")
    assert json.loads(shared["config.json"]) == {"sharedFileSystemPath": "/var/volumes"}
    assert "\nspec:\n  nodeName: the-node\n  containers: []\n" in shared["helperPod.yaml"]
    assert shared["setup"] == "mkdir"
    assert kindstorage.shared(shared, "the-node") == shared


def test_a_provisioner_that_cannot_be_told_so_is_shown() -> None:
    with pytest.raises(LocalClusterError, match=r"unknown helperPod\.yaml"):
        kindstorage.shared({**CONFIGURATION, "helperPod.yaml": "{}"}, "the-node")


def test_claims_are_bound_at_once_by_kinds_provisioner_and_that_is_arranged_once() -> None:
    server = Storage()
    for _ in range(2):
        kindstorage.share(server, "the-node")  # type: ignore[arg-type]
    assert server.changes == ["configuration", "class of rancher.io/local-path"]
    assert server.mode == "Immediate"


def test_a_class_that_an_interrupted_call_removed_is_made_again() -> None:
    server = Storage()
    server.mode = None
    kindstorage.share(server, "the-node")  # type: ignore[arg-type]
    assert server.mode == "Immediate"


@pytest.mark.parametrize("late", [{"observedGeneration": 1}, {"replicas": 2}, {"availableReplicas": 0}])
def test_the_provisioner_is_waited_for_until_only_the_new_one_is_left(late: dict[str, int]) -> None:
    assert kindstorage.is_restarted(deployment())
    assert not kindstorage.is_restarted(deployment(**late))
    assert not kindstorage.is_restarted({"metadata": {"generation": 1}})
