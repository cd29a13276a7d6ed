"""The parameters of the builtin trainer `image-classification`. Imports no torch."""

from __future__ import annotations

from pydantic import Field

from modelyard_workloads.parameters.rows import RowParameters


class ImageClassificationParameters(RowParameters):
    """Parameters of the builtin trainer `image-classification`."""

    architecture: str = Field(
        "resnet18",
        min_length=1,
        pattern=r"^[a-z0-9_.]+$",
        description="resnet10, resnet18, resnet34, resnet50, resnet101, resnet152, or any architecture of timm: vgg16,"
        " vgg16_bn, inception_v3, efficientnet_b0, convnext_tiny, vit_small_patch16_224, ...",
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
    image_column: str = Field("image", min_length=1, description="Parquet only: the column with the images' bytes.")
    label_column: str = Field("label", min_length=1, description="Parquet only: the column with the classes.")
    evaluation_fraction: float = Field(
        0.2, gt=0, lt=1, description="Share of every class held out, where the data has no folder for it."
    )
