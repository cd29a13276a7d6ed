"""What the watches last showed: objects by name, children by parent. Memory only; the API server is the truth.

Our own writes are put in as well, when their answers arrive, so that a reconcile never acts on a world older than
what it has just done. Resource versions are compared as numbers, which Kubernetes guarantees since 1.35 (KEP-5504).
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterable
from datetime import datetime
from math import inf
from typing import Any

from modelyard_operator.load import Load
from modelyard_operator.objects import API_VERSION, SERVICE, TRAINING, parent_of
from modelyard_operator.plan import Children, Key, Object, Report
from modelyard_operator.refusals import Refusals
from modelyard_operator.uris import parse_uri, training_artifact

_TOMBSTONES = 10_000
_EXTRA_KINDS = ("Ingress", "HTTPRoute", "HorizontalPodAutoscaler", "ScaledObject", "PodDisruptionBudget", "PodGroup")
_CHILD_KINDS = ("Pod", "Service", "PersistentVolumeClaim", "Deployment", *_EXTRA_KINDS)


def version_of(obj: Object) -> int:
    return int(obj["metadata"].get("resourceVersion") or 0)


def slim(kind: str, obj: Object) -> Object:
    """A copy without what nobody reads: field ownership, the applied manifest, all of a pod's spec but its node.

    Equal strings are one string in all of them: each parsed object brings its own copies of every key and every word.
    """
    meta = {k: v for k, v in obj["metadata"].items() if k not in ("managedFields", "selfLink")}
    annotations = meta.get("annotations")
    if annotations and "kubectl.kubernetes.io/last-applied-configuration" in annotations:
        meta["annotations"] = {
            k: v for k, v in annotations.items() if k != "kubectl.kubernetes.io/last-applied-configuration"
        }
    kept: Object = {**obj, "kind": kind, "metadata": meta}
    if kind in (TRAINING, SERVICE):
        kept.setdefault("apiVersion", API_VERSION)
    if kind == "Pod":
        spec = obj.get("spec") or {}
        kept["spec"] = {"nodeName": spec["nodeName"]} if spec.get("nodeName") else {}
    return {key: _shared(value) for key, value in kept.items()}


_STRINGS_LIMIT = 20_000
_strings: dict[str, str] = {}


def _shared(value: Any) -> Any:
    """A copy of a JSON value, made of strings that other objects have too."""
    if isinstance(value, str):
        return _strings.setdefault(value, value)
    if isinstance(value, dict):
        if len(_strings) > _STRINGS_LIMIT:
            _strings.clear()  # names and uids of objects long gone
        return {_strings.setdefault(key, key): _shared(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shared(item) for item in value]
    return value


class Store:
    """A cache of one operator process, fed by `put` and `remove`."""

    def __init__(self) -> None:
        self._objects: dict[tuple[str, str, str], Object] = {}
        self._children: defaultdict[Key, dict[tuple[str, str], Object]] = defaultdict(dict)
        self._followers: defaultdict[Key, set[Key]] = defaultdict(set)
        self._following: dict[Key, Key] = {}
        self._gone: OrderedDict[str, float] = OrderedDict()  # uid -> the version at which it went
        self._held: defaultdict[str, set[str]] = defaultdict(set)  # uid of a service -> names of claims that name it
        self.reports: dict[Key, Report] = {}
        self.loads: dict[Key, Load] = {}
        self.refusals = Refusals()
        self.absent: defaultdict[Key, set[str]] = defaultdict(set)

    def put(self, kind: str, obj: Object) -> set[Key]:
        """Take an object in, unless a newer version or its deletion is known. Returns the keys it concerns."""
        obj = slim(kind, obj)
        meta = obj["metadata"]
        place = (kind, meta["namespace"], meta["name"])
        known = self._objects.get(place)
        if version_of(obj) <= self._gone.get(meta["uid"], -1):
            return set()
        if known is not None and version_of(known) > version_of(obj):
            return set()
        self._objects[place] = obj
        if kind in (TRAINING, SERVICE):
            return self._put_parent(Key(*place), obj)
        if known is not None and (old := _parent_key(known)) and old != _parent_key(obj):
            self._children[old].pop((kind, meta["name"]), None)  # relabelled: its former parent looks again
            self._children[old] or self._children.pop(old)
        else:
            old = None
        if kind == "PersistentVolumeClaim":
            for uid in _holders(obj):
                self._held[uid].add(meta["name"])
        key = _parent_key(obj)
        if key is not None:
            self._children[key][(kind, meta["name"])] = obj
        return {k for k in (key, old) if k is not None}

    def _put_parent(self, key: Key, obj: Object) -> set[Key]:
        self._follow(key, training_of(obj))
        return {key, *self._followers.get(key, ())}

    def _follow(self, key: Key, target: Key | None) -> None:
        """A change of `target` concerns `key` too; None for nobody's."""
        before = self._following.pop(key, None)
        if before is not None:
            self._followers[before].discard(key)
            self._followers[before] or self._followers.pop(before)
        if target is not None:
            self._following[key] = target
            self._followers[target].add(key)

    def remove(self, kind: str, obj: Object) -> set[Key]:
        """Forget an object that was deleted, at the version it has; at every version if it has none.

        For a watch with a label selector an object that lost its labels is deleted too, and it may come back: newer.
        Returns the keys it concerned.
        """
        meta = obj["metadata"]
        self._gone[meta["uid"]] = version_of(obj) or inf
        while len(self._gone) > _TOMBSTONES:
            self._gone.popitem(last=False)
        place = (kind, meta["namespace"], meta["name"])
        known = self._objects.get(place)
        if known is None or known["metadata"]["uid"] != meta["uid"] or version_of(known) > self._gone[meta["uid"]]:
            return set()
        del self._objects[place]
        if kind in (TRAINING, SERVICE):
            key = Key(*place)
            self.reports.pop(key, None)
            self.loads.pop(key, None)
            self._held.pop(meta["uid"], None)
            self.refusals.forget(key)
            self.absent.pop(key, None)
            self._follow(key, None)
            return {key, *self._followers.get(key, ())}
        parent = _parent_key(known)
        if parent is None:
            return set()
        self._children[parent].pop((kind, meta["name"]), None)
        if not self._children[parent]:
            del self._children[parent]
        return {parent}

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        return self._objects.get((kind, namespace, name))

    def of_kind(self, kind: str) -> list[Object]:
        return [obj for (k, _, _), obj in self._objects.items() if k == kind]

    def parents(self) -> list[Key]:
        return [Key(*place) for place in self._objects if place[0] in (TRAINING, SERVICE)]

    def children(self, key: Key) -> Children:
        """The children of a parent, each kind ordered by name."""
        by_kind: dict[str, list[Object]] = {kind: [] for kind in _CHILD_KINDS}
        for (kind, _), obj in sorted(self._children.get(key, {}).items()):
            by_kind[kind].append(obj)
        parent = self.get(*key)
        target = self._following.get(key)
        claims = self._held_claims(parent) if parent is not None and key.kind == SERVICE else ()
        return Children(
            pods=tuple(by_kind["Pod"]),
            services=tuple(by_kind["Service"]),
            claims=tuple(by_kind["PersistentVolumeClaim"]),
            deployments=tuple(by_kind["Deployment"]),
            extras=tuple(obj for kind in _EXTRA_KINDS for obj in by_kind[kind]),
            load=self.loads.get(key),
            held_claims=claims,
            training=self.get(*target) if target else None,
            report=self.reports.get(key),
            refusals=self.refusals.of(key),
            absent=frozenset(self.absent.get(key, ())),
        )

    def _held_claims(self, service: Object) -> tuple[Object, ...]:
        """The claim that a service serves from, and those that name it as an owner."""
        meta = service["metadata"]
        names = set(self._held.get(meta["uid"], ()))
        uri = ((service.get("status") or {}).get("model") or {}).get("uri") or ""
        if uri.startswith("pvc://"):
            names.add(parse_uri(uri).authority)
        found = (self.get("PersistentVolumeClaim", meta["namespace"], name) for name in sorted(names))
        return tuple(claim for claim in found if claim is not None)


