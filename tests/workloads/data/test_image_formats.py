"""The same images from folders, Parquet and tar files, on a volume or in S3's manner; and what is wrong with others."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from modelyard_workloads.data import images as module
from modelyard_workloads.data.images import ImageDataset, load_images
from modelyard_workloads.exits import DataError
from modelyard_workloads.parameters.image_classification import ImageClassificationParameters
from PIL import Image


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def picture(number: int) -> bytes:
    """A PNG of its own."""
    pixels = np.random.default_rng(number).integers(0, 256, (9, 12, 3)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


SAMPLES = [(f"{number:03d}", ("cat", "dog")[number % 2], picture(number)) for number in range(20)]


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def write_folder(root: Path) -> None:
    for key, label, content in SAMPLES:
        (root / label).mkdir(parents=True, exist_ok=True)
        (root / label / f"{key}.png").write_bytes(content)


def write_parquet(root: Path, nested: bool = False) -> None:
    ordered = sorted(SAMPLES, key=lambda sample: (sample[1], sample[0]))
    images: list[Any] = [{"bytes": content, "path": key} if nested else content for key, _, content in ordered]
    table = pyarrow.table({"image": images, "label": [label for _, label, _ in ordered]})
    pyarrow.parquet.write_table(table, root / "part-0.parquet", row_group_size=7)


def write_tar(root: Path, as_json: bool = False) -> None:
    ordered = sorted(SAMPLES, key=lambda sample: (sample[1], sample[0]))
    for shard, samples in enumerate((ordered[:13], ordered[13:])):
        with tarfile.open(root / f"shard-{shard}.tar", "w") as archive:
            for key, label, content in samples:
                add(archive, f"a/{key}.png", content)
                if as_json:
                    add(archive, f"a/{key}.json", json.dumps({"label": label}).encode())
                else:
                    add(archive, f"a/{key}.cls", label.encode())


def load(root: Path, **parameters: Any) -> ImageDataset:
    return load_images(root.as_uri(), ImageClassificationParameters(image_size=8, **parameters))


def test_every_format_gives_the_same_data(tmp_path: Path) -> None:
    found = []
    writers: dict[str, Callable[[Path], None]] = {
        "folder": write_folder,
        "parquet": write_parquet,
        "nested": partial(write_parquet, nested=True),
        "tar": write_tar,
        "json": partial(write_tar, as_json=True),
    }
    for name, write in writers.items():
        (tmp_path / name).mkdir()
        write(tmp_path / name)
        found.append(load(tmp_path / name))
    first = found[0]
    assert first.labels == ["cat", "dog"]
    assert (len(first.train), len(first.held_out)) == (16, 4)
    pixels = first.train.images.float() / 255
    torch.testing.assert_close(torch.tensor(first.mean), pixels.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(torch.tensor(first.std), pixels.std(dim=(0, 2, 3)), rtol=1e-3, atol=1e-4)
    for other in found[1:]:
        assert torch.equal(first.train.images, other.train.images)
        assert torch.equal(first.held_out.labels, other.held_out.labels)
        assert (other.labels, other.mean) == (first.labels, first.mean)


def test_images_are_decoded_once_and_mapped_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "data")
    first = load(tmp_path / "data")
    monkeypatch.setattr(module, "_decode", lambda *_: pytest.fail("it was decoded before"))
    again = load(tmp_path / "data")
    assert torch.equal(first.train.images, again.train.images)
    files = list((tmp_path / "cache").rglob("train.images"))
    assert [file.stat().st_size for file in files] == [16 * 3 * 8 * 8]
    images, labels = again.train.batch(torch.tensor([3, 1]))
    assert torch.equal(images, again.train.images[[3, 1]].float() / 255)
    assert labels.tolist() == again.train.labels[[3, 1]].tolist()


def test_numbers_as_classes_are_sorted_as_numbers(tmp_path: Path) -> None:
    labels = [10, 9, 2, 10, 9, 2]
    table = pyarrow.table({"png": [picture(n) for n in range(6)], "class": labels})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    data = load(tmp_path, image_column="png", label_column="class", evaluation_fraction=0.5)
    assert data.labels == ["2", "9", "10"]


def test_folders_train_and_test_are_the_parts_in_every_format(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        write_tar(tmp_path / part)
    data = load(tmp_path)
    assert (len(data.train), len(data.held_out)) == (20, 20)


def test_broken_images_are_skipped_up_to_a_limit(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_folder(root)
    (root / "cat" / "000.png").write_bytes(b"no image")
    (root / "dog" / "001.png").write_bytes(picture(1)[:-30])
    with pytest.raises(DataError, match=r"2 of 20 images cannot be read: .*cat/000.png: cannot identify"):
        load(root)
    data = load(root, on_bad_row="skip", max_bad_rows=2)
    assert len(data.train) + len(data.held_out) == 18
    with pytest.raises(DataError, match=r"more than maxBadRows \(1\)"):
        load(root, on_bad_row="skip", max_bad_rows=1)


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    cases: dict[str, tuple[dict[str, bytes], str]] = {
        "loose": ({"a.png": picture(0)}, "a.png is in no folder; each class needs a folder of its own"),
        "mixed": ({"train/a/1.png": b"", "b/1.png": b""}, "beside other files; move them apart"),
        "half": ({"train/a/1.png": b"", "train/b/1.png": b""}, "has train/ but neither test/ nor val/"),
        "one": ({"a/1.png": b""}, "needs images of at least 2 classes"),
        "none": ({"a/1.txt": b""}, "no file of .* ends with .png"),
        "tar": ({"a.tar": b"this is no archive" * 100}, "is no tar file, or a damaged one"),
        "parquet": ({"a.parquet": b"nothing"}, "is no Parquet file"),
    }
    for name, (files, says) in cases.items():
        for path, content in files.items():
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path).write_bytes(content)
        with pytest.raises(DataError, match=says):
            load(tmp_path / name)
    (tmp_path / "unlabelled").mkdir()
    with tarfile.open(tmp_path / "unlabelled" / "a.tar", "w") as archive:
        add(archive, "1.png", picture(1))
    with pytest.raises(DataError, match=r"a.tar: 1.png: has no label; put a .cls or .json beside it"):
        load(tmp_path / "unlabelled")
    write_parquet(tmp_path)
    with pytest.raises(DataError, match=r"has no column 'labels'.*did you mean 'label'"):
        load_images(
            (tmp_path / "part-0.parquet").as_uri(), ImageClassificationParameters(image_size=8, label_column="labels")
        )
