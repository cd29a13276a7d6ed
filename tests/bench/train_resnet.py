"""One side of the ResNet comparison: `train_resnet.py ours|peer PRECISION PEER SIZE`; see bench_train.py.

ResNet-18 on a folder of JPEG files of 256 pixels, label smoothing and SGD with momentum at the same rate: ours as the
loop runs it (the files are decoded once, before; crops, turns and mirroring are one sampling of a batch), and the usual
float32 loops, which decode and crop each file whenever it comes: torchvision's model with ImageFolder and DataLoader,
as PyTorch's ImageNet example has it, or timm's model, loader and optimizer, as its training script does. No worker
processes: both sides have the same cores. The rate is that of the fastest step: other work on the machine only adds.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from bench.gpu_resnet import write_images
from modelyard_workloads.config import parse
from modelyard_workloads.distributed import RankInfo, Ranks
from modelyard_workloads.loop import Training
from modelyard_workloads.tasks import build_task
from torch import nn

STEPS, BATCH, CLASSES, EACH, RATE = 6, 32, 8, 32, 0.02
Seconds = tuple[float, float]  # of the clock, of the processor


def timed(step: Callable[[], float]) -> dict[str, Any]:
    """What bench_train.py reads."""
    steps: list[Seconds] = []
    losses = []
    for _ in range(STEPS):
        began = time.perf_counter(), time.process_time()
        losses.append(step())
        steps.append((time.perf_counter() - began[0], time.process_time() - began[1]))
    wall, processor = (min(seconds[clock] for seconds in steps) for clock in (0, 1))
    return {"unit": "images/s", "rate": BATCH / wall, "cpuRate": BATCH / processor, "loss": losses[-1]}


def ours(folder: Path, precision: str, size: int) -> dict[str, Any]:
    """Steps as the loop does them, data included."""
    parameters = {
        "architecture": "resnet18",
        "imageSize": size,
        "batchSize": BATCH,
        "horizontalFlip": True,
        "precision": precision,
        "learningRate": RATE,
        "schedule": "constant",
        "warmupEpochs": 0,
        "epochs": 1000,
    }
    raw = {
        "task": "image-classification",
        "parameters": parameters,
        "dataset": {"uri": write_images(folder / "images", CLASSES, EACH)},
        "output": {"path": str(folder / "output")},
    }
    config, ranks = parse(raw), Ranks(RankInfo())
    training = Training(build_task(config), config, ranks)
    model = training.prepare(ranks)
    return timed(lambda: float(training.step(model, next(training.data))))


def peer(folder: Path, name: str, size: int) -> dict[str, Any]:
    """The usual loop."""
    write_images(folder / "images", CLASSES, EACH)
    library: Any = import_module(name)
    make = {"torchvision": _torchvision, "timm": _timm}[name]
    model, loader, optimizer = make(folder / "images" / "train", size)
    batches = iter(loader)

    def step() -> float:
        images, labels = next(batches)
        loss = F.cross_entropy(model(images), labels, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.item()

    return timed(step) | {"peer": f"{name} {library.__version__} in a plain loop, fp32"}


def _torchvision(images: Path, size: int) -> tuple[nn.Module, Iterable[Any], torch.optim.Optimizer]:
    vision: Any = import_module("torchvision")
    form = vision.transforms
    normalise = form.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    crop, mirror = form.RandomResizedCrop(size), form.RandomHorizontalFlip()
    data = vision.datasets.ImageFolder(images, form.Compose([crop, mirror, form.ToTensor(), normalise]))
    loader: Any = torch.utils.data.DataLoader(data, batch_size=BATCH, shuffle=True)
    model = vision.models.resnet18(num_classes=CLASSES)
    return model, loader, torch.optim.SGD(model.parameters(), RATE, momentum=0.9, weight_decay=5e-4)


def _timm(images: Path, size: int) -> tuple[nn.Module, Iterable[Any], torch.optim.Optimizer]:
    timm: Any = import_module("timm")
    data, optimizers = import_module("timm.data"), import_module("timm.optim")
    loader = data.create_loader(
        data.create_dataset("", root=str(images)),
        input_size=(3, size, size),
        batch_size=BATCH,
        is_training=True,
        use_prefetcher=False,
        num_workers=0,
        persistent_workers=False,
        device=torch.device("cpu"),
    )
    model = timm.create_model("resnet18", num_classes=CLASSES)
    optimizer = optimizers.create_optimizer_v2(model, opt="sgd", lr=RATE, momentum=0.9, weight_decay=5e-4)
    return model, loader, optimizer


def main() -> None:
    """Print one JSON object."""
    side, precision, name, size = sys.argv[1:]
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "0")) or os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        run = ours(Path(folder), precision, int(size)) if side == "ours" else peer(Path(folder), name, int(size))
    sys.stdout.write(json.dumps(run) + "\n")


if __name__ == "__main__":
    main()
