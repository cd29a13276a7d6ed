"""The store and the audit of the watches that feed it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from modelyard_operator.objects import labels_for
from modelyard_operator.plan import Key, Object
from modelyard_operator.store import Store, WatchAudit

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TRAINING = Key("ModelTraining", "ns", "demo")


def obj(kind: str, name: str, version: int, uid: str = "", labels: dict[str, str] | None = None, **more: Any) -> Object:
    meta = {"name": name, "namespace": "ns", "uid": uid or f"uid-{name}", "resourceVersion": str(version)}
    return {"kind": kind, "metadata": meta | {"labels": labels or {}}, **more}


def pod(version: int = 1, **more: Any) -> Object:
    return obj("Pod", "demo-1-0", version, labels=labels_for("ModelTraining", "demo"), **more)


def test_a_child_wakes_its_parent() -> None:
    store = Store()
    assert store.put("Pod", pod()) == {TRAINING}
    assert [p["metadata"]["name"] for p in store.children(TRAINING).pods] == ["demo-1-0"]


def test_an_older_version_does_not_replace_a_newer_one() -> None:
    store = Store()
    store.put("Pod", pod(10, status={"phase": "Running"}))
    assert store.put("Pod", pod(9, status={"phase": "Pending"})) == set()
    assert store.children(TRAINING).pods[0]["status"]["phase"] == "Running"


def test_a_late_answer_does_not_bring_a_deleted_object_back() -> None:
    store = Store()
    store.put("Pod", pod(1))
    assert store.remove("Pod", pod(2)) == {TRAINING}
    assert store.put("Pod", pod(1)) == set()
    assert store.children(TRAINING).pods == ()


def test_an_object_that_lost_its_labels_is_known_again_when_it_got_them_back() -> None:
    store = Store()
    store.put("Pod", pod(1))
    store.remove("Pod", pod(2))
    assert store.put("Pod", pod(3)) == {TRAINING}
    assert store.remove("Pod", pod(2)) == set(), "news from before"
    assert len(store.children(TRAINING).pods) == 1


def test_the_deletion_of_a_predecessor_does_not_remove_its_namesake() -> None:
    store = Store()
    store.put("Pod", obj("Pod", "demo-1-0", 5, "new", labels_for("ModelTraining", "demo")))
    store.remove("Pod", obj("Pod", "demo-1-0", 4, "old"))
    assert len(store.children(TRAINING).pods) == 1


def test_a_service_is_woken_by_the_training_it_names() -> None:
    store = Store()
    spec = {"model": {"source": {"trainingRef": {"name": "demo"}}}}
    service = Key("ModelService", "ns", "front")
    store.put("ModelService", obj("ModelService", "front", 1, spec=spec))
    assert store.put("ModelTraining", obj("ModelTraining", "demo", 2)) == {TRAINING, service}
    assert store.children(service).training is not None
    store.put("ModelService", obj("ModelService", "front", 3, spec={"model": {"source": {"uri": "pvc://a/b"}}}))
    assert store.put("ModelTraining", obj("ModelTraining", "demo", 4)) == {TRAINING}


def test_what_nobody_reads_is_not_kept() -> None:
    store = Store()
    heavy = pod(1, spec={"nodeName": "n", "containers": [{"name": "trainer"}]})
    heavy["metadata"]["managedFields"] = [{"manager": "x"}]
    store.put("Pod", heavy)
    kept = store.children(TRAINING).pods[0]
    assert kept["spec"] == {"nodeName": "n"} and "managedFields" not in kept["metadata"]
    assert "managedFields" in heavy["metadata"], "the caller's object is its own"


def test_a_watch_that_misses_a_change_falls_behind() -> None:
    store = Store()
    audit = WatchAudit(store)
    store.put("Pod", pod(5))
    assert audit.compare("Pod", [pod(5)], NOW)[0] == 0
    assert audit.compare("Pod", [pod(6)], NOW)[0] == 0, "one listing may simply be faster than the watch"
    assert audit.compare("Pod", [pod(6)], NOW + timedelta(seconds=50))[0] == 50
    store.put("Pod", pod(6))
    assert audit.compare("Pod", [pod(6)], NOW + timedelta(seconds=60))[0] == 0


def test_a_busy_object_is_not_taken_for_a_deaf_watch() -> None:
    store = Store()
    audit = WatchAudit(store)
    for second in range(0, 300, 15):
        store.put("Pod", pod(second + 1))  # the watch is alive, and always a little late
        lag, _ = audit.compare("Pod", [pod(second + 10)], NOW + timedelta(seconds=second))
        assert lag <= 15


def test_a_missed_deletion_is_made_up_for_after_two_listings() -> None:
    store = Store()
    audit = WatchAudit(store)
    store.put("Pod", pod(5))
    assert audit.compare("Pod", [], NOW)[1] == set(), "one listing may be older than the store"
    assert audit.compare("Pod", [], NOW)[1] == {TRAINING}
    assert store.children(TRAINING).pods == ()
