"""Image classification: ResNet and the architectures of timm on labelled images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from modelyard_workloads.artifact import (
    MANIFEST_NAME,
    Architecture,
    Artifact,
    ArtifactError,
    ArtifactInvalid,
    Description,
    Golden,
    TensorSpec,
    TensorValue,
    read_artifact,
)
from modelyard_workloads.backward import compiles
from modelyard_workloads.config import TrainingConfig
from modelyard_workloads.data.images import ImageBatches, ImageDataset, ImageSet, load_images
from modelyard_workloads.data.order import Shard
from modelyard_workloads.data.sources import MODEL, open_source
from modelyard_workloads.estimates.demand import Demand, number_bytes
from modelyard_workloads.estimates.images import image_demand
from modelyard_workloads.exits import ConfigError, DataError, Issue
from modelyard_workloads.models.image_classifier import (
    ImageArchitecture,
    ImageClassifier,
    UnknownArchitecture,
    build_network,
)
from modelyard_workloads.models.uninitialised import with_weights
from modelyard_workloads.parameters.image_classification import ImageClassificationParameters
from modelyard_workloads.tasks.base import Objective

WEIGHTS = "model.safetensors"
_EVALUATION_BATCH = 256
_GOLDEN_SAMPLES = 4

Batch = tuple[Tensor, Tensor]  # images (b, C, H, W) in 0..1, labels (b,) int64


class ImageClassificationTask:
    """The Task of `image-classification`; see `tasks.base.Task` for the order of calls."""

    objective = Objective(metric="accuracy", higher_is_better=True)

    def __init__(self, config: TrainingConfig) -> None:
        assert isinstance(config.parameters, ImageClassificationParameters)
        self._parameters = config.parameters
        self._private = config.private is not None
        self._dataset_uri = config.dataset.uri
        self._model_uri = config.model.uri
        self._dataset: ImageDataset
        self._held_out: ImageSet
        self._shard: Shard
        self._device: torch.device
        self._flops: float  # of one image

    def build_data(self, shard: Shard, device: torch.device) -> ImageBatches:
        """Images are bytes, on the device where they fit; a batch is cut, augmented and resized there."""
        self._shard, self._device = shard, device
        self._dataset = load_images(self._dataset_uri, self._parameters)
        if self._private:  # the moments of the data are not private
            channels = len(self._dataset.mean)
            self._dataset = replace(self._dataset, mean=[0.5] * channels, std=[0.25] * channels)
        self._held_out = self._dataset.held_out.to(device)
        on_device = replace(self._dataset, train=self._dataset.train.to(device))
        return ImageBatches(on_device, self._parameters, shard)

    def demand(self) -> Demand:
        """See `tasks.base.Estimated`; measured on a network of its own."""
        channels, height, width = self._dataset.train.images.shape[1:]
        augmented = self._parameters.augment or self._parameters.horizontal_flip
        size = (self._dataset.image_size,) * 2 if augmented else (height, width)
        with torch.random.fork_rng(devices=[]):
            need = image_demand(
                self._new_model(),
                (channels, *size),
                self._parameters,
                number=number_bytes(self._parameters.precision, self._device),
                compiled=compiles(self._parameters.compile, self._device),
                private=self._private,
            )
        self._flops = need.flops
        return need

    def work_per_step(self) -> dict[str, float]:
        """Floating-point operations of convolutions and linear layers."""
        return {"flops": self._flops * self._parameters.batch_size}

    def build_model(self) -> ImageClassifier:
        """A network for the data's channels and classes, channels last."""
        model = self._new_model()
        if self._model_uri:
            _load_initial(model.network, self._model_uri)
        return model

    def _new_model(self) -> ImageClassifier:
        try:
            return _build(self._architecture(), self._dataset.mean, self._dataset.std)
        except UnknownArchitecture as error:
            raise ConfigError([Issue("parameters.architecture", str(error))]) from None

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy with label smoothing; its mean over the ranks is that of the global batch."""
        images, labels = batch
        mean = F.cross_entropy(model(images), labels, label_smoothing=self._parameters.label_smoothing)
        return mean * self._shard.weight(len(labels), self._parameters.batch_size)

    def evaluation(self) -> Iterator[Batch]:
        """This rank's share of the held-out images."""
        for indices in torch.split(self._shard.stride(len(self._held_out)), _EVALUATION_BATCH):
            yield self._held_out.batch(indices)

    def measure(self, model: nn.Module, batch: Batch) -> Tensor:
        """[samples, correct ones, summed cross-entropy]"""
        images, labels = batch
        logits = model(images)
        correct = (logits.argmax(dim=1) == labels).sum()
        loss = F.cross_entropy(logits, labels, reduction="sum")
        return torch.stack([torch.full_like(loss, len(labels)), correct.to(loss.dtype), loss]).double()

    def summarise(self, sums: Tensor) -> dict[str, float]:
        """Accuracy (share of 1) and mean cross-entropy without smoothing."""
        samples, correct, loss = sums.tolist()
        return {"accuracy": correct / samples, "evaluationLoss": loss / samples}

    def describe(self, directory: Path, weights: dict[str, Tensor]) -> Description:
        """`weights` are those of the ImageClassifier; the file has the network's own names, as timm and torchvision use
        them.
        """
        architecture = self._architecture()
        network = {name.removeprefix("network."): _plain(value) for name, value in weights.items()}
        safetensors.torch.save_file(network, directory / WEIGHTS, metadata={"format": "pt"})
        arguments = asdict(architecture)
        name = str(arguments.pop("name"))
        preprocess = {"mean": self._dataset.mean, "std": self._dataset.std, "imageSize": architecture.image_size}
        channels, height, width = self._dataset.held_out.images.shape[1:]
        classes = len(self._dataset.labels)
        return Description(
            task="image-classification",
            architecture=Architecture(name=name, config=arguments),
            weights=[WEIGHTS],
            preprocess=preprocess,
            labels=self._dataset.labels,
            inputs=[TensorSpec(name="image", datatype="FP32", shape=[-1, channels, height, width])],
            outputs=[TensorSpec(name=n, datatype="FP32", shape=[-1, classes]) for n in ("logits", "probabilities")],
            golden=[self._golden(ServedImageClassifier(_load(architecture, preprocess, [directory / WEIGHTS])))],
        )

    def _golden(self, model: ServedImageClassifier) -> Golden:
        images = self._dataset.held_out.images[:_GOLDEN_SAMPLES].float() / 255
        if self._private:  # golden answers are published: real images must not be
            images = torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
        inputs = {"image": images}
        return Golden(inputs=_values(inputs), outputs=_values(model(inputs)))

    def _architecture(self) -> ImageArchitecture:
        parameters = self._parameters
        return ImageArchitecture(
            name=parameters.architecture,
            channels=self._dataset.train.images.shape[1],
            classes=len(self._dataset.labels),
            image_size=self._dataset.image_size,
            small_input_stem=parameters.small_input_stem,
            dropout=parameters.dropout,
            group_norm=self._private,
        )


