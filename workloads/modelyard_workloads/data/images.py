"""Labelled images: `example://digits`, or a folder with one folder of images for each class.

    <root>/<class>/*.png                                        a share of every class is held out, chosen by a fixed
    seed <root>/train/<class>/*.png  <root>/{test,val}/<class>/*     or the split is the user's

Images are bytes (N, C, H, W) in memory; a batch becomes floating point, augmented and resized on the device that
trains, all images at once.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlparse

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from modelyard_workloads.data.digits import CLASSES, held_out_mask, load_digits
from modelyard_workloads.data.order import DataOrder, Draw, Order, Shard
from modelyard_workloads.exits import DataError
from modelyard_workloads.parameters.image_classification import ImageClassificationParameters

_DIGITS_SIZE, _FOLDER_SIZE = 24, 224
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Images as bytes (N, C, H, W), labels (N,) int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[np.int64]) -> ImageSet:
        """The images at these positions."""
        chosen = torch.from_numpy(indices)
        return ImageSet(images=self.images[chosen], labels=self.labels[chosen])

    def to(self, device: torch.device) -> ImageSet:
        """The same images on another device."""
        return ImageSet(images=self.images.to(device), labels=self.labels.to(device))


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
    """Read the dataset at `uri`. Raises DataError with every unusable thing named."""
    if uri == "example://digits":
        size = parameters.image_size or _DIGITS_SIZE
        train, held_out, labels = _digits(parameters.evaluation_fraction)
    elif uri.startswith("file://"):
        root = Path(unquote(urlparse(uri).path))
        size = parameters.image_size or _FOLDER_SIZE
        train, held_out, labels = _folder(root, size, parameters.evaluation_fraction)
    else:
        raise DataError(f"dataset.uri: {uri!r} cannot be read; use example://digits or file:///path")
    pixels = train.images.transpose(0, 1).flatten(1).float() / 255  # (C, N H W)
    std = pixels.std(dim=1).clamp_min(1e-3)
    return ImageDataset(
        train=train,
        held_out=held_out,
        labels=labels,
        image_size=size,
        mean=pixels.mean(dim=1).tolist(),
        std=std.tolist(),
    )


def _digits(fraction: float) -> tuple[ImageSet, ImageSet, list[str]]:
    images, labels = load_digits()
    return *_split(images, labels, fraction), [str(n) for n in range(CLASSES)]


def _split(images: NDArray[np.uint8], labels: NDArray[np.int64], fraction: float) -> tuple[ImageSet, ImageSet]:
    """The part to train on, and the part held out."""
    held_out = held_out_mask(labels, fraction)
    whole = ImageSet(images=torch.from_numpy(images), labels=torch.from_numpy(labels))
    return whole.take(np.flatnonzero(~held_out)), whole.take(np.flatnonzero(held_out))


def _folder(root: Path, size: int, fraction: float) -> tuple[ImageSet, ImageSet, list[str]]:
    if not root.is_dir():
        raise DataError(f"dataset.uri: {root} is not a directory")
    if not (root / "train").is_dir():
        classes = _classes(root)
        images, labels = _read(root, classes, size)
        return *_split(images, labels, fraction), classes
    held_out = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
    if held_out is None:
        raise DataError(f"dataset.uri: {root} has train/ but neither test/ nor val/")
    classes = _classes(root / "train")
    parts = []
    for part in (root / "train", held_out):
        images, labels = _read(part, classes, size)
        parts.append(ImageSet(images=torch.from_numpy(images), labels=torch.from_numpy(labels)))
    return parts[0], parts[1], classes


def _classes(root: Path) -> list[str]:
    classes = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(classes) < 2:
        raise DataError(f"dataset.uri: {root} needs one folder of images for each of at least 2 classes, has {classes}")
    return classes


def _read(root: Path, classes: list[str], size: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """All images below `root`, RGB, resized to cover size x size and cut in the middle."""
    files = [
        (path, label)
        for label, name in enumerate(classes)
        for path in sorted((root / name).rglob("*"))
        if path.suffix.lower() in SUFFIXES
    ]
    missing = sorted(set(range(len(classes))) - {label for _, label in files})
    if missing:
        raise DataError(f"dataset.uri: no images in {', '.join(str(root / classes[label]) for label in missing)}")
    images = np.empty((len(files), 3, size, size), dtype=np.uint8)

    def read(index: int) -> str | None:
        path = files[index][0]
        try:
            with Image.open(path) as image:
                images[index] = _square(image, size)
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            return f"{path}: {error}"
        return None

    with ThreadPoolExecutor(max_workers=8) as pool:  # decoding releases the interpreter lock
        problems = [problem for problem in pool.map(read, range(len(files))) if problem]
    if problems:
        shown = "; ".join(problems[:10])
        raise DataError(f"dataset.uri: {len(problems)} of {len(files)} images cannot be read: {shown}")
    return images, np.array([label for _, label in files], dtype=np.int64)


def _square(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """(3, size, size)"""
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
        indices = self._shard.take(draw.indices).to(self._images.labels.device)
        images = self._images.images[indices].float() / 255
        if self._parameters.augment or self._parameters.horizontal_flip:
            images = warp(images, self._shard.take(self._affine(draw)).to(images.device), self._size)
        return images, self._images.labels[indices]

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
