"""The pure parts of `make demo`: what it reads from statuses, logs and metrics, and what it draws."""

import json
from datetime import UTC, datetime, timedelta
from io import StringIO

import numpy as np
import pytest
from demo.clock import seconds_text
from demo.errors import DemoError
from demo.installation import chart_values
from demo.kubectl import Tools
from demo.live import plain_line, view
from demo.observation import Snapshot
from demo.pictures import enlarge, picture
from demo.plot import line_plot
from demo.series import select
from demo.target import Target, named_context
from demo.trainerlog import read_history
from demo.words import is_ready, pod_words, service_words, training_words, why_hopeless, why_stalled
from rich.console import Console

NOW = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)

EXPOSITION = """\
# HELP modelyard_training_loss Training loss, averaged over the ranks.
# TYPE modelyard_training_loss gauge
modelyard_training_loss{name="digits",namespace="demo"} 0.51263
# HELP modelyard_requests_total Requests answered.
# TYPE modelyard_requests_total counter
modelyard_requests_total{code="200",model="digits",protocol="v2",route="infer"} 359.0
modelyard_requests_total{code="503",model="digits",protocol="v2",route="ready"} 7.0
modelyard_requests_created{code="200",model="digits",protocol="v2",route="infer"} 1.7e+09
# HELP modelyard_inference_seconds One batch's computation.
# TYPE modelyard_inference_seconds histogram
modelyard_inference_seconds_bucket{le="0.01",model="digits"} 3.0
modelyard_inference_seconds_bucket{le="+Inf",model="digits"} 4.0
modelyard_inference_seconds_sum{model="digits"} 0.02
modelyard_inference_seconds_count{model="digits"} 4.0
"""


def condition(type_: str, status: str, reason: str = "Because", message: str = "") -> dict[str, str]:
    return {"type": type_, "status": status, "reason": reason, "message": message}


def training(phase: str, **status: object) -> dict[str, object]:
    return {
        "kind": "ModelTraining",
        "metadata": {"name": "digits", "uid": "u"},
        "status": {"phase": phase, **status},
    }


def running(told: datetime) -> dict[str, object]:
    progress = {
        "step": 66,
        "totalSteps": 264,
        "epoch": 3,
        "estimatedRemainingSeconds": 90,
        "lastUpdateTime": told.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "metrics": {"loss": "0.7"},
    }
    return training("Running", progress=progress, display={"nodes": "2/2"})


def test_the_remaining_time_counts_on_from_when_it_was_told() -> None:
    words = training_words(running(NOW - timedelta(seconds=20)), NOW)
    assert words.eta == 70
    assert words.fraction == 0.25
    assert training_words(running(NOW - timedelta(seconds=200)), NOW).eta == 0
    assert training_words(running(NOW + timedelta(seconds=5)), NOW).eta == 90, "clocks may differ"


def test_a_training_without_a_status_is_pending() -> None:
    words = training_words({}, NOW)
    assert (words.phase, words.step, words.eta, words.fraction) == ("Pending", 0, None, 0.0)


def test_a_line_has_phase_step_loss_and_remaining_time() -> None:
    log = [
        "progress report failed: timed out",
        '[rank 0] {"event": "progress", "step": 60, "totalSteps": 264, "epoch": 3, "metrics": {"loss": 0.77}}',
        '[rank 0] {"event": "evaluation", "step": 66, "epoch": 3, "metrics": {"accuracy": 0.972}}',
    ]
    snapshot = Snapshot(running(NOW), None, [], read_history(log))
    line = plain_line(snapshot, training_words(running(NOW), NOW), ("Pending", ""))
    expected = "training Running  step 66 of 264  epoch 3  loss 0.770  accuracy 97.2%  ETA 1 min 30 s  pods 2/2"
    assert line == expected


def test_the_log_of_a_step_that_was_done_again_counts_as_it_was_done_last() -> None:
    def line(step: int, loss: float) -> str:
        event = {"event": "progress", "step": step, "totalSteps": 30, "epoch": 1, "metrics": {"loss": loss}}
        return f"[rank 0] {json.dumps(event)}"

    history = read_history([line(10, 2.0), line(20, 1.5), "{not json", "[1]", line(10, 1.9)])
    assert history.losses == [(10, 1.9), (20, 1.5)]
    assert (history.step, history.total) == (10, 30)


def test_a_service_says_what_it_waits_for_and_then_where_it_serves() -> None:
    waiting = {"status": {"phase": "Pending", "conditions": [condition("ModelResolved", "False", message="not yet")]}}
    ready = {"status": {"phase": "Ready", "url": "http://d.x.svc", "conditions": [condition("Ready", "True")]}}
    assert service_words(waiting) == ("Pending", "not yet")
    assert not is_ready(waiting)
    assert service_words(ready) == ("Ready", "http://d.x.svc")
    assert is_ready(ready)


def test_a_failed_training_is_hopeless_and_its_last_failure_is_told() -> None:
    failure = {"podName": "digits-4-1", "rank": 1, "exitCode": 1, "exceptionType": "ValueError", "logTail": "one\ntwo"}
    failed = training(
        "Failed", conditions=[condition("Succeeded", "False", message="maxRestarts is spent")], lastFailure=failure
    )
    why = why_hopeless(failed)
    for expected in ("ModelTraining digits failed", "maxRestarts is spent", "digits-4-1", "ValueError", "    two"):
        assert expected in why


@pytest.mark.parametrize("phase", ["Pending", "Running", "Restarting", "Stalled", "Succeeded"])
def test_a_training_that_may_still_succeed_is_not_hopeless(phase: str) -> None:
    assert why_hopeless(training(phase, conditions=[condition("Accepted", "True")])) == ""


