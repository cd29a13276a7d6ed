"""The pure parts of the local cluster: what it chooses, renders, parses and would remove. Nothing is started."""

import base64
import dataclasses
import json
import subprocess
from pathlib import Path

import pytest
from localcluster import (
    api,
    certificates,
    kind,
    leftovers,
    network,
    processes,
    provisioner,
    rendering,
    teardown,
)
from localcluster.backend import Machine, choose
from localcluster.layout import Layout, LocalClusterError

EVERYTHING = Machine(docker_answers=True, has_kind=True, is_linux=True, is_root=True, has_go=True, has_apt=True)
SAVED_RULES = """*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-TCOU7JCQXEZGVUNU - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A POSTROUTING -s 10.244.0.0/24 ! -d 10.244.0.0/24 -m comment --comment modelyard-local -j MASQUERADE
-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m tcp --dport 443 -j KUBE-SVC-TCOU7JCQXEZGVUNU
COMMIT
*filter
:INPUT ACCEPT [0:0]
:MY-KUBE-LIKE - [0:0]
-A INPUT -p tcp -m comment --comment "not modelyard-local-ish" -j MY-KUBE-LIKE
COMMIT
"""


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    found = Layout(tmp_path)
    for directory in (found.bin, found.images, found.pki):
        directory.mkdir()
    return found


def without(**changes: bool) -> Machine:
    return dataclasses.replace(EVERYTHING, **changes)


def test_kind_is_chosen_where_docker_answers_and_kind_is_installed() -> None:
    assert choose(EVERYTHING) == "kind"
    assert choose(without(is_root=False, has_go=False)) == "kind"


@pytest.mark.parametrize("lacking", ["docker_answers", "has_kind"])
def test_a_node_of_its_own_is_chosen_where_kind_cannot_run(lacking: str) -> None:
    assert choose(without(**{lacking: False})) == "node"


def test_a_machine_that_can_have_neither_is_told_everything_that_is_missing() -> None:
    with pytest.raises(LocalClusterError) as raised:
        choose(Machine(False, False, True, False, False, True))
    message = str(raised.value)
    for part in ("no Docker daemon answers", "kind: missing", "root", "Go 1.26"):
        assert part in message
    assert "apt" not in message.partition("a node of its own")[2]


def test_only_what_the_cluster_put_into_the_tables_is_removed() -> None:
    script = network.removal_script(SAVED_RULES)
    assert script.splitlines() == [
        "*nat",
        ":KUBE-SERVICES - [0:0]",
        ":KUBE-SVC-TCOU7JCQXEZGVUNU - [0:0]",
        '-D PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
        "-D POSTROUTING -s 10.244.0.0/24 ! -d 10.244.0.0/24 -m comment --comment modelyard-local -j MASQUERADE",
        "-X KUBE-SERVICES",
        "-X KUBE-SVC-TCOU7JCQXEZGVUNU",
        "COMMIT",
    ]


def test_tables_without_anything_of_the_cluster_give_an_empty_script() -> None:
    assert network.removal_script("*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -j DROP\nCOMMIT\n") == ""
    assert network.removal_script("") == ""


def test_the_bridge_and_what_hangs_on_it_are_told_from_other_interfaces() -> None:
    listing = (
        "1: lo: <LOOPBACK,UP> mtu 65536 qdisc noqueue state UNKNOWN mode DEFAULT\n"
        "5: cni0: <BROADCAST,UP> mtu 1500 qdisc noqueue state UP mode DEFAULT\n"
        "6: vethe18ff809@if2: <BROADCAST,UP> mtu 1500 qdisc noqueue master cni0 state UP\n"
        "7: vetha@if2: <BROADCAST,UP> mtu 1500 qdisc noqueue master docker0 state UP\n"
    )
    assert network.interfaces(listing) == ["cni0", "vethe18ff809"]


def test_mounts_are_unmounted_from_the_innermost_on_and_only_ours(layout: Layout) -> None:
    root = layout.root
    table = (
        f"tmpfs {root}/kubelet/pods/a tmpfs rw 0 0\n"
        f"tmpfs {root}/kubelet/pods/a/with\\040space tmpfs rw 0 0\n"
        f"/dev/vda {root}-another ext4 rw 0 0\nnsfs /run/netns/cni-1 nsfs rw 0 0\nnsfs /run/netns/mine nsfs rw 0 0\n"
    )
    found = leftovers.mounts(table, layout)
    inner, outer = f"{root}/kubelet/pods/a/with space", f"{root}/kubelet/pods/a"
    assert set(found) == {inner, outer, "/run/netns/cni-1"}
    assert found.index(inner) < found.index(outer)


