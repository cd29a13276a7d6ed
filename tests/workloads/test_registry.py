"""Models from a container registry: files as layers, images with a folder of models, and what is not taken."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator
from pathlib import Path
from tarfile import LNKTYPE, SYMTYPE

import pytest
from modelyard_workloads.artifact import ArtifactError
from modelyard_workloads.data.registry import Place
from modelyard_workloads.data.sources import MODEL, Patience, open_source
from modelyard_workloads.exits import DataError
from modelyard_workloads.fetch import FetchConfig, Progress, fetch
from servers.registry import PASSWORD, USER, Registry, registry, tar

FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 5000, "deep/vocab.txt": b"a\nb\n"}
QUICK = Patience(attempts=2, first_pause=0.01)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    keys = {"OCI_USERNAME": USER, "OCI_PASSWORD": PASSWORD, "OCI_PLAIN_HTTP": "true"}
    for name, value in keys.items():
        monkeypatch.setenv(f"MODELYARD_MODEL_{name}", value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with registry() as made:
        yield made


def load(uri: str, path: Path, progress: Progress | None = None) -> dict[str, bytes]:
    fetch(FetchConfig(uri=uri, path=path), progress or Progress(), QUICK)
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_files_pushed_as_layers_come_under_their_names(here: Registry, tmp_path: Path) -> None:
    digest = here.push_files("models/digits:v1", FILES)
    assert load(f"oci://{here.host}/models/digits:v1", tmp_path / "by-tag") == FILES
    assert load(f"oci://{here.host}/models/digits@{digest}", tmp_path / "by-digest") == FILES
    assert here.refused == 2  # once each, before there was a token


def test_of_an_image_the_models_folder_counts_and_upper_layers_hide_lower_ones(here: Registry, tmp_path: Path) -> None:
    lower = {"etc/passwd": b"x", "models/old.txt": b"o", "models/config.json": b"o", "./models/a/b.txt": b"b"}
    upper = {"models/config.json": b"{}", "models/.wh.old.txt": b"", "models/.wh.a": b"", "models/w.safetensors": b"w"}
    here.push_image("models/car:latest", tar(lower), tar(upper))
    found = load(f"oci://{here.host}/models/car", tmp_path / "m")
    assert found == {"config.json": b"{}", "w.safetensors": b"w"}


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_links_become_the_files_they_name(here: Registry, tmp_path: Path, compression: str) -> None:
    links = [
        ("models/snapshot/config.json", "../blobs/1", SYMTYPE),
        ("models/through", "snapshot/config.json", SYMTYPE),
        ("models/absolute", "/models/blobs/1", SYMTYPE),
        ("models/hard", "models/blobs/1", LNKTYPE),
        ("models/nowhere", "blobs/2", SYMTYPE),
        ("models/passwd", "../../../../../../etc/passwd", SYMTYPE),
        ("models/outside", "/etc/hostname", SYMTYPE),
    ]
    here.push_image("models/car:latest", tar({"models/blobs/1": b"{}"}, links), compression=compression)
    found = load(f"oci://{here.host}/models/car", tmp_path / "m")
    names = ["absolute", "blobs/1", "hard", "snapshot/config.json", "through"]
    assert found == dict.fromkeys(names, b"{}"), "no file of this machine"


class Watched(Progress):
    """Keeps what `GET /progress` would have told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[int, int | None]] = []

    def are_there(self, done: int, total: int | None) -> None:
        super().are_there(done, total)
        self.told.append((done, total))


def test_layers_count_while_they_come_and_lie_on_the_disk_once(here: Registry, tmp_path: Path) -> None:
    noise = random.Random(7).randbytes(3 << 20)
    here.push_image(
        "models/car:latest", tar({"models/a.safetensors": noise}), tar({"models/b.txt": b"b", "etc/x": b""})
    )
    progress = Watched()
    assert load(f"oci://{here.host}/models/car", tmp_path / "m", progress) == {"a.safetensors": noise, "b.txt": b"b"}
    layers = sum(len(blob) for blob in here.blobs.values() if blob != b"{}")
    coming = [done for done, total in progress.told if total == layers]
    assert coming == sorted(coming) and coming[-1] == layers
    assert sum(0 < done < layers for done in coming) >= 2, "told while they come"
    assert progress.told[-1] == (len(noise) + 1, len(noise) + 1)
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"a.safetensors", "b.txt"}, "nothing unpacked is left, here or in the cache"


def test_layers_that_came_before_an_end_are_not_loaded_again(here: Registry, tmp_path: Path) -> None:
    lower, upper = tar({"models/a": b"a"}), tar({"models/b": b"b"})
    here.push_image("models/car:latest", lower, upper)
    second = next(reversed([digest for digest, blob in here.blobs.items() if blob != b"{}"]))
    blob = here.blobs.pop(second)
    with pytest.raises(DataError):
        load(f"oci://{here.host}/models/car", tmp_path / "m")
    here.blobs = {second: blob}
    assert load(f"oci://{here.host}/models/car", tmp_path / "m") == {"a": b"a", "b": b"b"}


