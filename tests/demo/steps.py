"""The steps of the demo, one after the other. Each looks first at what is there, so that it can be run again."""

import json
import time
from typing import Any

import numpy as np
from modelyard_workloads.data.digits import held_out_mask, load_digits
from modelyard_workloads.parameters.image_classification import ImageClassificationParameters
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from demo import installation, live, results, samples, target
from demo.api import Api, ApiError
from demo.clock import Clock, seconds_text
from demo.errors import DemoError
from demo.inference import predict_all
from demo.installation import NAMESPACE, OPERATOR_METRICS
from demo.kubectl import Tools
from demo.observation import Observer, Snapshot
from demo.series import select
from demo.target import Target
from demo.waiting import wait_until_ready

CLIENTS = 8
OPERATOR_SERIES = (
    "modelyard_leader",
    "modelyard_training_phase",
    "modelyard_training_finished_total",
    "modelyard_service_ready",
    "modelyard_reconcile_seconds",
    "modelyard_workqueue_depth",
    "process_resident_memory_bytes",
)
TRAINER_SERIES = (
    "modelyard_training_step",
    "modelyard_training_loss",
    "modelyard_training_accuracy",
    "modelyard_training_samples_per_second",
    "modelyard_training_step_seconds",
    "modelyard_training_data_wait_seconds",
    "modelyard_training_learning_rate",
)
SERVER_SERIES = (
    "modelyard_requests_total",
    "modelyard_request_seconds",
    "modelyard_inference_seconds",
    "modelyard_batch_requests",
    "modelyard_model_load_seconds",
    "process_resident_memory_bytes",
)


def run(console: Console, clock: Clock) -> None:
    """From whatever there is to predictions."""
    console.print(Text("modelyard: train a model on Kubernetes, serve it, ask it", style="bold"))
    if clock.total > 5:  # make has just made it
        clock.steps["virtual environment"] = clock.total
    place = prepare(console, clock)
    tools = place.tools
    with clock.step("install"):
        results.title(console, "Install the operator")
        installation.make_namespace(tools)
        say(console, installation.install(place))
    with clock.step("apply"):
        results.title(console, "Train and serve")
        say(console, samples.apply(tools) + ": " + ", ".join(f"manifests/samples/{p.name}" for p in samples.FILES))
    with tools.proxy() as socket:
        api = Api(socket)
        observer = Observer(api)
        snapshot = train_and_serve(console, clock, observer)
        ask(console, clock, place, api, observer)
    assert snapshot.training is not None
    samples.mark_shown(tools, snapshot.training)
    results.title(console, "Time")
    results.show_budget(console, clock)
    results.title(console, "Next")
    for line in next_commands(place):
        say(console, line)


def prepare(console: Console, clock: Clock) -> Target:
    """The cluster, and the images in it."""
    results.title(console, "Cluster")
    context = target.named_context()
    if context:
        with clock.step("cluster"):
            place = target.named(context)
        say(console, f"context {context}, as DEMO_CONTEXT says; images {place.operator_image}, {place.workloads_image}")
        return place
    with clock.step("cluster"):
        target.localcluster("up")
    with clock.step("images"):
        helm = target.start_localcluster("helm", "version", "--short")  # builds it, while the images download
        try:
            target.localcluster("images")
            said, _ = helm.communicate(timeout=target.BUILD_SECONDS)
        finally:
            helm.terminate()
        if helm.returncode != 0:
            raise DemoError(f"helm cannot be built:\n{said}")
    place = target.local()
    server = place.tools.run_kubectl("version", "--output=json")
    say(console, f"context {place.tools.context}, Kubernetes {_server_version(server)}; both images are in it")
    return place


