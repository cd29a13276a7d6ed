"""When the local cluster builds binaries and images again, and what its images contain. Nothing is built."""

import json
import tarfile
from pathlib import Path

import pytest
from localcluster import golang, imagebuild, images, stages
from localcluster.layout import REPOSITORY, SOURCES, Layout


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    found = Layout(tmp_path)
    for directory in (found.bin, found.images, found.pki):
        directory.mkdir()
    return found


def test_binaries_are_built_again_when_a_module_file_changes(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "go" / "m"
    module.mkdir(parents=True)
    (module / "go.mod").write_text("module m\n")
    (module / "go.sum").write_text("")
    monkeypatch.setattr("localcluster.golang.SOURCES", tmp_path)
    binary = golang.Binary("b", "m", "m/cmd/b")
    (layout.bin / "b").touch()
    assert not golang.is_current(layout, binary)
    golang.stamp_path(layout, binary).write_text(golang.fingerprint(binary))
    assert golang.is_current(layout, binary)
    (module / "go.mod").write_text("module m\n\ngo 1.99\n")
    assert not golang.is_current(layout, binary)


def test_every_module_pins_the_packages_that_are_built_from_it() -> None:
    for binary in (*golang.NODE_BINARIES, golang.KWOK, golang.HELM):
        module = SOURCES / "go" / binary.module
        assert (module / "go.sum").exists()
        if not binary.package.startswith("./"):
            assert binary.package in (module / "go.mod").read_text(), binary.name


def test_the_version_of_go_is_read_from_its_own_words() -> None:
    assert golang.go_version("go version go1.26.8 linux/amd64") == (1, 26)
    assert golang.go_version("go version devel +abc linux/amd64") is None


def test_an_image_is_outdated_when_an_input_changes_or_the_store_lost_it(layout: Layout, tmp_path: Path) -> None:
    source = tmp_path / "repository" / "code"
    source.mkdir(parents=True)
    (source / "a.py").write_text("1")
    image = imagebuild.Image("localhost/x:dev", "Dockerfile", ("code", "absent"))
    before = imagebuild.fingerprint(image, tmp_path / "repository")
    (source / "__pycache__").mkdir()
    (source / "__pycache__" / "a.pyc").write_text("x")
    assert imagebuild.fingerprint(image, tmp_path / "repository") == before
    (source / "a.py").write_text("2")
    assert imagebuild.fingerprint(image, tmp_path / "repository") != before
    ours = imagebuild.PROJECT_IMAGES[0]
    imagebuild.stamp_path(layout, ours).write_text(imagebuild.fingerprint(ours))
    assert not imagebuild.outdated(layout, ours, {ours.name})
    assert imagebuild.outdated(layout, ours, set())


def test_the_inputs_of_both_images_cover_what_their_dockerfiles_copy() -> None:
    for image in imagebuild.PROJECT_IMAGES:
        lines = (REPOSITORY / image.dockerfile).read_text().splitlines()
        copied = [line.split()[1] for line in lines if line.startswith("COPY ") and "--from" not in line]
        assert copied
        assert set(copied) <= set(image.inputs)


def test_an_image_archive_describes_its_one_layer(tmp_path: Path) -> None:
    layer = tmp_path / "layer.tar"
    layer.write_bytes(b"\0" * 1024)
    archive = tmp_path / "image.tar"
    images.write_archive(archive, "localhost/x:1", layer, {"Cmd": ["x"]})
    with tarfile.open(archive) as opened:
        content = {name: opened.extractfile(name).read() for name in opened.getnames()}  # type: ignore[union-attr]
    entry = json.loads(content["index.json"])["manifests"][0]
    assert entry["annotations"] == {"io.containerd.image.name": "localhost/x:1"}
    manifest = json.loads(content[f"blobs/sha256/{entry['digest'].removeprefix('sha256:')}"])
    assert content[f"blobs/sha256/{manifest['layers'][0]['digest'].removeprefix('sha256:')}"] == layer.read_bytes()


def test_pips_settings_of_the_machine_reach_the_image_and_paths_of_the_machine_do_not() -> None:
    listing = (
        ":env:.find-links='/opt/wheels'\n:env:.default-timeout='180'\n"
        "global.cert='/elsewhere/ca.crt'\nglobal.index-url='https://index.example/simple?a=b'\n"
    )
    text = images.pip_config(images.parse_pip_settings(listing))
    assert "index-url = https://index.example/simple?a=b" in text
    assert "timeout = 180" in text
    assert "find-links" not in text
    assert "/elsewhere" not in text


def test_pods_on_fake_nodes_end_only_when_their_annotation_says_so() -> None:
    for phase, operator in (("Succeeded", "In"), ("Failed", "NotIn")):
        stage = stages.finished(phase)
        expressions = stage["spec"]["selector"]["matchExpressions"]
        annotation = [each for each in expressions if "annotations" in each["key"]]
        assert [each["operator"] for each in annotation] == ["Exists", operator]
        assert f"phase: {phase}" in stage["spec"]["next"]["statusTemplate"]