def test_only_lines_that_name_the_node_count_as_left_over_in_etc_hosts() -> None:
    text = "127.0.0.1 localhost\n# modelyard-local\n10.0.0.2 modelyard-local\n10.0.0.3 modelyard-local-2\n"
    assert leftovers.hosts_lines(text) == ["10.0.0.2 modelyard-local"]


def test_task_ids_and_process_ids_are_read_from_containerds_listing() -> None:
    listing = "TASK    PID      STATUS\nabc     1200     RUNNING\ndef     0        STOPPED\n"
    assert teardown.task_pids(listing) == {"abc": 1200}


def test_the_environment_of_a_process_is_read_with_its_equal_signs() -> None:
    assert processes.parse_environment(b"A=1\0B=x=y\0junk\0") == {"A": "1", "B": "x=y"}


def test_a_part_is_restarted_when_its_command_or_a_file_of_its_changes(tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text("one")
    part = processes.Part("p", ("/bin/true", "--flag"), (file,))
    first = part.fingerprint()
    assert part.fingerprint() == first
    assert dataclasses.replace(part, command=("/bin/true",)).fingerprint() != first
    file.write_text("two")
    assert part.fingerprint() != first


def test_every_rendered_file_names_only_paths_below_the_cache(layout: Layout) -> None:
    kubelet = json.loads(rendering.kubelet_config(layout))
    for field in ("podLogsDir", "volumePluginDir", "tlsCertFile", "tlsPrivateKeyFile"):
        assert kubelet[field].startswith(f"{layout.root}/")
    assert kubelet["containerRuntimeEndpoint"] == f"unix://{layout.containerd_socket}"
    toml = rendering.containerd_toml(layout, "/usr/lib/cni")
    for line in ("root", "state", "conf_dir", "Root"):
        assert f'{line} = "{layout.root}/' in toml


def test_the_audit_policy_writes_metadata_once_a_request() -> None:
    policy = json.loads(rendering.audit_policy())
    assert policy["omitStages"] == ["RequestReceived"]
    assert policy["rules"] == [{"level": "Metadata"}]


def test_dns_forwards_only_where_the_machine_has_a_resolver(layout: Layout) -> None:
    assert "forward . /etc/resolv.conf" in rendering.corefile(layout, "192.0.2.2", has_upstream=True)
    assert "forward ." not in rendering.corefile(layout, "192.0.2.2", has_upstream=False)


def test_the_default_storage_class_is_served_by_our_provisioner() -> None:
    classes = [item for item in rendering.cluster_objects("192.0.2.2") if item["kind"] == "StorageClass"]
    assert [item["metadata"]["name"] for item in classes] == ["standard"]
    assert classes[0]["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"] == "true"
    assert classes[0]["provisioner"] == rendering.PROVISIONER


def test_objects_have_the_paths_that_the_api_server_knows() -> None:
    paths = [api.object_path(item) for item in rendering.cluster_objects("192.0.2.2")]
    assert paths == [
        "/apis/rbac.authorization.k8s.io/v1/clusterroles/modelyard-local-dns",
        "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/modelyard-local-dns",
        "/api/v1/namespaces/kube-system/services/kube-dns",
        "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices/kube-dns-node",
        "/apis/storage.k8s.io/v1/storageclasses/standard",
    ]


def claim(**spec: object) -> dict[str, object]:
    base = {"storageClassName": "standard", "accessModes": ["ReadWriteOnce"]}
    return {
        "metadata": {"name": "c", "namespace": "n", "uid": "u-1"},
        "spec": {**base, "resources": {"requests": {"storage": "1Gi"}}, **spec},
        "status": {"phase": "Pending"},
    }


def test_a_pending_claim_of_the_class_gets_a_volume_bound_to_its_uid() -> None:
    assert provisioner.wants_volume(claim())
    volume = provisioner.volume_for(claim(), "/somewhere")
    assert volume["spec"]["claimRef"]["uid"] == "u-1"
    assert volume["spec"]["capacity"] == {"storage": "1Gi"}
    assert volume["spec"]["hostPath"]["path"] == "/somewhere"


def test_claims_of_other_classes_bound_ones_and_deleted_ones_get_none() -> None:
    assert not provisioner.wants_volume(claim(storageClassName="fast"))
    assert not provisioner.wants_volume(claim(volumeName="pv"))
    bound = claim() | {"status": {"phase": "Bound"}}
    assert not provisioner.wants_volume(bound)


def test_only_released_volumes_of_our_own_making_are_deleted() -> None:
    ours = {"metadata": {"annotations": {provisioner.MADE_BY: rendering.PROVISIONER}}, "status": {"phase": "Released"}}
    assert provisioner.is_released(ours)
    assert not provisioner.is_released(ours | {"status": {"phase": "Bound"}})
    assert not provisioner.is_released(ours | {"metadata": {}})


def test_certificates_verify_against_the_authority_and_carry_user_group_and_names(layout: Layout) -> None:
    identity = certificates.Identity("x", "system:node:n", "system:nodes", ("DNS:n", "IP:192.0.2.2"))
    certificates.issue(layout.pki, (identity,))
    checked = _openssl("verify", "-x509_strict", "-CAfile", f"{layout.pki}/ca.crt", f"{layout.pki}/x.crt")
    assert checked.strip().endswith("OK")
    text = _openssl("x509", "-in", f"{layout.pki}/x.crt", "-noout", "-subject", "-ext", "subjectAltName")
    assert "O = system:nodes, CN = system:node:n" in text
    assert "DNS:n, IP Address:192.0.2.2" in text
    assert (layout.pki / "x.key").stat().st_mode & 0o077 == 0
    before = (layout.pki / "x.crt").read_bytes()
    certificates.issue(layout.pki, (identity,))
    assert (layout.pki / "x.crt").read_bytes() == before


def _openssl(*arguments: str) -> str:
    return subprocess.run(["openssl", *arguments], capture_output=True, text=True, timeout=60, check=True).stdout


def test_the_kubeconfig_has_one_context_of_our_name_and_embeds_everything() -> None:
    config = json.loads(certificates.kubeconfig("https://127.0.0.1:6443", b"ca", b"crt", b"key"))
    assert config["current-context"] == "modelyard-local"
    assert [context["name"] for context in config["contexts"]] == ["modelyard-local"]
    assert base64.b64decode(config["users"][0]["user"]["client-key-data"]) == b"key"


def test_kinds_kubeconfig_gets_our_context_name() -> None:
    text = "current-context: kind-modelyard-local\nserver: https://127.0.0.1:1"
    assert kind.own_context(text) == "current-context: modelyard-local\nserver: https://127.0.0.1:1"


def test_kinds_credentials_are_found_and_what_is_missing_is_named() -> None:
    text = (
        "clusters:\n- cluster:\n    certificate-authority-data: Y2E=\n    server: https://127.0.0.1:40123\n"
        "users:\n- name: kind-modelyard-local\n  user:\n    client-certificate-data: Yw==\n    client-key-data: aw==\n"
    )
    assert kind.credentials(text) == {
        "server": "https://127.0.0.1:40123",
        "certificate-authority-data": "Y2E=",
        "client-certificate-data": "Yw==",
        "client-key-data": "aw==",
    }
    with pytest.raises(LocalClusterError, match="client-key-data"):
        kind.credentials(text.replace("client-key-data", "token"))


def test_kinds_api_server_writes_its_audit_log_into_our_cache(layout: Layout) -> None:
    node = json.loads(kind.config(layout))["nodes"][0]
    arguments = json.loads(node["kubeadmConfigPatches"][0])["apiServer"]["extraArgs"]
    mounts = {mount["containerPath"]: mount["hostPath"] for mount in node["extraMounts"]}
    directory, _, name = arguments["audit-log-path"].rpartition("/")
    assert Path(mounts[directory]) / name == layout.audit_log


def test_a_cache_path_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LocalClusterError, match="MODELYARD_CACHE"):
        Layout(tmp_path / ("x" * 100)).prepare()
