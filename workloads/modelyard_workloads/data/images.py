"""Labelled images: `example://digits`, or files from any source (see image_files.py).

Files are decoded once on every machine, into a memory-mapped file of bytes that all its ranks share and that is kept
for the next run on the same data; at no time are more than a few hundred images in memory. A batch becomes floating
point, augmented and resized on the device that trains, all images at once.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from modelyard_workloads.data.cache import cache_directory, make_once
from modelyard_workloads.data.digits import CLASSES, held_out_mask, load_digits
from modelyard_workloads.data.image_files import ImageFiles, LabelledImage, open_images
from modelyard_workloads.data.order import DataOrder, Draw, Order, Shard
from modelyard_workloads.data.records import RowPolicy
from modelyard_workloads.data.sources import Source, open_source
from modelyard_workloads.data.transfer import has_room, to_device
from modelyard_workloads.exits import DataError
from modelyard_workloads.heartbeat import moved
from modelyard_workloads.parameters.image_classification import ImageClassificationParameters

_DIGITS_SIZE, _FOLDER_SIZE = 24, 224
_FORM = 1  # to be raised when the same files give other bytes
_TOGETHER = 256  # images in memory while files are decoded


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Images as bytes (N, C, H, W), perhaps mapped from a file; labels (N,) int64, on the device that trains."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> ImageSet:
        """The same set for another device; the images move there only where there is plenty of room."""
        images = self.images
        if has_room(images.nbytes, device):
            images = images.to(device)
        return ImageSet(images=images, labels=self.labels.to(device))

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """(images 0..1, labels) on the labels' device; bytes travel, not floating point."""
        images = to_device(self.images[to_device(indices, self.images.device)], self.labels.device)
        return images.float() / 255, self.labels[to_device(indices, self.labels.device)]


@dataclass(frozen=True, kw_only=True)
class ImageDataset:
    """A dataset split in two; `mean` and `std` are those of the training part's channels, in units of 0..1."""

    train: ImageSet
    held_out: ImageSet
    labels: list[str]
    image_size: int  # what the network shall see
    mean: list[float]
    std: list[float]


def load_images(uri: str, parameters: ImageClassificationParameters) -> ImageDataset:
    """Read the dataset at `uri`, or map what was decoded before. Raises DataError with every unusable thing named."""
    if uri == "example://digits":
        return _digits(parameters)
    size = parameters.image_size or _FOLDER_SIZE
    source = open_source(uri)
    identity = {
        "form": _FORM,
        "files": [[file.address, file.size, file.version] for file in source.files],
        "size": size,
        "fraction": parameters.evaluation_fraction,
        "columns": [parameters.image_column, parameters.label_column],
        "rows": [parameters.on_bad_row, parameters.max_bad_rows],
    }
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()

    def decode(directory: Path) -> None:
        _decode(directory, source, parameters, size)

    directory = make_once(cache_directory("images") / key, decode, directory=True)
    about = json.loads((directory / "about.json").read_text())
    return ImageDataset(
        train=_mapped(directory, "train", size),
        held_out=_mapped(directory, "held_out", size),
        labels=about["labels"],
        image_size=size,
        mean=about["mean"],
        std=about["std"],
    )


def _digits(parameters: ImageClassificationParameters) -> ImageDataset:
    images, labels = load_digits()
    held_out = held_out_mask(labels, parameters.evaluation_fraction)
    sums = np.zeros((3, 1))
    _add_moments(sums, images[~held_out])
    mean, std = _moments(sums)

    def part(mask: NDArray[np.bool_]) -> ImageSet:
        return ImageSet(images=torch.from_numpy(images[mask]), labels=torch.from_numpy(labels[mask]))

    return ImageDataset(
        train=part(~held_out),
        held_out=part(held_out),
        labels=[str(n) for n in range(CLASSES)],
        image_size=parameters.image_size or _DIGITS_SIZE,
        mean=mean,
        std=std,
    )


def _add_moments(sums: NDArray[np.float64], images: NDArray[np.uint8]) -> None:
    """Add [pixels, sum, sum of squares] of each channel to `sums` (3, C); whole numbers, so that no order matters."""
    values = images.astype(np.int64)
    axes = (0, 2, 3)
    sums += [np.full(images.shape[1], images[:, 0].size), values.sum(axis=axes), (values**2).sum(axis=axes)]


def _moments(sums: NDArray[np.float64]) -> tuple[list[float], list[float]]:
    count, total, squares = sums
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return (mean / 255).tolist(), np.maximum(std / 255, 1e-3).tolist()


def _mapped(directory: Path, name: str, size: int) -> ImageSet:
    labels = np.fromfile(directory / f"{name}.labels", dtype=np.int64)
    if not len(labels):
        raise DataError(f"dataset.uri: there are no images for the part {name}")
    shape = (len(labels), 3, size, size)
    # Copy on write: nothing writes, and torch does not know read-only memory.
    images = np.memmap(directory / f"{name}.images", dtype=np.uint8, mode="c", shape=shape)
    return ImageSet(images=torch.from_numpy(images), labels=torch.from_numpy(labels))


