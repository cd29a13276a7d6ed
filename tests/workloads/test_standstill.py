"""Ranks that stand still are found out: where they are is said, kept and reported; and what moves is not disturbed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from modelyard_workloads.stacks import digest, summary
from modelyard_workloads.stopwatch import CAUSES, Stopwatch
from modelyard_workloads.watchdog import COMPILE_SECONDS, Watchdog
from ports import free_port
from trainings.pods import ROOT, SMALL, Pod, configuration
from trainings.status_server import StatusServer

LONG = {**SMALL, "epochs": 400}


def environment(port: int, node: int, deadline: int) -> dict[str, str]:
    """One of two nodes with a rank each."""
    return {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
        "NNODES": "2",
        "NODE_RANK": str(node),
        "MODELYARD_PROGRESS_DEADLINE_SECONDS": str(deadline),
    }


def test_a_stopped_rank_on_another_node_is_found_and_the_stacks_of_all_ranks_are_kept_and_reported(
    tmp_path: Path,
) -> None:
    port = free_port()
    config = configuration(tmp_path / "out", LONG)
    with StatusServer(tmp_path) as server:
        pods = [
            Pod(
                tmp_path / str(node),
                config,
                processes=1,
                environment=environment(port, node, 3) | (server.environment if node == 0 else {}),
            )
            for node in (0, 1)
        ]
        pods[0].wait_for_step(2)
        victim = pods[1].rank_pid(1)
        os.kill(victim, signal.SIGSTOP)
        server.wait_for(lambda: "stacks" in server.reports[-1] and server.reports[-1]["progress"].get("step", 0) > 1)
        told = server.reports[-1]["stacks"]
        assert (told["path"], told["uri"]) == ("stacks/attempt-1", "pvc://digits-output/stacks/attempt-1")
        assert "rank 0: as it runs" in told["digest"]
        assert "rank 1: is stopped (SIGSTOP) and cannot show its stack" in told["digest"]
        tick = server.reports[-1]["progress"]["tick"]
        # Asked for them, it takes them again.
        before = (tmp_path / "out/stacks/attempt-1/rank-0.txt").stat().st_mtime_ns
        server.answer = {"directive": "dumpStacks", "directiveId": "1-stacks"}
        server.wait_for(lambda: (tmp_path / "out/stacks/attempt-1/rank-0.txt").stat().st_mtime_ns > before)
        assert server.reports[-1]["progress"]["tick"] == tick  # nothing moved

        kept = {number: (tmp_path / f"out/stacks/attempt-1/rank-{number}.txt").read_text() for number in (0, 1)}
        assert "as it runs" in kept[0]
        assert "modelyard_workloads/loop.py" in kept[0]
        assert "is stopped (SIGSTOP) and cannot show its stack" in kept[1]
        assert "stack of rank 0" in pods[0].text
        assert "stack of rank 1" in pods[1].text

        # It goes on as if nothing had been, and the report says so.
        os.kill(victim, signal.SIGCONT)
        server.wait_for(lambda: server.reports[-1]["progress"]["tick"] > tick)
        server.wait_for(lambda: "stacks" not in server.reports[-1])
        for pod in pods:
            pod.process.send_signal(signal.SIGTERM)
        assert [pod.wait() for pod in pods] == [75, 75], pods[0].text


def test_ranks_that_stand_still_are_ended_at_once_when_they_are_to_stop_with_their_stacks_as_last_words(
    tmp_path: Path,
) -> None:
    pod = Pod(
        tmp_path,
        configuration(tmp_path / "out", LONG),
        environment={"MODELYARD_PROGRESS_DEADLINE_SECONDS": "2", "MODELYARD_GRACE_SECONDS": "600"},
    )
    pod.wait_for_step(2)
    os.kill(pod.rank_pid(1), signal.SIGSTOP)
    # The first time the ranks "stood still" while they were imported.
    pod.wait_for(lambda: "is stopped (SIGSTOP)" in pod.text)
    pod.process.send_signal(signal.SIGTERM)
    assert pod.wait(180) == 143, pod.text
    failure = pod.termination["failure"]
    assert failure["reason"] == "Stalled"
    assert "stack of rank" in failure["logTail"]
    assert pod.termination["stacks"]["path"] == "stacks/attempt-1"


def test_a_directive_asks_for_a_checkpoint_after_which_training_goes_on(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with StatusServer(tmp_path) as server:
        server.answer = {"directive": "checkpoint", "directiveId": "1-grow"}  # from the start: before any rank trains
        pod = Pod(tmp_path, configuration(output, LONG), processes=1, environment=server.environment)
        server.wait_for(lambda: "checkpoint" in server.reports[-1])
        saved = server.reports[-1]["checkpoint"]["step"]
        server.wait_for(lambda: server.reports[-1]["progress"]["step"] > saved + 5)
        assert len(pod.events("checkpoint")) == 1  # once for each id
        server.answer = {"directive": "checkpoint", "directiveId": "1-again"}
        pod.wait_for(lambda: len(pod.events("checkpoint")) == 2)
        pod.process.send_signal(signal.SIGTERM)
        assert pod.wait() == 75, pod.text
    # Every second of the attempt has one cause.
    timing = pod.termination["timing"]
    assert set(timing) == set(CAUSES)
    assert timing["startup"] > 0
    assert timing["productive"] > 0
    assert timing["replayed"] == 0
    following = Pod(tmp_path, configuration(output, LONG, attempt=2), processes=1)
    following.wait_for_step(following_start(following) + 1)
    following.process.send_signal(signal.SIGTERM)
    assert following.wait() == 75


def following_start(pod: Pod) -> int:
    """The step that a pod resumed from."""
    pod.wait_for(lambda: bool(pod.events("resumed")))
    return int(pod.events("resumed")[0]["step"])


def test_the_stacks_of_a_process_that_waits_in_c_are_written_and_digested() -> None:
    code = """