def training_of(parent: Object) -> Key | None:
    """The key of the ModelTraining, in its own namespace, that a ModelService serves or a ModelTraining goes on from;
    None where it names none. The spec is as it came: anything may be anywhere.
    """
    service = _at(parent, "spec", "model", "source", "trainingRef", "name")
    initial = training_artifact(_at(parent, "spec", "model", "uri"))
    name = service or (initial[0] if initial else "")
    return Key(TRAINING, parent["metadata"]["namespace"], name) if name else None


def _at(obj: Any, *fields: str) -> str:
    for field in fields:
        obj = obj.get(field) if isinstance(obj, dict) else None
    return obj if isinstance(obj, str) else ""


def _holders(claim: Object) -> list[str]:
    return [owner["uid"] for owner in claim["metadata"].get("ownerReferences") or () if owner.get("kind") == SERVICE]


def _parent_key(obj: Object) -> Key | None:
    parent = parent_of(obj)
    return Key(parent[0], obj["metadata"]["namespace"], parent[1]) if parent else None


class WatchAudit:
    """Finds watches that have gone deaf: compares direct listings with the store, object by object.

    An object whose listed version the store has not reached stays on the list of those behind; how long the oldest
    one has been there is the lag. Objects that are in the store and in no listing any more are deletions missed.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._behind: dict[tuple[str, str, str], tuple[int, datetime]] = {}
        self._absent: dict[tuple[str, str, str], str] = {}

    def compare(self, kind: str, listing: Iterable[Object], now: datetime) -> tuple[float, set[Key]]:
        """The lag of one kind in seconds, and the keys whose missed deletions were made up for."""
        listed: dict[tuple[str, str, str], int] = {}
        for item in listing:
            meta = item["metadata"]
            listed[(kind, meta["namespace"], meta["name"])] = int(meta["resourceVersion"])
        behind = {}
        for place, version in listed.items():
            known = self._store.get(*place)
            if known is not None and version_of(known) >= version:
                continue
            wanted, since = self._behind.get(place, (version, now))
            reached = known is not None and version_of(known) >= wanted
            behind[place] = (version, now) if reached else (wanted, since)
        self._behind = {p: v for p, v in self._behind.items() if p[0] != kind} | behind
        lag = max(((now - since).total_seconds() for _, since in behind.values()), default=0.0)
        return lag, self._prune(kind, listed)

    def _prune(self, kind: str, listed: dict[tuple[str, str, str], int]) -> set[Key]:
        """Remove what two listings in a row have not had: one alone may be older than the store."""
        absent = {}
        concerned: set[Key] = set()
        for obj in self._store.of_kind(kind):
            meta = obj["metadata"]
            place = (kind, meta["namespace"], meta["name"])
            if place in listed:
                continue
            if self._absent.get(place) == meta["uid"]:
                concerned |= self._store.remove(kind, obj)
            else:
                absent[place] = meta["uid"]
        self._absent = {p: uid for p, uid in self._absent.items() if p[0] != kind} | absent
        return concerned