def _decode(directory: Path, source: Source, parameters: ImageClassificationParameters, size: int) -> None:
    """Write the images and labels of both parts, and what is known of them."""
    files, policy = open_images(source, parameters), RowPolicy.of(parameters)
    known = list(files.labels())
    classes, labels, held_out = _classify(known, source.address, parameters.evaluation_fraction)
    sums = np.zeros((3, 3))
    parts = [
        (directory / f"{name}.{kind}").open("wb") for name in ("train", "held_out") for kind in ("images", "labels")
    ]
    try:
        for images, good in _decoded(files, len(known), policy, size):
            for part, (image_file, label_file) in enumerate((parts[:2], parts[2:])):
                mine = held_out[good] == bool(part)
                _write(image_file, images[mine])
                _write(label_file, labels[good][mine])
            if (~held_out[good]).any():
                _add_moments(sums, images[~held_out[good]])
    finally:
        for file in parts:
            file.close()
    if not sums[0].any():
        raise DataError(f"dataset.uri: none of the images of {source.address} can be read")
    mean, std = _moments(sums)
    about = {"labels": classes, "mean": mean, "std": std, "skipped": policy.report()}
    (directory / "about.json").write_text(json.dumps(about))


def _classify(
    known: list[LabelledImage], address: str, fraction: float
) -> tuple[list[str], NDArray[np.int64], NDArray[np.bool_]]:
    """(names of the classes, class of each image, is it held out?)"""
    names = {image.label for image in known}
    classes = sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)
    if len(classes) < 2:
        raise DataError(
            f"dataset.uri: {address} needs images of at least 2 classes, has {classes}; write one folder for each"
        )
    numbers = {name: number for number, name in enumerate(classes)}
    labels = np.array([numbers[image.label] for image in known], dtype=np.int64)
    parts = np.array([image.part for image in known])
    held_out = parts == "held_out" if parts.any() else held_out_mask(labels, fraction)
    return classes, labels, held_out


def _decoded(
    files: ImageFiles, count: int, policy: RowPolicy, size: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """(images (n, 3, S, S), their numbers) in order, a few hundred at a time; those that cannot be read are left out
    or raise DataError, as the policy says.
    """
    contents = files.contents()
    problems: list[str] = []

    def decode(item: tuple[str, bytes]) -> NDArray[np.uint8] | str:
        try:
            with Image.open(io.BytesIO(item[1])) as image:
                return _square(image, size)
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            said = "no image" if not item[1] else str(error).replace(f" {item[1]!r}", "")
            return f"{item[0]}: {' '.join(said.split())[:200]}"

    with ThreadPoolExecutor(max_workers=8) as pool:  # decoding releases the interpreter lock
        for first in range(0, count, _TOGETHER):
            moved()
            found = list(pool.map(decode, islice(contents, _TOGETHER)))
            problems += [result for result in found if isinstance(result, str)]
            if policy.on_bad_row == "skip":
                for problem in problems:
                    policy.bad(*problem.split(": ", 1))
                problems.clear()
            good = [first + index for index, result in enumerate(found) if not isinstance(result, str)]
            if good:
                yield np.stack([r for r in found if not isinstance(r, str)]), np.array(good)
    if problems:
        shown = "; ".join(problems[:10])
        hint = "correct them, or set onBadRow: skip"
        raise DataError(f"dataset.uri: {len(problems)} of {count} images cannot be read: {shown}; {hint}")


def _write(file: BinaryIO, values: NDArray[Any]) -> None:
    file.write(np.ascontiguousarray(values).data)


def _square(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """(3, size, size): RGB, resized to cover the square and cut in the middle."""
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    resized = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    cropped = resized.crop((left, top, left + size, top + size))
    return np.asarray(cropped, dtype=np.uint8).transpose(2, 0, 1)


class ImageBatches:
    """This rank's part of the endless stream of training batches: ((b, C, H, W) floats 0..1, (b,) labels).

    Augmented images have the size that the network sees (one sampling does both), others the one they have.
    """

    def __init__(self, dataset: ImageDataset, parameters: ImageClassificationParameters, shard: Shard) -> None:
        self._images = images = dataset.train
        self._size = dataset.image_size
        self._parameters = parameters
        self._shard = shard
        self.order: Order = DataOrder(count=len(images), batch_size=parameters.batch_size, seed=parameters.seed)
        self.steps_per_epoch = self.order.steps_per_epoch

    def __next__(self) -> tuple[Tensor, Tensor]:
        """The next batch, augmented."""
        draw = next(self.order)
        images, labels = self._images.batch(self._shard.take(draw.indices))
        if self._parameters.augment or self._parameters.horizontal_flip:
            images = warp(images, to_device(self._shard.take(self._affine(draw)), images.device), self._size)
        return images, labels

    def state_dict(self) -> dict[str, int]:
        """The position in the data."""
        return self.order.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on at a saved position."""
        self.order.load_state_dict(state)

    def _affine(self, draw: Draw) -> Tensor:
        """One affine map for each image of the global batch, (B, 2, 3): up to 12 degrees, 10 % of size, an eighth of
        shift.
        """
        count = len(draw.indices)
        strength = float(self._parameters.augment)
        angle, zoom, right, down = (torch.rand(4, count, generator=draw.generator) * 2 - 1) * strength
        angle = angle * math.radians(12)
        zoom = 1 + 0.1 * zoom
        mirror = torch.ones(count)
        if self._parameters.horizontal_flip:
            mirror = (torch.rand(count, generator=draw.generator) < 0.5).float() * 2 - 1
        cos, sin = angle.cos() * zoom, angle.sin() * zoom
        return torch.stack([cos * mirror, -sin, right / 8, sin * mirror, cos, down / 8], dim=1).view(count, 2, 3)


def warp(images: Tensor, affine: Tensor, size: int) -> Tensor:
    """Images (B, C, H, W) seen through affine maps (B, 2, 3), as (B, C, size, size); one bilinear sampling does it
    all.
    """
    grid = F.affine_grid(affine, [len(images), images.shape[1], size, size], align_corners=False)
    return F.grid_sample(images, grid, align_corners=False, padding_mode="border")
