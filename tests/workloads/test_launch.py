"""The pod's process 1 with real ranks: signals, root cause, resume after SIGKILL, and what the operator hears."""

from __future__ import annotations

import signal
import urllib.request
from pathlib import Path

import pytest
import torch
from modelyard_workloads.artifact import read_artifact
from modelyard_workloads.tasks import build_model_from_artifact
from trainings.pods import SMALL, Pod, configuration, weights_digest
from trainings.status_server import StatusServer

EVERY_STEP = {"everySteps": 1, "everySeconds": None, "keepLast": 2, "resume": "Auto"}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of the final weights of a small run on two ranks that nothing disturbed."""
    directory = tmp_path_factory.mktemp("uninterrupted")
    pod = Pod(directory, configuration(directory / "out", SMALL))
    assert pod.wait() == 0, pod.text
    return weights_digest(pod.termination, directory / "out")


@pytest.mark.timeout(600)
def test_two_ranks_learn_the_digits_and_report_while_they_do(tmp_path: Path) -> None:
    output = tmp_path / "out"
    checkpoint = {"everySeconds": 600}
    with StatusServer(tmp_path) as server:
        pod = Pod(tmp_path, configuration(output, {"epochs": 3}, checkpoint=checkpoint), environment=server.environment)
        pod.wait_for_step(20)
        metrics = urllib.request.urlopen(f"http://localhost:{pod.metrics_port}/metrics", timeout=60).read().decode()
        assert pod.wait(560) == 0, pod.text
    result = pod.termination["result"]
    assert float(result["metrics"]["accuracy"]) >= 0.97  # in 3 epochs; the demo's test has all 10 and asks for 98.5 %
    assert (result["step"], result["totalSteps"], result["epoch"]) == (66, 66, 3)
    assert [artifact["name"] for artifact in result["artifacts"]] == ["best", "final"]
    assert pod.termination["checkpoint"]["uri"] == "pvc://digits-output/checkpoints/step-0000000066"
    assert 'modelyard_training_loss{name="digits",namespace="tests"}' in metrics
    assert 'modelyard_training_total_steps{name="digits",namespace="tests"} 66.0' in metrics

    first, last = server.reports[0], server.reports[-1]
    assert first["trainerStatus"]["progressPercentage"] == 0
    assert last["trainerStatus"]["progressPercentage"] == 100
    assert last["trainerStatus"]["estimatedRemainingSeconds"] == 0
    assert {m["name"] for m in last["trainerStatus"]["metrics"]} == {"loss", "accuracy", "evaluationLoss"}
    assert last["progress"]["step"] == 66
    assert last["checkpoint"]["step"] == 66
    assert set(server.authorizations) == {"Bearer secret-token"}
    gaps = [after - before for before, after in zip(server.times, server.times[1:], strict=False)]
    assert min(gaps[:-1]) >= 4.9  # the last report does not wait

    for entry in result["artifacts"]:
        artifact = read_artifact(output / "artifacts" / entry["uri"].rsplit("/", 1)[1], entry["digest"])
        model = build_model_from_artifact(artifact)
        for golden in artifact.manifest.golden:
            answers = model({tensor.name: torch.tensor(tensor.data) for tensor in golden.inputs})
            for expected in golden.outputs:
                torch.testing.assert_close(answers[expected.name], torch.tensor(expected.data), rtol=1e-5, atol=1e-6)


def test_a_run_one_of_whose_ranks_is_killed_ends_with_the_very_bits_of_the_one_never_killed(
    tmp_path: Path, uninterrupted: str
) -> None:
    output = tmp_path / "out"
    pod = Pod(tmp_path, configuration(output, SMALL, checkpoint=EVERY_STEP))
    pod.wait_for_step(6)
    pod.kill_rank(1)
    assert pod.wait() == 128 + signal.SIGKILL, pod.text
    failure = pod.termination["failure"]
    assert (failure["rank"], failure["signal"], failure["exitCode"]) == (1, "SIGKILL", None)
    assert pod.termination["checkpoint"]["step"] >= 4  # one may have been in flight
    pod = Pod(tmp_path, configuration(output, SMALL, attempt=2, checkpoint=EVERY_STEP))
    assert pod.wait() == 0, pod.text
    (resumed,) = pod.events("resumed")
    assert resumed["step"] >= 4
    assert weights_digest(pod.termination, output) == uninterrupted


def test_sigterm_to_the_launcher_saves_an_agreed_step_and_exits_75_and_the_next_attempt_ends_the_same(
    tmp_path: Path, uninterrupted: str
) -> None:
    output = tmp_path / "out"
    pod = Pod(tmp_path, configuration(output, SMALL))  # no periodic checkpoints
    pod.wait_for_step(7)
    pod.process.send_signal(signal.SIGTERM)
    assert pod.wait() == 75, pod.text
    message = pod.termination
    assert message["failure"]["reason"] == "Checkpointed"
    assert message["failure"]["exitCode"] == 75
    assert message["step"] == message["checkpoint"]["step"] >= 7
    following = Pod(tmp_path, configuration(output, SMALL, attempt=2))
    assert following.wait() == 0, following.text
    assert following.events("resumed")[0]["step"] == message["step"]
    assert weights_digest(following.termination, output) == uninterrupted


def test_the_first_rank_to_fail_is_the_root_cause_not_those_that_lost_it(tmp_path: Path) -> None:
    # Rank 0 alone writes: with its output replaced by a file, it fails while rank 1 waits for it.
    output = tmp_path / "out"
    output.mkdir()
    (output / "checkpoints").write_text("in the way")
    pod = Pod(tmp_path, configuration(output, SMALL))
    assert pod.wait() == 78, pod.text
    failure = pod.termination["failure"]
    assert (failure["rank"], failure["exitCode"], failure["exceptionType"]) == (0, 78, "PodError")
    assert "cannot be written" in failure["message"]
    assert "[rank 1]" not in failure["logTail"]


def test_a_loss_that_is_no_number_ends_the_training_with_advice(tmp_path: Path) -> None:
    wild = {**SMALL, "learningRate": 100, "warmupEpochs": 0, "momentum": 0.99}
    pod = Pod(tmp_path, configuration(tmp_path / "out", wild), processes=1)
    assert pod.wait() == 1, pod.text
    failure = pod.termination["failure"]
    assert failure["exceptionType"] == "Diverged"
    assert "lower learningRate" in failure["message"]
    assert "Traceback" in failure["logTail"]


@pytest.mark.parametrize(
    ("changes", "environment", "code", "message"),
    [
        ({"parameters": {"epoch": 1}, "attempt": 0}, {}, 64, "parameters.epoch: is not a known field"),
        ({"parameters": {"batchSize": 1}}, {}, 64, "parameters.batchSize: 1 samples are too few for the 2 processes"),
        ({}, {"NNODES": "two"}, 78, "NNODES='two' must be a number"),
        ({}, {"NNODES": "2", "NODE_RANK": "2"}, 78, "NODE_RANK=2"),
    ],
)
def test_a_wrong_configuration_is_refused_before_any_rank_starts(
    tmp_path: Path, changes: dict[str, object], environment: dict[str, str], code: int, message: str
) -> None:
    config = {**configuration(tmp_path / "out", {}), **changes}
    pod = Pod(tmp_path, config, environment=environment)
    assert pod.wait(120) == code
    assert pod.termination["failure"]["exitCode"] == code
    assert message in pod.termination["failure"]["message"]
    assert not (tmp_path / "out").exists()


def test_missing_data_exits_65_and_a_wrong_architecture_64(tmp_path: Path) -> None:
    missing = configuration(tmp_path / "out", SMALL, dataset={"uri": "file:///no/such/images"})
    pod = Pod(tmp_path, missing, processes=1)
    assert pod.wait() == 65, pod.text
    assert "file:///no/such/images: there is nothing there" in pod.termination["failure"]["message"]
    wrong = configuration(tmp_path / "out", {**SMALL, "architecture": "resnet1"})
    pod = Pod(tmp_path, wrong, processes=1)
    assert pod.wait() == 64, pod.text
    failure = pod.termination["failure"]
    assert failure["exceptionType"] == "ConfigError"
    assert "parameters.architecture: 'resnet1' is no known architecture; did you mean resnet1" in failure["message"]
