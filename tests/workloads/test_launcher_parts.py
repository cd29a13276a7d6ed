"""The launcher's parts alone: the message's size, the reports, and processes that misbehave in ways trainers rarely
do.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from modelyard_workloads import termination
from modelyard_workloads.announcer import Announcer
from modelyard_workloads.config import load
from modelyard_workloads.exits import PodError
from modelyard_workloads.launch import rank_environments
from modelyard_workloads.processes import Failure, Lines
from modelyard_workloads.status import Estimator, StatusReporter, interval, report
from modelyard_workloads.supervisor import Outcome, Supervisor
from modelyard_workloads.watchdog import Investigator
from trainings.pods import ROOT, SMALL, configuration
from trainings.status_server import StatusServer


def test_a_termination_message_fits_whatever_the_log_and_the_message_are() -> None:
    failure = Failure(rank=3, at=0.0, exit_code=1, exception_type="ValueError", message='"' * 5000)
    outcome = Outcome(exit_code=1, failure=failure, log_tail=['\\"é\n' * 500] * 20, checkpoint={"step": 5, "uri": "u"})
    data = termination.encode(termination.message(outcome))
    assert len(data) <= 4096
    body = json.loads(data)
    assert body["failure"]["exceptionType"] == "ValueError"
    assert len(body["failure"]["message"]) == 1024  # the log's tail gives way first
    assert body["checkpoint"] == {"step": 5, "uri": "u"}
    assert body["step"] == 5


def test_a_short_failure_is_told_in_full() -> None:
    failure = Failure(rank=0, at=0.0, signal="SIGKILL", message="killed by SIGKILL")
    body = termination.message(Outcome(failure=failure, log_tail=["a", "b"], progress={"step": 0}))
    assert body == {
        "failure": {
            "rank": 0,
            "exitCode": None,
            "signal": "SIGKILL",
            "exceptionType": None,
            "message": "killed by SIGKILL",
            "logTail": "a\nb",
        }
    }


def test_lines_are_cut_where_they_end_and_endless_ones_somewhere() -> None:
    seen: list[str] = []
    lines = Lines(seen.append)
    for piece in (b"on", b"e\ntw", "ö\r\n".encode(), b"x" * 70_000, b"\nend"):
        lines.feed(piece)
    lines.finish()
    assert seen == ["one", "twö", "x" * 70_000, "", "end"]


def test_every_rank_of_a_node_gets_its_place() -> None:
    environments = rank_environments({"NNODES": "3", "NODE_RANK": "1", "NPROC_PER_NODE": "2", "RANK": "1"})
    assert sorted(environments) == [2, 3]
    assert environments[3]["RANK"] == "3"
    assert environments[3]["LOCAL_RANK"] == "1"
    assert environments[3]["WORLD_SIZE"] == "6"
    assert environments[3]["MASTER_ADDR"] == "localhost"
    for wrong in ({"NPROC_PER_NODE": "auto"}, {"NNODES": "0"}, {"NODE_RANK": "1"}):
        with pytest.raises(PodError):
            rank_environments(wrong)


def test_the_time_to_go_follows_the_speed_since_the_start_of_the_process() -> None:
    estimator = Estimator()
    assert estimator.remaining(100, 200, now=0.0) is None  # resumed at 100
    assert estimator.remaining(150, 200, now=10.0) == 10


def test_a_report_before_any_step_is_complete() -> None:
    body = report(Outcome(), None)
    assert body["trainerStatus"]["progressPercentage"] == 0
    assert body["trainerStatus"]["metrics"] == []
    assert body["progress"] == {"tick": 0}


@pytest.mark.parametrize(("deadline", "seconds"), [("", 5), ("900", 5), ("15", 5), ("6", 2), ("1", 0.5)])
def test_several_reports_fit_into_a_progress_deadline(deadline: str, seconds: float) -> None:
    assert interval({"MODELYARD_PROGRESS_DEADLINE_SECONDS": deadline} if deadline else {}) == seconds


def reporting(environment: Mapping[str, str], follow: Callable[[str], None] = print) -> StatusReporter | None:
    """A reporter of nothing in particular."""
    return StatusReporter.from_environment(environment, lambda: report(Outcome(), None), follow)


@pytest.mark.parametrize("code", [401, 404, 500, 302])
def test_an_operator_that_refuses_reports_is_mentioned_once_without_the_token(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], code: int
) -> None:
    with StatusServer(tmp_path, code) as server:
        reporter = reporting(server.environment)
        assert reporter is not None
        server.wait_for(lambda: len(server.reports) == 1)
        reporter.close()
    assert len(server.reports) == 2
    said = capfd.readouterr().err
    assert said.count("progress report failed") == 1
    assert "secret-token" not in said


def test_an_operator_that_is_not_there_costs_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with StatusServer(tmp_path) as server:
        environment = server.environment
    reporter = reporting(environment)
    assert reporter is not None
    began = time.monotonic()
    reporter.close()
    assert time.monotonic() - began < 7
    assert "progress report failed" in capfd.readouterr().err
    assert reporting({**environment, "KUBEFLOW_TRAINER_SERVER_URL": "http://x"}) is None
    assert reporting({}) is None


def test_the_result_and_the_end_of_the_ranks_are_movements_and_compiling_is_one_for_its_time(tmp_path: Path) -> None:
    with StatusServer(tmp_path) as server:
        config = load({"MODELYARD_CONFIG": json.dumps(configuration(tmp_path / "out", SMALL))})
        announcer = Announcer({**server.environment, "MODELYARD_PROGRESS_DEADLINE_SECONDS": "1"}, config)
        supervisor = Supervisor()
        outcome = supervisor.outcome
        outcome.tick, outcome.progress = 7, {"step": 0, "totalSteps": 9, "phase": "compile"}
        announcer.connect(supervisor, Investigator(say=lambda *_: None))
        server.wait_for(lambda: len(server.reports) == 3)
        ticks = [found["progress"]["tick"] for found in server.reports]
        assert ticks == sorted(set(ticks)), "the operator sees movement while the first pass is compiled"
        outcome.progress = {"step": 9, "totalSteps": 9, "phase": "publish"}
        seen = len(server.reports)
        server.wait_for(lambda: len(server.reports) >= seen + 3)
        still = server.reports[-1]["progress"]["tick"]
        assert server.reports[-2]["progress"]["tick"] == still
        outcome.result = {"step": 9}
        server.wait_for(lambda: server.reports[-1]["progress"]["tick"] == still + 1)
        announcer.close()
    assert server.reports[-1]["progress"]["tick"] == still + 2


def supervise(script: str, ranks: int = 2, grace: float = 11.5) -> subprocess.Popen[str]:
    """A launcher whose ranks run a script instead of a training; prints the outcome as JSON."""
    code = f"""
