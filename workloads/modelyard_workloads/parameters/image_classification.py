"""The parameters of the builtin trainer `image-classification`. Imports no torch."""

from __future__ import annotations

from pydantic import Field

from modelyard_workloads.parameters.base import Parameters


class ImageClassificationParameters(Parameters):
    """Parameters of the builtin trainer `image-classification`."""

    architecture: str = Field(
        "resnet18",
        min_length=1,
        pattern=r"^[a-z0-9_.]+$",
        description="resnet10, resnet18, resnet34, resnet50, resnet101, resnet152, or any architecture of timm.",
    )
    image_size: int | None = Field(
        None,
        ge=8,
        le=1024,
        description="Height and width in pixels that the network sees; without it, 24 for example://digits, else 224.",
    )
    small_input_stem: bool = Field(
        False,
        description="resnet* only: one 3x3 convolution instead of the 7x7 and the pooling; for up to 64 pixels.",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout in front of the classifier.")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="Share of the target spread over all classes.")
    augment: bool = Field(True, description="Small random rotations, scalings and shifts of the training images.")
    horizontal_flip: bool = Field(False, description="Mirror half of the training images; wrong for digits and text.")
    evaluation_fraction: float = Field(
        0.2, gt=0, lt=1, description="Share of every class held out, where the data has no folder for it."
    )
