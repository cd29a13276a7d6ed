"""The chart and the plain manifests install the same; with as little power as possible; and the samples are right."""

from __future__ import annotations

import base64
import copy
import itertools
from typing import Any

import pytest
import yaml
from contract.installation import CHART, MANIFESTS, NAMESPACE, Object, chart, helm, identity, kustomization, pod_specs
from contract.restricted import violations
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from modelyard_operator.service.runtime import parse_profiles
from modelyard_operator.service.spec import parse as parse_service
from modelyard_operator.training.spec import parse as parse_training

pytestmark = pytest.mark.timeout(1800)  # the first helm of a machine is compiled

PROFILES: dict[str, tuple[str, ...]] = {
    "as it is": (),
    "in two namespaces": ("--set", "watchNamespaces={research,production}"),
    "without status server": ("--set", "statusServer.enabled=false"),
    "with everything": ("--set", "metrics.serviceMonitor.enabled=true", "--set", "replicas=2"),
}
FREE = ("resources", "runtimes")
"""What users fill in counts as one value."""
HELM_LABELS = ("helm.sh/chart", "app.kubernetes.io/managed-by", "app.kubernetes.io/version")


def without_helm(body: Object) -> Object:
    body = copy.deepcopy(body)
    meta = body["metadata"]
    meta["labels"] = {key: value for key, value in meta.get("labels", {}).items() if key not in HELM_LABELS}
    meta.get("annotations", {}).pop("helm.sh/resource-policy", None)
    if not meta.get("annotations"):
        meta.pop("annotations", None)
    return body


def test_chart_and_manifests_install_the_same_objects() -> None:
    """But for the namespace, which helm makes itself, and the certificate, which needs a template."""
    ours = {identity(body): without_helm(body) for body in chart()}
    plain = {identity(body): without_helm(body) for body in kustomization()}
    assert ours.pop(("Secret", NAMESPACE, "modelyard-status-tls"))["type"] == "kubernetes.io/tls"
    assert plain.pop(("Namespace", "", NAMESPACE))
    assert ours.keys() == plain.keys()
    for name, body in ours.items():
        assert body == plain[name], name


@pytest.mark.parametrize("profile", PROFILES)
def test_every_pod_of_the_installation_is_restricted_and_cannot_write_its_root(profile: str) -> None:
    specs = pod_specs(chart(*PROFILES[profile])) + pod_specs(kustomization())
    assert len(specs) == 2
    for spec in specs:
        assert violations(spec) == []
        # else Kubernetes sets MODELYARD_STATUS_PORT=tcp://… for the Service, and the operator takes it for a setting
        assert spec["enableServiceLinks"] is False
        for container in spec["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert {"livenessProbe", "readinessProbe", "resources"} <= set(container)
            assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("profile", PROFILES)
def test_the_operator_gets_no_secrets_roles_exec_or_wildcards_and_only_looks_at_nodes(profile: str) -> None:
    forbidden = (
        "secrets",
        "nodes/proxy",
        "pods/exec",
        "pods/attach",
        "pods/ephemeralcontainers",
        "serviceaccounts/token",
    )
    for body in (*chart(*PROFILES[profile]), *kustomization()):
        for rule in body.get("rules") or []:
            assert "*" not in {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}, identity(body)
            assert not set(rule["resources"]) & set(forbidden), identity(body)
            assert "nodes" not in rule["resources"] or rule["verbs"] == ["list"], identity(body)
            assert "rbac.authorization.k8s.io" not in rule["apiGroups"], identity(body)
            assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"]), identity(body)


@pytest.mark.parametrize(
    ("options", "listed"),
    [((), True), (("--set", "rbac.readNodes=false"), False), (PROFILES["in two namespaces"], False)],
)
def test_nodes_are_listed_only_where_all_pods_are_and_it_is_wanted(options: tuple[str, ...], listed: bool) -> None:
    resources = {name for body in chart(*options) for rule in body.get("rules") or [] for name in rule["resources"]}
    assert ("nodes" in resources) == listed


def test_named_namespaces_turn_the_cluster_role_into_a_role_in_each() -> None:
    bodies = {identity(body): body for body in chart(*PROFILES["in two namespaces"])}
    everywhere = next(body for body in chart() if identity(body) == ("ClusterRole", "", "modelyard-operator"))
    for namespace in ("research", "production"):
        assert bodies["Role", namespace, "modelyard-operator"]["rules"] == everywhere["rules"]
        subject = bodies["RoleBinding", namespace, "modelyard-operator"]["subjects"][0]
        assert subject == {"kind": "ServiceAccount", "name": "modelyard-operator", "namespace": NAMESPACE}
    assert ("ClusterRole", "", "modelyard-operator") not in bodies
    bound = [body["roleRef"]["name"] for body in bodies.values() if body["kind"] == "ClusterRoleBinding"]
    assert bound == ["modelyard-operator-tokens"]
    arguments = pod_specs(tuple(bodies.values()))[0]["containers"][0]["args"]
    assert "--namespaces=research,production" in arguments


def test_the_certificate_is_for_the_address_that_pods_are_told() -> None:
    secret = next(body for body in chart() if body["kind"] == "Secret")
    certificate, authority = (
        x509.load_pem_x509_certificate(base64.b64decode(secret["data"][name])) for name in ("tls.crt", "ca.crt")
    )
    certificate.verify_directly_issued_by(authority)
    assert isinstance(authority.public_key(), RSAPublicKey)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    arguments = pod_specs(chart())[0]["containers"][0]["args"]
    url = next(argument for argument in arguments if argument.startswith("--status-url="))
    assert url.removeprefix("--status-url=https://").removesuffix(":10443") in names.get_values_for_type(x509.DNSName)


def test_an_unknown_value_is_refused() -> None:
    with pytest.raises(AssertionError, match="additional properties 'replica' not allowed"):
        helm("template", "modelyard", str(CHART), "--set", "replica=2")


def test_the_chart_passes_helms_own_linter() -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART))


