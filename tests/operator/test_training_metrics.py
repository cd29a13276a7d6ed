"""The operator's series of trainings: what they say, that labels are bounded, and that they go with the object."""

from __future__ import annotations

from modelyard_operator import metrics
from modelyard_operator.objects import SERVICE, TRAINING
from modelyard_operator.plan import Key, Object
from modelyard_operator.store import Store
from modelyard_operator.training.series import series
from prometheus_client import CollectorRegistry, generate_latest
from simulation import World
from trainings_world import to_running, world


def scraped(store: Store) -> list[str]:
    registry = CollectorRegistry()
    registry.register(metrics.ObjectCollector(store.of_kind, series))
    return [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]


def watched(w: World) -> Store:
    store = Store()
    store.put(TRAINING, w.parent)
    return store


def lived() -> World:
    w = world()
    to_running(w)
    w.wait(30)
    checkpoint = {"step": 40, "uri": "pvc://a/b", "time": "2026-01-01T00:00:20Z", "sizeBytes": 1, "saveSeconds": 1.5}
    progress = {"step": 45, "totalSteps": 100, "stepSeconds": 0.5}
    w.reported(
        step=45, loss="0.25", progress=progress, checkpoint=checkpoint, timing={"startup": 5.0, "productive": 25.0}
    )
    w.settle()
    return w


def test_a_running_training_is_seen_in_numbers() -> None:
    lines = scraped(watched(lived()))
    who = 'name="demo",namespace="ns"'
    for line in (
        f'modelyard_training_info{{{who},trainer="image"}} 1.0',
        f'modelyard_training_phase{{{who},phase="Running"}} 1.0',
        f"modelyard_training_progress_ratio{{{who}}} 0.45",
        f"modelyard_training_step{{{who}}} 45.0",
        f"modelyard_training_loss{{{who}}} 0.25",
        f"modelyard_training_eta_seconds{{{who}}} 55.0",
        f"modelyard_training_nodes_ready{{{who}}} 2.0",
        f"modelyard_training_step_seconds{{{who}}} 0.5",
        f"modelyard_training_checkpoint_step{{{who}}} 40.0",
        f"modelyard_training_checkpoint_save_seconds{{{who}}} 1.5",
        f"modelyard_training_goodput_ratio{{{who}}} 0.8333",
        f'modelyard_training_lost_seconds{{cause="startup",{who}}} 5.0',
    ):
        assert line in lines, (line, lines)
    assert any(line.startswith(f"modelyard_training_checkpoint_age_seconds{{{who}}}") for line in lines)


def test_what_is_not_known_has_no_series() -> None:
    w = world()
    w.settle()
    lines = scraped(watched(w))
    assert not [line for line in lines if line.startswith(("modelyard_training_loss", "modelyard_training_checkpoint"))]


def test_the_series_go_with_the_object() -> None:
    store = watched(lived())
    assert scraped(store)
    store.remove(TRAINING, store.of_kind(TRAINING)[0])
    assert scraped(store) == []


def counted(name: str, **labels: str) -> float:
    return metrics.REGISTRY.get_sample_value(name, labels) or 0.0


def play(w: World, namespace: str) -> None:
    """Every status that the world writes is counted, as the reconciler does it."""
    key = Key(TRAINING, namespace, "demo")
    before: Object = {}
    reconcile = w.reconcile

    def observed() -> bool:
        nonlocal before
        changed = reconcile()
        if w.status != before:
            metrics.observe_status(key, before, w.status)
            before = w.status
        return changed

    w.reconcile = observed  # type: ignore[method-assign]


def test_what_happens_is_counted_once() -> None:
    w = world(
        failurePolicy={
            "rules": [{"name": "mine", "action": "Restart", "onExitCodes": {"operator": "In", "values": [3]}}]
        }
    )
    play(w, "counted")
    to_running(w)
    for attempt, code in ((1, 3), (2, 75)):
        w.reported(step=10 * attempt)
        w.pod(f"demo-{attempt}-0", phase="Failed", exit_code=code)
        to_running(w)
    w.pod("demo-3-0", phase="Failed", exit_code=78)
    w.settle()
    w.settle()
    assert counted("modelyard_training_created_total", namespace="counted", trainer="image") == 1
    rules = ("rules", "checkpointed", "configuration")  # users' words are not labels
    assert [counted("modelyard_training_failures_total", namespace="counted", rule=rule) for rule in rules] == [1, 1, 1]
    assert not counted("modelyard_training_failures_total", namespace="counted", rule="mine")
    ended = {"namespace": "counted", "trainer": "image", "result": "Failed", "reason": "Error"}
    assert counted("modelyard_training_finished_total", **ended) == 1


def test_a_success_is_counted() -> None:
    w = world()
    play(w, "succeeded")
    before = counted("modelyard_training_startup_seconds_count", trainer="image")
    to_running(w)
    w.gang("Succeeded")
    w.settle()
    ended = {"namespace": "succeeded", "trainer": "image", "result": "Succeeded", "reason": "Completed"}
    assert counted("modelyard_training_finished_total", **ended) == 1
    assert counted("modelyard_training_startup_seconds_count", trainer="image") == before + 1


def test_services_are_no_trainings() -> None:
    metrics.observe_status(Key(SERVICE, "ns", "demo"), {}, {"phase": "Failed"})
    assert not counted("modelyard_training_finished_total", namespace="ns", result="Failed")