def test_a_refused_spec_is_hopeless_and_the_reason_is_told() -> None:
    refused = training("Pending", conditions=[condition("Accepted", "False", message="spec.x: remove it")])
    assert "refused: spec.x: remove it" in why_hopeless(refused)


def test_a_stall_is_told_with_its_reason_and_is_not_taken_for_a_failure() -> None:
    stalled = training("Stalled", conditions=[condition("Stalled", "True", "ImagePullBackOff", "no such image")])
    assert why_hopeless(stalled) == ""
    assert why_stalled(stalled) == "ModelTraining digits is stalled, ImagePullBackOff: no such image"
    assert why_stalled(training("Running")) == ""


def test_a_pod_is_called_what_kubectl_calls_it() -> None:
    pulling = {"metadata": {}, "status": {"containerStatuses": [{"state": {"waiting": {"reason": "ErrImagePull"}}}]}}
    assert pod_words(pulling) == "ErrImagePull"
    assert pod_words({"metadata": {"deletionTimestamp": "x"}, "status": {}}) == "Terminating"
    assert pod_words({"metadata": {}, "status": {"phase": "Running"}}) == "Running"


def test_a_plot_goes_from_the_top_left_to_the_bottom_right_and_has_labelled_axes() -> None:
    lines = line_plot([(0, 2.0), (50, 1.0), (100, 0.0)], width=40, height=8)
    assert len(lines) == 8
    assert [line[:2] for line in lines[:6]] == ["2┤", " │", "1┤", " │", " │", "0┤"]
    assert lines[0][2] != " "
    assert not lines[5][2:30].strip(), "the line is at the bottom only at its end"
    assert len(lines[5]) == 40
    assert lines[-1].split() == ["0", "50", "100"]
    assert all(len(line) <= 40 for line in lines)


def test_a_plot_leaves_room_for_the_steps_to_come_and_there_is_none_without_points() -> None:
    half = line_plot([(0, 1.0), (50, 1.0)], width=44, height=6, right=100)
    assert len(half[0].rstrip()) <= 26
    assert line_plot([], width=40, height=8) == []


def test_a_picture_has_half_as_many_lines_as_the_image_and_bright_is_ink() -> None:
    image = np.zeros((4, 3))
    image[0:2, 1] = 1.0
    plain = picture(image, colour=False)
    assert [line.plain for line in plain] == [" █ ", "   "]
    coloured = picture(image, colour=True)
    assert [line.plain for line in coloured] == ["▀▀▀", "▀▀▀"]
    styles = [str(span.style) for span in coloured[0].spans]
    assert styles == ["#181818 on #181818", "#f9f9f9 on #f9f9f9", "#181818 on #181818"]


def test_an_image_is_enlarged_between_its_own_corners() -> None:
    image = np.array([[0.0, 1.0], [0.5, 0.0]])
    large = enlarge(image, 5)
    assert large.shape == (5, 5)
    assert [large[0, 0], large[0, -1], large[-1, 0], large[-1, -1]] == [0.0, 1.0, 0.5, 0.0]
    assert large[0, 2] == pytest.approx(0.5)


def test_series_are_selected_in_order_and_a_histogram_becomes_its_mean() -> None:
    names = ("modelyard_inference_seconds", "modelyard_absent", "modelyard_requests_total", "modelyard_training_loss")
    found = select(EXPOSITION, names)
    assert [(s.name + s.labels, s.value) for s in found] == [
        ("modelyard_inference_seconds", "0.005 mean of 4"),
        ('modelyard_requests_total{code="200", route="infer"}', "359"),
        ("modelyard_training_loss", "0.5126"),
    ]
    assert found[0].help == "One batch's computation."


def test_the_operator_of_the_demo_watches_its_own_namespace_alone() -> None:
    tools = Tools("kubectl", "helm", "some-context", None)
    target = Target(tools, False, "registry:5000/a/operator:1", "b/workloads@sha256:12")
    values = chart_values(target, own_definitions=False)
    assert values["watchNamespaces"] == ["modelyard-demo"]
    assert values["crds"] == {"enabled": False}
    assert values["image"] == {"repository": "registry:5000/a/operator", "tag": "1"}
    assert values["workloads"]["image"] == {"repository": "b/workloads", "digest": "sha256:12"}
    with pytest.raises(DemoError, match="with a tag"):
        chart_values(Target(tools, False, "registry:5000/operator", "w:1"), own_definitions=True)


def test_the_current_context_is_never_taken_by_accident() -> None:
    assert named_context({"KUBECONFIG": "/somewhere"}) == ""
    assert named_context({"DEMO_CONTEXT": "mine"}) == "mine"


@pytest.mark.parametrize(("seconds", "text"), [(0.44, "0.4 s"), (24.3, "24 s"), (60, "1 min 0 s"), (185, "3 min 5 s")])
def test_seconds_are_written_for_people(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


@pytest.mark.parametrize("width", [60, 80, 160])
def test_the_live_view_fits_its_terminal(width: int) -> None:
    log = [
        f'{{"event": "progress", "step": {s}, "totalSteps": 264, "epoch": 1, "metrics": {{"loss": {3 - s / 100}}}}}'
        for s in (10, 100, 200)
    ]
    pods = [{"metadata": {"name": f"digits-1-{rank}"}, "status": {"phase": "Running"}} for rank in (0, 1)]
    snapshot = Snapshot(running(NOW), {"metadata": {}, "status": {}}, pods, read_history(log))
    console = Console(width=width, record=True, file=StringIO())
    console.print(view(snapshot, width))
    lines = console.export_text().splitlines()
    assert all(len(line) <= width for line in lines)
    assert any("step 200 of 264" in line for line in lines)
    assert any("digits-1-1" in line for line in lines)