import json, os, sys
from dataclasses import asdict
from modelyard_workloads.processes import start
from modelyard_workloads.supervisor import Supervisor
supervisor = Supervisor()
supervisor.configure(grace_seconds={grace}, prefix=True, on_event=None)
supervisor.prepare()
commands = [[sys.executable, "-c", {script!r}]] * {ranks}
outcome = supervisor.run([start(i, {{**os.environ, "RANK": str(i)}}, c) for i, c in enumerate(commands)])
failure = asdict(outcome.failure) if outcome.failure else {{}}
print(json.dumps({{"code": outcome.exit_code, "tail": outcome.log_tail, **failure}}))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "workloads")}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)


def outcome(process: subprocess.Popen[str]) -> tuple[dict[str, object], str]:
    """What the launcher found, and all it passed on."""
    text, _ = process.communicate(timeout=180)
    return json.loads(text.splitlines()[-1]), text


def test_a_rank_that_ignores_the_others_failure_is_ended_and_is_not_the_cause() -> None:
    script = """
import os, time
print("here", os.environ["RANK"], flush=True)
time.sleep(60) if os.environ["RANK"] == "0" else exit(3)
"""
    began = time.monotonic()
    found, text = outcome(supervise(script))
    assert time.monotonic() - began < 20
    assert (found["rank"], found["code"], found["exit_code"]) == (1, 3, 3)
    assert found["tail"] == ["here 1"]
    assert "[rank 0] here 0" in text


def test_a_reported_failure_beats_an_earlier_exit_of_a_rank_that_lost_it() -> None:
    script = """
import json, os, time
def say(**event):
    os.write(int(os.environ["MODELYARD_EVENTS_FD"]), (json.dumps({"event": "failure", **event}) + "\\n").encode())
if os.environ["RANK"] == "1":
    say(exceptionType="ValueError", message="the cause")
    time.sleep(1)  # the interpreter takes its time to end
else:
    time.sleep(0.3)
    say(exceptionType="PeerLost", message="Connection closed by peer", reason="PeerLost")
raise SystemExit(1)
"""
    found, _ = outcome(supervise(script))
    assert (found["rank"], found["exception_type"], found["message"]) == (1, "ValueError", "the cause")


def test_ranks_that_do_not_stop_are_killed_before_the_kubelet_would_and_that_is_no_success() -> None:
    script = (
        "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "os.write(int(os.environ['MODELYARD_EVENTS_FD']), b'{\"event\": \"started\"}\\n');"
        "print('ready', flush=True); time.sleep(60)"
    )
    process = supervise(script, ranks=1)
    assert process.stdout is not None
    assert process.stdout.readline() == "[rank 0] ready\n"
    process.send_signal(signal.SIGTERM)
    found, _ = outcome(process)
    assert (found["code"], found["reason"]) == (143, "StopTimeout")


def test_a_stop_before_the_ranks_have_met_is_a_clean_one() -> None:
    process = supervise("import time; print('ready', flush=True); time.sleep(60)", ranks=1)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    found, _ = outcome(process)
    assert (found["code"], found["reason"], found["signal"]) == (75, "Checkpointed", None)


def test_a_stop_while_the_ranks_meet_is_a_clean_one_whatever_those_say_who_lost_the_others() -> None:
    """One rank has a handler already, the other is ended by the signal, and the library's words for that are many."""
    script = """
import json, os, signal, time
def stop(*_):
    time.sleep(0.3)
    told = {"event": "failure", "exitCode": 1, "exceptionType": "RuntimeError", "message": "unexpected end of stream"}
    os.write(int(os.environ["MODELYARD_EVENTS_FD"]), (json.dumps(told) + "\\n").encode())
    os._exit(1)
if os.environ["RANK"] == "1":
    signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
time.sleep(60)
"""
    process = supervise(script)
    assert process.stdout is not None
    for _ in range(2):
        process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    found, text = outcome(process)
    assert (found["code"], found["reason"]) == (75, "Checkpointed"), text


def test_what_a_rank_has_started_ends_with_it_when_it_is_killed(tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    script = f"""
import os, subprocess, sys, time
if os.environ["RANK"] == "0":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    open({str(marker)!r}, "w").write(str(child.pid))
    time.sleep(60)
while not os.path.exists({str(marker)!r}):
    time.sleep(0.05)
raise SystemExit(1)
"""
    found, _ = outcome(supervise(script))
    assert found["rank"] == 1
    pid = int(marker.read_text())
    for _ in range(50):
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return
        time.sleep(0.1)
    raise AssertionError(f"process {pid} survived")