class ServedImageClassifier:
    """Pixels in 0..1 -> logits and probabilities."""

    def __init__(self, model: ImageClassifier) -> None:
        self._model = model.eval()

    @torch.inference_mode()
    def __call__(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """{"image": (B, C, H, W)} -> {"logits": (B, K), "probabilities": (B, K)}"""
        logits = self._model(inputs["image"])
        return {"logits": logits, "probabilities": logits.softmax(dim=1)}


def build_task(config: TrainingConfig) -> ImageClassificationTask:
    """The task of a configuration."""
    return ImageClassificationTask(config)


def build_served_model(artifact: Artifact) -> ServedImageClassifier:
    """Load the weights. Raises ArtifactInvalid when they do not fit the architecture."""
    return ServedImageClassifier(load_classifier(artifact))


def load_classifier(artifact: Artifact) -> ImageClassifier:
    """The network, as `build_served_model` has it."""
    manifest = artifact.manifest
    try:
        architecture = ImageArchitecture(name=manifest.architecture.name, **manifest.architecture.config)
        return _load(architecture, manifest.preprocess, artifact.weights)
    except (TypeError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
        raise ArtifactInvalid(
            f"{artifact.path}: the weights do not make a {manifest.architecture.name}: {error}"
        ) from None


def _build(architecture: ImageArchitecture, mean: list[float], std: list[float]) -> ImageClassifier:
    return _classifier(architecture, build_network(architecture), mean, std)


def _classifier(
    architecture: ImageArchitecture, network: nn.Module, mean: list[float], std: list[float]
) -> ImageClassifier:
    # Opacus' gradients of single samples are wrong for convolutions whose input is not in the plain layout.
    layout = torch.contiguous_format if architecture.group_norm else torch.channels_last
    return ImageClassifier(network, image_size=architecture.image_size, mean=mean, std=std, memory_format=layout)


def _load(architecture: ImageArchitecture, preprocess: dict[str, Any], files: list[Path]) -> ImageClassifier:
    weights = {name: value for file in files for name, value in safetensors.torch.load_file(file).items()}
    network = with_weights(lambda: build_network(architecture), weights)
    return _classifier(architecture, network, preprocess["mean"], preprocess["std"])


def _load_initial(network: nn.Module, uri: str) -> None:
    """Start from weights of the same architecture, another training's or others under the names of timm and
    torchvision; a head for other classes stays random.
    """
    directory = open_source(uri, MODEL).local_directory()
    try:
        if (directory / MANIFEST_NAME).exists():
            files = read_artifact(directory).weights
        else:
            files = sorted(directory.glob("*.safetensors"))
            if not files:
                raise DataError(f"model.uri: {uri} has neither {MANIFEST_NAME} nor a file that ends with .safetensors")
        weights = {n: v for file in files for n, v in safetensors.torch.load_file(file).items()}
    except (ArtifactError, SafetensorError) as error:
        raise DataError(f"model.uri: {error}") from None
    own = network.state_dict()
    fitting = {n: v for n, v in weights.items() if n in own and own[n].shape == v.shape}
    # The head is the last weight and bias; anything else that differs means another network.
    left = [name for name in own if name not in fitting]
    if len(left) > 2 or left != list(own)[len(own) - len(left) :]:
        raise DataError(
            f"model.uri: the weights at {uri} do not fit this network; {len(left)} tensors differ, first {left[0]}"
        )
    network.load_state_dict(fitting, strict=False)


def _plain(value: Tensor) -> Tensor:
    """A copy as it is stored: on the CPU, float32 where it is floating point, in the plain memory layout."""
    value = value.detach().to("cpu", copy=True).contiguous()
    return value.float() if value.is_floating_point() else value


def _values(tensors: dict[str, Tensor]) -> list[TensorValue]:
    return [
        TensorValue(name=name, datatype="FP32", shape=list(value.shape), data=value.tolist())
        for name, value in tensors.items()
    ]
