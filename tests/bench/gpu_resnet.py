"""ResNet-50, images of 224 x 224 as bytes in the GPU's memory, batch 256, bf16: our trainer, or the usual loop around
timm's model. Ours turns, shifts, zooms and mirrors its images, the loop only mirrors them.
"""

from __future__ import annotations

import io
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from bench.gpu_side import Side, compiling, device, eager_peer, main, ours
from modelyard_workloads.config import parse
from modelyard_workloads.data.images import load_images
from PIL import Image
from torch import Tensor

CLASSES, RATE = 1000, 0.1


def write_images(folder: Path, classes: int, each: int) -> str:
    """Folders of classes; the pictures are noise, and few differ."""
    draw = np.random.default_rng(0)
    pictures = []
    for _ in range(16):
        content = io.BytesIO()
        noise = Image.fromarray(draw.integers(256, size=(28, 28, 3), dtype=np.uint8))
        noise.resize((256, 256), Image.Resampling.BILINEAR).save(content, "JPEG")
        pictures.append(content.getvalue())
    for part, count in (("train", each), ("val", 1)):
        for number in range(classes):
            directory = folder / part / f"{number:04d}"
            directory.mkdir(parents=True, exist_ok=True)
            for index in range(count):
                (directory / f"{index}.jpg").write_bytes(pictures[(number + index) % len(pictures)])
    return folder.resolve().as_uri()


def configuration(folder: Path, tiny: bool) -> dict[str, Any]:
    """Of our trainer."""
    name, size, batch = ("resnet10", 32, 8) if tiny else ("resnet50", 224, 256)
    parameters = {
        "architecture": name,
        "imageSize": size,
        "batchSize": batch,
        "horizontalFlip": True,
        "learningRate": RATE,
        "schedule": "constant",
        "warmupEpochs": 0,
        "epochs": 1000,
    }
    return {
        "task": "image-classification",
        "parameters": parameters,
        "dataset": {"uri": write_images(folder / "images", 8 if tiny else CLASSES, 2)},
        "output": {"path": str(folder / "output")},
    }


def our_side(folder: Path, tiny: bool) -> Side:
    """Our loop."""
    raw = configuration(folder, tiny)
    return ours(raw, "images/s", raw["parameters"]["batchSize"])


def peer(folder: Path, tiny: bool) -> Side:
    """timm's ResNet, channels last, compiled, in autocast, cuDNN choosing its algorithms by trial, fused SGD."""
    timm: Any = import_module("timm")
    raw = configuration(folder, tiny)
    parameters: Any = parse(raw).parameters
    data = load_images(raw["dataset"]["uri"], parameters)
    images, labels = data.train.images.to(device()), data.train.labels.to(device())
    mean, std = (torch.tensor(values, device=device()).view(-1, 1, 1) * 255 for values in (data.mean, data.std))
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    model = timm.create_model("resnet18" if tiny else "resnet50", num_classes=len(data.labels))
    model = model.to(device(), memory_format=torch.channels_last)
    compiled: Any = torch.compile(model, disable=eager_peer())
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True)
    batch = parameters.batch_size

    def step() -> None:
        chosen = torch.randint(len(labels), (batch,), device=device())
        pictures: Tensor = (images[chosen].float() - mean) / std
        mirrored = torch.rand(batch, 1, 1, 1, device=device()) < 0.5
        pictures = torch.where(mirrored, pictures.flip(3), pictures).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device().type, torch.bfloat16):
            loss: Any = F.cross_entropy(compiled(pictures), labels[chosen], label_smoothing=0.1)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    name = f"timm {timm.__version__} resnet50, autocast bf16, {compiling()}, channels last, cudnn.benchmark, fused SGD"
    return Side(step, "images/s", batch, {"peer": name})


if __name__ == "__main__":
    main({"ours": our_side, "peer": peer})
