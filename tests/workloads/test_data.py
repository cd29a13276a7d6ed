"""The order of the data, and images: the same everywhere, resumable anywhere, wrong data named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from modelyard_workloads.data.images import ImageBatches, load_images, warp
from modelyard_workloads.data.order import DataOrder, Shard
from modelyard_workloads.exits import DataError
from modelyard_workloads.parameters.image_classification import ImageClassificationParameters
from PIL import Image


def test_every_epoch_is_another_permutation_and_visits_each_sample_at_most_once() -> None:
    order = DataOrder(count=50, batch_size=8, seed=1)
    epochs = [[i for _ in range(order.steps_per_epoch) for i in next(order).indices.tolist()] for _ in range(2)]
    assert order.steps_per_epoch == 6
    assert all(len(set(epoch)) == 48 for epoch in epochs)
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("taken", [0, 1, 6, 7, 13])
def test_an_order_restored_at_any_position_goes_on_with_the_same_samples_and_random_numbers(taken: int) -> None:
    order = DataOrder(count=50, batch_size=8, seed=1)
    for _ in range(taken):
        next(order)
    other = DataOrder(count=50, batch_size=8, seed=1)
    other.load_state_dict(order.state_dict())
    for _ in range(8):
        one, two = next(order), next(other)
        assert one.indices.tolist() == two.indices.tolist()
        assert torch.equal(torch.rand(3, generator=one.generator), torch.rand(3, generator=two.generator))


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 7, 8])
def test_the_ranks_slices_make_up_the_global_batch_and_differ_by_at_most_one(world_size: int) -> None:
    batch = torch.arange(8.0)
    shards = [Shard(rank=rank, world_size=world_size) for rank in range(world_size)]
    slices = [shard.take(batch) for shard in shards]
    assert torch.cat(slices).tolist() == batch.tolist()
    sizes = [len(part) for part in slices]
    assert max(sizes) - min(sizes) <= 1
    # The mean over the ranks of the weighted means is the mean of the batch.
    means = [part.mean() * shard.weight(len(part), 8) for part, shard in zip(slices, shards, strict=True)]
    assert float(torch.stack(means).mean()) == pytest.approx(3.5, rel=1e-6)


def test_the_ranks_visit_each_held_out_sample_once() -> None:
    visited = sorted(i for rank in range(4) for i in Shard(rank=rank, world_size=4).stride(10).tolist())
    assert visited == list(range(10))


def test_the_digits_are_split_the_same_way_for_every_training() -> None:
    parameters = [ImageClassificationParameters(seed=seed) for seed in (0, 1)]
    first, second = (load_images("example://digits", p) for p in parameters)
    assert torch.equal(first.held_out.images, second.held_out.images)
    assert (len(first.train), len(first.held_out)) == (1438, 359)
    assert first.train.images.shape[1:] == (1, 8, 8)
    assert first.train.images.max() == 255
    assert torch.bincount(first.held_out.labels).min() >= 34  # every class has its share


def test_two_ranks_augment_together_what_one_rank_augments_alone() -> None:
    parameters = ImageClassificationParameters(batch_size=16, image_size=16, horizontal_flip=True)
    images = load_images("example://digits", parameters)
    alone = next(ImageBatches(images, parameters, Shard(rank=0, world_size=1)))
    halves = [next(ImageBatches(images, parameters, Shard(rank=rank, world_size=2))) for rank in range(2)]
    assert torch.equal(torch.cat([half[0] for half in halves]), alone[0])
    assert torch.equal(torch.cat([half[1] for half in halves]), alone[1])


def test_the_identity_map_only_resizes() -> None:
    images = torch.rand(2, 1, 8, 8)
    identity = torch.eye(2, 3).expand(2, 2, 3)
    expected = torch.nn.functional.interpolate(images, size=(16, 16), mode="bilinear", align_corners=False)
    torch.testing.assert_close(warp(images, identity, 16), expected)


def folder(root: Path, names: list[str]) -> Path:
    """Images of two colours in folders, in different sizes and formats."""
    for index, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((20 + index, 30, 3), [200, 0, 0] if "cat" in name else [0, 0, 200], dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return root


def test_a_folder_for_each_class_is_read_resized_and_split_by_class(tmp_path: Path) -> None:
    root = folder(tmp_path / "a b", [f"{c}/{i}.{s}" for c in ("cat", "dog") for i, s in enumerate(["png", "jpg"] * 5)])
    data = load_images(root.as_uri(), ImageClassificationParameters(image_size=16))
    assert data.labels == ["cat", "dog"]
    assert data.train.images.shape == (16, 3, 16, 16)
    assert torch.bincount(data.held_out.labels).tolist() == [2, 2]
    cat = data.train.images[data.train.labels == 0]
    assert cat[:, 0].min() > 150
    assert cat[:, 2].max() < 50


def test_a_split_of_the_users_own_is_kept(tmp_path: Path) -> None:
    folder(tmp_path, ["train/cat/1.png", "train/dog/1.png", "train/dog/2.png", "val/cat/9.png", "val/dog/9.png"])
    data = load_images(tmp_path.as_uri(), ImageClassificationParameters(image_size=8))
    assert (len(data.train), len(data.held_out)) == (3, 2)


def test_unusable_image_folders_are_explained(tmp_path: Path) -> None:
    parameters = ImageClassificationParameters(image_size=8)
    with pytest.raises(DataError, match="there is nothing there"):
        load_images((tmp_path / "nowhere").as_uri(), parameters)
    with pytest.raises(DataError, match=r"at least 2 classes, has \['cat'\]"):
        load_images(folder(tmp_path / "one", ["cat/1.png"]).as_uri(), parameters)
    with pytest.raises(DataError, match="neither test/ nor val/"):
        load_images(folder(tmp_path / "half", ["train/cat/1.png", "train/dog/1.png"]).as_uri(), parameters)
    (folder(tmp_path / "empty", ["cat/1.png"]) / "dog").mkdir()
    with pytest.raises(DataError, match=r"no images in .*dog"):
        load_images((tmp_path / "empty").as_uri(), parameters)
    folder(tmp_path / "bad", ["cat/1.png", "dog/1.png"])
    (tmp_path / "bad/dog/2.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1 of 3 images cannot be read: .*dog/2\.png"):
        load_images((tmp_path / "bad").as_uri(), parameters)
    with pytest.raises(DataError, match="write one of example://, file://"):
        load_images("ftp://bucket/images", parameters)