def train_and_serve(console: Console, clock: Clock, observer: Observer) -> Snapshot:
    """Show it until the service is Ready; then the loss curve, and a line on each."""
    with live.live_view(console) as show:
        snapshot = wait_until_ready(observer, clock, show)
    assert snapshot.training is not None and snapshot.service is not None
    best: dict[str, Any] = next(iter(snapshot.training["status"].get("artifacts") or ()), {})
    trained = f"trained in {seconds_text(clock.steps.get('train', 0.0))}: artifact {best.get('digest', '')[:19]}…"
    say(console, f"{trained}, accuracy {float(best.get('metrics', {}).get('accuracy', 'nan')):.2%}")
    say(console, f"served at {snapshot.service['status'].get('url', '')}")
    console.print()
    for part in live.loss_plot(snapshot, min(console.width, live.WIDEST) - 6):
        console.print(Padding(part, results.INDENT))
    return snapshot


def ask(console: Console, clock: Clock, place: Target, api: Api, observer: Observer) -> None:
    """Send the held-out images, show what comes back, and what Prometheus would scrape."""
    results.title(console, "Ask it")
    pixels, labels = load_digits()
    held_out = held_out_mask(labels, ImageClassificationParameters().evaluation_fraction)
    images = (pixels[held_out] / 255).astype(np.float32)
    with clock.step("predict"), place.tools.port_forward(NAMESPACE, f"svc/{samples.NAME}", 80) as port:
        one_by_one = predict_all(port, samples.NAME, images)
        began = time.perf_counter()
        predict_all(port, samples.NAME, images, CLIENTS)
        together = time.perf_counter() - began
    answers = results.Answers(images, [str(n) for n in labels[held_out]], one_by_one, CLIENTS, together)
    results.show_pictures(console, answers)
    results.show_figures(console, answers)
    results.title(console, "What Prometheus scrapes")
    services = f"/api/v1/namespaces/{NAMESPACE}/services"
    for source, path, names in (
        ("operator :8080/metrics", f"{services}/{OPERATOR_METRICS}:http/proxy/metrics", OPERATOR_SERIES),
        ("trainer, rank 0 :9400/metrics, while it ran", "", TRAINER_SERIES),
        ("server :8080/metrics", f"{services}/{samples.NAME}:http/proxy/metrics", SERVER_SERIES),
    ):
        try:
            text, problem = (api.text(path) if path else observer.trainer_metrics), "it ended before it was looked at"
        except ApiError as error:
            text, problem = "", str(error)
        results.show_series(console, source, select(text, names), problem)


def next_commands(place: Target) -> list[str]:
    """What to type next, as it works on this machine."""
    lines = []
    if place.local:
        lines.append('eval "$(PYTHONPATH=tests python3 -m localcluster env)"    # kubectl for this cluster')
    context = "" if place.local else f" --context {place.tools.context}"
    kubectl = f"kubectl{context} -n {NAMESPACE}"
    lines += [
        f"{kubectl} get mt,ms",
        f"{kubectl} describe mt {samples.NAME}",
        "kubectl explain mt.spec.failurePolicy" if place.local else f"kubectl{context} explain mt.spec.failurePolicy",
        f"{kubectl} port-forward svc/{samples.NAME} 8080:80 &",
        f"curl localhost:8080/v2/models/{samples.NAME}",
        f"curl localhost:8080/v2/models/{samples.NAME}/infer -d @manifests/samples/digits-request.json",
        "make demo         # again: the training is deleted and learns anew",
        "make demo-down    # remove it",
    ]
    return lines


def remove(console: Console) -> None:
    """`make demo-down`."""
    context = target.named_context()
    tools: Tools | None = target.named(context).tools if context else target.local_tools()
    if tools is None or (not context and not _answers(tools)):
        console.print("No local cluster is up, so nothing of the demo is in it.")
    else:
        for line in installation.remove(tools) or ["Nothing of the demo is in the cluster."]:
            console.print(line, highlight=False, soft_wrap=True)
    if not context:
        console.print(
            "The cluster stays. `make cluster-down` stops it; `make cluster-purge` also removes what was built for it.",
            soft_wrap=True,
        )


def say(console: Console, text: str) -> None:
    """An indented line."""
    console.print(Text(f"    {text}"), soft_wrap=True)


def _answers(tools: Tools) -> bool:
    try:
        tools.run_kubectl("version", seconds=10)
    except DemoError:
        return False
    return True


def _server_version(answer: str) -> str:
    return str(json.loads(answer)["serverVersion"]["gitVersion"])
