"""Install the chart for one namespace, so that the demo touches nothing else of the cluster; and remove it again."""

import json
from typing import Any

from demo.errors import DemoError
from demo.kubectl import Tools
from demo.target import REPOSITORY, Target

NAMESPACE = "modelyard-demo"
RELEASE = "modelyard-demo"
OPERATOR_METRICS = f"{RELEASE}-metrics"
CRDS = ("modeltrainings.modelyard.dev", "modelservices.modelyard.dev")
CHART = REPOSITORY / "charts" / "modelyard"
FIELD_MANAGER = "--field-manager=modelyard-demo"


def make_namespace(tools: Tools) -> None:
    """The namespace, where the strictest Pod Security Standard is enforced."""
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}
    found = tools.get("namespace", NAMESPACE)
    if found is not None and found["status"]["phase"] == "Terminating":
        tools.run_kubectl("wait", "--for=delete", f"namespace/{NAMESPACE}", "--timeout=120s", seconds=130)
    tools.run_kubectl("apply", "--server-side", FIELD_MANAGER, "--filename=-", body=namespace)


def install(target: Target) -> str:
    """Install or upgrade the chart and wait for the operator to be ready; what was installed, in a few words."""
    tools = target.tools
    _clear_interrupted(tools)
    own_definitions = all(_is_ours(tools.get("crd", name)) for name in CRDS)
    values = chart_values(target, own_definitions)
    arguments = ("upgrade", "--install", RELEASE, str(CHART), "--namespace", NAMESPACE, "--values=-")
    try:
        tools.run_helm(*arguments, "--wait", "--timeout=120s", body=values)
    except DemoError as error:
        raise DemoError(f"{error}\n\n{_operator_words(tools)}") from None
    note = "" if own_definitions else ", with the definitions that the cluster had already"
    return f"chart modelyard in namespace {NAMESPACE}{note}"


def chart_values(target: Target, own_definitions: bool) -> dict[str, Any]:
    """The chart's values. The annotation makes new pods when an image changed behind its tag."""
    return {
        "watchNamespaces": [NAMESPACE],
        "crds": {"enabled": own_definitions},
        "image": _image(target.operator_image),
        "workloads": {"image": _image(target.workloads_image)},
        "podAnnotations": {"demo.modelyard.dev/image": target.images_key or "as-tagged"},
    }


def _operator_words(tools: Tools) -> str:
    """What is known of an operator that does not become ready."""
    select = ("--namespace", NAMESPACE, "--selector=app.kubernetes.io/component=operator")
    said = [tools.run_kubectl("get", "pods", *select)]
    try:
        said.append(tools.run_kubectl("logs", *select, "--tail=12"))
    except DemoError as error:  # no container has started
        said.append(str(error))
    return "\n".join(["The operator's pod, and the end of its log:", *said]).rstrip()


def remove(tools: Tools) -> list[str]:
    """Remove everything that the demo made in the cluster; a line for each thing."""
    said = []
    if _release_status(tools):
        tools.run_helm("uninstall", RELEASE, "--namespace", NAMESPACE, "--wait", "--timeout=120s")
        said.append(f"release {RELEASE} uninstalled")
    ours = [name for name in CRDS if _is_ours(tools.get("crd", name), absent=False)]
    if tools.get("namespace", NAMESPACE) is not None:
        tools.run_kubectl("delete", "namespace", NAMESPACE, "--wait=false")
        # nobody sends requests any more: servers need no time to drain
        tools.run_kubectl("delete", "pods", "--all", "--namespace", NAMESPACE, "--grace-period=1", "--wait=false")
        tools.run_kubectl("wait", "--for=delete", f"namespace/{NAMESPACE}", "--timeout=180s", seconds=190)
        said.append(f"namespace {NAMESPACE} deleted, and with it the training, the service and their volume")
    for name in ours:
        used = json.loads(tools.run_kubectl("get", name, "--all-namespaces", "--output=json"))["items"]
        if used:
            places = ", ".join(sorted({item["metadata"]["namespace"] for item in used}))
            said.append(f"definition {name} kept: there are such objects in {places}")
        else:
            tools.run_kubectl("delete", "crd", name)
            said.append(f"definition {name} deleted")
    return said


def _is_ours(definition: dict[str, Any] | None, absent: bool = True) -> bool:
    """Whether this release owns the definition; `absent` if there is none."""
    if definition is None:
        return absent
    annotations = definition["metadata"].get("annotations") or {}
    owner = (annotations.get("meta.helm.sh/release-namespace"), annotations.get("meta.helm.sh/release-name"))
    return owner == (NAMESPACE, RELEASE)


def _clear_interrupted(tools: Tools) -> None:
    """An installation that was interrupted blocks the next one; trainings and services stay."""
    if _release_status(tools).startswith("pending"):
        tools.run_helm("uninstall", RELEASE, "--namespace", NAMESPACE, "--wait", "--timeout=120s")


def _release_status(tools: Tools) -> str:
    """deployed, failed, pending-install, …; empty when there is no such release."""
    arguments = ("list", "--namespace", NAMESPACE, "--filter", f"^{RELEASE}$", "--all", "--output=json")
    try:
        found = json.loads(tools.run_helm(*arguments) or "[]")
    except DemoError:
        found = json.loads(tools.run_helm(*(a for a in arguments if a != "--all")) or "[]")  # helm 4 lists all
    return str(found[0]["status"]) if found else ""


def _image(name: str) -> dict[str, str]:
    """`repository:tag`, or `repository@digest`, as the chart wants it."""
    if "@" in name:
        repository, digest = name.split("@", 1)
        return {"repository": repository, "digest": digest}
    repository, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        raise DemoError(f"image {name!r}: write it with a tag, for example {name}:dev")
    return {"repository": repository, "tag": tag}