def test_every_value_has_a_comment_and_a_schema() -> None:
    lines = (CHART / "values.yaml").read_text(encoding="utf-8").splitlines()
    schema = yaml.safe_load((CHART / "values.schema.json").read_text(encoding="utf-8"))
    profiles = slice(
        lines.index("runtimes:") + 1, lines.index("# What the operator's pod asks for and may use at most.")
    )
    for above, line in itertools.pairwise([*lines[: profiles.start], *lines[profiles.stop :]]):
        name, colon, value = line.strip().partition(":")
        if colon and value and not name.startswith("#") and name not in ("cpu", "memory"):
            assert above.strip().startswith("#"), f"{line.strip()!r} has no comment above it"
    values = yaml.safe_load("\n".join(lines))
    assert described(schema) - {"global"} == keys(values)


def keys(values: dict[str, Any], path: str = "") -> set[str]:
    """Dotted names of all values; what users fill in freely counts as one value."""
    found: set[str] = set()
    for name, value in values.items():
        nested = isinstance(value, dict) and value and path + name not in FREE
        found |= keys(value, f"{path}{name}.") if nested else {path + name}
    return found


def described(schema: dict[str, Any], path: str = "") -> set[str]:
    found: set[str] = set()
    for name, field in schema["properties"].items():
        nested = "properties" in field and path + name not in FREE
        found |= described(field, f"{path}{name}.") if nested else {path + name}
    return found


@pytest.mark.parametrize("path", sorted((MANIFESTS / "samples").glob("*.yaml")), ids=lambda path: path.name)
def test_a_sample_is_accepted_by_the_operator_and_says_how_to_run_it(path: Any) -> None:
    text = path.read_text(encoding="utf-8")
    assert f"kubectl apply -f {path.name}" in text
    for body in yaml.safe_load_all(text):
        parse = {"ModelTraining": parse_training, "ModelService": parse_service}[body["kind"]]
        parse(body)


def test_the_runtime_profiles_of_the_chart_are_what_the_operator_reads() -> None:
    config = next(body for body in chart() if body["kind"] == "ConfigMap")
    profiles = parse_profiles(yaml.safe_load(config["data"]["runtimes.yaml"]))
    assert set(profiles) == {"custom", "triton", "vllm"}
    assert profiles["vllm"].metrics.tokens