import os, sys
from modelyard_workloads import stacks
from modelyard_workloads.processes import start
script = '''
import os, threading
from modelyard_workloads import stacks
stacks.install(os.environ)
def deep():
    print("ready", flush=True)
    lock.acquire()
lock = threading.Lock()
lock.acquire()
deep()
'''
rank = start(0, dict(os.environ), [sys.executable, "-c", script])
os.set_blocking(rank.output, True)
assert b"ready" in os.read(rank.output, 100)
texts = stacks.dump([rank])
rank.kill()
sys.stdout.write(texts[0])
"""
    variables = {**os.environ, "PYTHONPATH": str(ROOT / "workloads")}
    text = subprocess.run(
        [sys.executable, "-c", code], env=variables, stdout=subprocess.PIPE, text=True, timeout=180, check=True
    ).stdout
    assert "as it runs" in text
    lines = digest(0, text)
    assert lines[0].startswith("stack of rank 0: rank 0, process")
    assert "in deep" in lines[1]


def test_ranks_at_the_same_place_are_named_together_and_the_odd_one_out_first() -> None:
    waiting = "rank {0}, process {0}7, 2026-01-01T00:00:00Z: as it runs\nCurrent thread 0x1 (most recent call first):\n"
    waiting += '  File "distributed_c10d.py", line 3004 in all_reduce\n  File "loop.py", line 270 in train\n'
    texts = {rank: waiting.format(rank) for rank in (0, 1, 2, 4, 5)}
    texts[3] = "rank 3, process 5, 2026-01-01T00:00:00Z: is stopped (SIGSTOP) and cannot show its stack\n"
    texts[6] = "rank 6: its node did not answer\n"
    assert summary(texts).splitlines() == [
        "rank 3: is stopped (SIGSTOP) and cannot show its stack",
        "rank 6: its node did not answer",
        "ranks 0-2, 4-5: as it runs",
        '  File "distributed_c10d.py", line 3004 in all_reduce',
        '  File "loop.py", line 270 in train',
    ]
    assert len(summary({rank: waiting.format(rank) + "x" * rank for rank in range(0, 400, 2)})) <= 2048


def test_a_watchdog_barks_once_a_standstill_and_gives_compilation_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    barks: list[float] = []
    dog = Watchdog(60, lambda: barks.append(now))
    now += 59
    dog.check()
    assert (barks, dog.seconds_left()) == ([], 1)
    now += 2
    dog.check()
    dog.check()
    assert (barks, dog.seconds_left()) == ([1061.0], None)
    dog.moved("compile")
    assert dog.seconds_left() == COMPILE_SECONDS
    dog.moved()  # a late beat of the heart does not end the phase
    assert dog.seconds_left() == COMPILE_SECONDS
    dog.moved("train")
    assert dog.seconds_left() == 60


def test_the_causes_sum_to_the_time_since_the_launcher_started(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 500.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    watch = Stopwatch({"MODELYARD_STARTED_AT": "490.0"})
    now += 1
    watch.switch("productive")
    now += 5
    with watch.during("evaluation"):
        now += 3
    now += 2
    read = watch.read()
    assert read == {
        "startup": 11,
        "productive": 7,
        "replayed": 0,
        "checkpoint": 0,
        "evaluation": 3,
        "dataWait": 0,
    }
    assert json.loads(json.dumps(read)) == read
