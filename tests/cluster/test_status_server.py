"""Progress by the TrainJob status protocol: who may post, what is shown, and what is refused with which answer."""

from __future__ import annotations

import pytest
from cluster.kubernetes_api import Object, eventually
from cluster.laboratory import Laboratory
from cluster.objects import Played, training
from cluster.poster import Poster
from ports import free_port

# What transformers' KubeflowCallback sends, with a metric that is no number and fields of its own.
REPORT: Object = {
    "trainerStatus": {
        "progressPercentage": 45,
        "estimatedRemainingSeconds": 125,
        "metrics": [{"name": "loss", "value": "0.25"}, {"name": "grad_norm", "value": "nan"}],
        "lastUpdatedTime": "2026-01-01T00:00:00+00:00",
    }
}


@pytest.mark.side_by_side(seconds=25)
def test_only_rank_0_of_the_current_attempt_tells_of_progress(laboratory: Laboratory) -> None:
    namespace, port = laboratory.make_namespace("status"), free_port()
    options = ("--leader-election", "false", "--status-url", "https://127.0.0.1", "--status-port", str(port))
    operator, _ = laboratory.start_operator([namespace], *options)
    told = Played.create(laboratory.api, namespace, training("told", nodes=2))
    other = Played.create(laboratory.api, namespace, training("other"))
    told.running()
    other.running()
    poster = Poster(laboratory.api, namespace, port)
    rank_0 = poster.token("told-1-0")

    assert poster.post("told", rank_0, REPORT) == (200, {"directive": "continue"})
    shown = eventually("the progress is shown", lambda: told.status.get("progress"), 30, told.told)
    assert (shown["percentage"], shown["estimatedRemainingSeconds"]) == (45, 125)
    assert shown["metrics"] == {"loss": "0.25", "grad_norm": "nan"}
    assert told.status["display"]["progress"] == "45%"
    assert told.status["display"]["eta"] == "2m5s"

    for name, token, body, code in (
        ("told", None, REPORT, 401),
        ("told", "no token at all", REPORT, 401),
        ("told", poster.token("told-1-0", audience="https://kubernetes.default.svc"), REPORT, 401),
        ("told", poster.token("other-1-0"), REPORT, 403),
        ("other", rank_0, REPORT, 403),
        ("nobody", rank_0, REPORT, 404),
        ("told", rank_0, "{", 400),
        ("told", rank_0, {"trainerStatus": {"progressPercentage": 101}}, 400),
        ("told", rank_0, {"trainerStatus": {"metrics": [{"name": "a", "value": "1"}] * 65}}, 400),
        ("told", rank_0, {"trainerStatus": {}, "padding": "x" * 70_000}, 413),
    ):
        assert poster.post(name, token, body)[0] == code, (name, body)

    later = {"trainerStatus": {"progressPercentage": 99}}
    assert poster.post("told", poster.token("told-1-1"), later) == (200, {"directive": "continue"})
    assert told.status["progress"]["percentage"] == 45, "the other nodes hear the directive, and tell nothing"

    told.end(1, 1, 1)
    told.running(attempt=2)
    assert poster.post("told", rank_0, REPORT)[0] in (401, 403), "the first attempt is over, its pods are not heard"
    assert poster.post("told", poster.token("told-2-0"), REPORT)[0] == 200
    assert rank_0 not in operator.log.read_text(), "no token in the log"