def test_links_to_what_lower_layers_have_become_it_too(here: Registry, tmp_path: Path) -> None:
    """As `RUN ln -s` makes them, in a layer of their own."""
    lower = {
        "opt/m/w.safetensors": b"w",
        "opt/m/tokenizer/vocab.txt": b"v",
        "opt/n.txt": b"n",
        "models/config.json": b"{}",
    }
    links = [
        ("models/w.safetensors", "/opt/m/w.safetensors", SYMTYPE),
        ("models/tokenizer", "../opt/m/tokenizer", SYMTYPE),
        ("models/hidden", "/opt/n.txt", SYMTYPE),
        ("models/passwd", "/etc/passwd", SYMTYPE),
    ]
    here.push_image("models/car:latest", tar(lower), tar({"opt/.wh.n.txt": b""}, links))
    found = load(f"oci://{here.host}/models/car", tmp_path / "m")
    assert found == {"config.json": b"{}", "w.safetensors": b"w", "tokenizer/vocab.txt": b"v"}


def test_links_that_multiply_what_there_is_are_refused(here: Registry, tmp_path: Path) -> None:
    links = [(f"models/{number}", "/models", SYMTYPE) for number in range(64)]
    here.push_image("models/car:latest", tar({"models/config.json": b"{}"}, links))
    with pytest.raises(DataError, match="with what its links lead to it has more than 100000 files"):
        load(f"oci://{here.host}/models/car", tmp_path / "m")


def test_a_folder_that_an_upper_layer_makes_anew_has_nothing_of_the_lower_ones(here: Registry, tmp_path: Path) -> None:
    lower = {"models/a/old.txt": b"o", "models/a/b/older.txt": b"o", "models/ab.txt": b"k"}
    upper = {"models/a/.wh..wh..opq": b"", "models/a/new.txt": b"n"}
    here.push_image("models/car:latest", tar(lower), tar(upper))
    assert load(f"oci://{here.host}/models/car", tmp_path / "m") == {"a/new.txt": b"n", "ab.txt": b"k"}


@pytest.mark.parametrize(
    ("root", "url", "name"),
    [
        ("docker.io/busybox:1", "https://registry-1.docker.io", "library/busybox"),
        ("index.docker.io/team/model", "https://registry-1.docker.io", "team/model"),
        ("ghcr.io/team/model@sha256:" + "0" * 64, "https://ghcr.io", "team/model"),
    ],
)
def test_docker_hub_is_asked_where_it_answers(root: str, url: str, name: str) -> None:
    place = Place(root, plain=False)
    assert (place.url, place.name) == (url, name)
    assert place.is_meant_by("https://index.docker.io/v1/") == ("docker.io" in root), "as `docker login` keeps it"


def test_a_secret_for_pulling_images_will_do(here: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here.push_files("models/digits:latest", FILES)
    monkeypatch.delenv("MODELYARD_MODEL_OCI_USERNAME")
    auths = {here.host: {"auth": base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()}}
    monkeypatch.setenv("MODELYARD_MODEL_.dockerconfigjson", json.dumps({"auths": auths}))
    assert load(f"oci://{here.host}/models/digits", tmp_path / "m") == FILES
    monkeypatch.setenv("MODELYARD_MODEL_.dockerconfigjson", json.dumps({"auths": {"elsewhere": {"auth": "eDp5"}}}))
    with pytest.raises(DataError, match=r"access denied; the Secret of model\.secretRef must give access"):
        load(f"oci://{here.host}/models/digits", tmp_path / "n")


@pytest.mark.parametrize("form", ["files", "image"])
def test_other_bytes_than_the_digest_says_are_not_taken(here: Registry, tmp_path: Path, form: str) -> None:
    if form == "files":
        here.push_files("models/digits:latest", FILES)
    else:
        here.push_image("models/digits:latest", tar({f"models/{name}": content for name, content in FILES.items()}))
    largest = max(here.blobs, key=lambda digest: len(here.blobs[digest]))
    here.blobs[largest] = here.blobs[largest][:-1] + b"!"
    with pytest.raises(DataError, match="cannot be read"):
        load(f"oci://{here.host}/models/digits", tmp_path / "m")
    assert not (tmp_path / "m" / "model.safetensors").exists()


@pytest.mark.parametrize("name", ["../escaped", "/etc/passwd", "a/../../b"])
@pytest.mark.parametrize("form", ["files", "image"])
def test_names_that_lead_out_of_the_directory_are_refused(here: Registry, tmp_path: Path, form: str, name: str) -> None:
    if form == "files":
        here.push_files("models/bad:latest", {name: b"x"})
    else:
        here.push_image("models/bad:latest", tar({name: b"x"}))
    with pytest.raises(DataError, match="leads out of the model's directory"):
        load(f"oci://{here.host}/models/bad", tmp_path / "m")
    assert not (tmp_path / "escaped").exists()


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("models/none", "there is nothing there"),
        ("models/digits:other", "there is nothing there"),
        ("models/Digits", "write oci://REGISTRY/NAME"),
        ("models/digits@sha256:12", "write oci://REGISTRY/NAME"),
    ],
)
def test_what_is_not_there_is_said(here: Registry, tmp_path: Path, path: str, says: str) -> None:
    here.push_files("models/digits:latest", FILES)
    with pytest.raises((DataError, ArtifactError), match=says):
        load(f"oci://{here.host}/{path}", tmp_path / "m")


def test_a_password_is_not_sent_to_where_nobody_listens_in_secret(
    here: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.push_files("models/digits:latest", FILES)
    monkeypatch.delenv("MODELYARD_MODEL_OCI_PLAIN_HTTP")
    with pytest.raises(DataError):
        open_source(f"oci://{here.host}/models/digits", MODEL, QUICK)
    assert here.refused == 0  # it was asked with TLS, which it does not speak
