"""Files of pictures to the pixels that an image classifier takes."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from modelyard_workloads.serve.errors import InvalidInput
from modelyard_workloads.serve.tensors import Array

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
MAX_PIXELS = 50_000_000  # a small file can claim to be a huge picture
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class PictureDecoder:
    """A file to FP32 [C, H, W] in 0..1; scaled to the model's size where it has a fixed one and the picture another."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        """`shape` of the input, [-1, C, H, W]; H and W may be -1: the picture keeps its size."""
        _, channels, self._height, self._width = shape
        self._mode = _MODES.get(channels)

    def __call__(self, data: bytes) -> Array:
        """Raises InvalidInput for what is no picture, a damaged one, or one with too many pixels."""
        if self._mode is None:
            raise InvalidInput("the model's channels are not those of a picture; send numbers")
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
                if opened.width * opened.height > MAX_PIXELS:
                    size = f"{opened.width} x {opened.height}"
                    raise InvalidInput(f"the picture has {size} pixels, at most {MAX_PIXELS} are read")
                picture: Image.Image = opened.convert(self._mode)
        except UnidentifiedImageError:
            raise InvalidInput(f"not a picture; send the bytes of a {', '.join(FORMATS)} file") from None
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            raise InvalidInput("the picture's file is damaged") from None
        wanted = (
            picture.width if self._width == -1 else self._width,
            picture.height if self._height == -1 else self._height,
        )
        if picture.size != wanted:
            picture = picture.resize(wanted, Image.Resampling.BILINEAR)
        pixels = np.asarray(picture, dtype=np.float32) / 255
        return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))
