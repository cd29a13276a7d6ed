"""Grey images in a terminal: half blocks in shades of grey, or five characters where there are no colours."""

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

SHADES = " ░▒▓█"
Image = NDArray[np.float64]


def enlarge(image: Image, size: int) -> Image:
    """(H, W) in 0..1 -> (size, size), bilinear, the corners kept."""
    height, width = image.shape
    rows, columns = np.linspace(0, height - 1, size), np.linspace(0, width - 1, size)
    down = np.stack([np.interp(rows, np.arange(height), image[:, column]) for column in range(width)], axis=1)
    return np.stack([np.interp(columns, np.arange(width), row) for row in down])


def picture(image: Image, *, colour: bool) -> list[Text]:
    """(H, W) in 0..1, H even -> H / 2 lines of W characters; bright is ink."""
    if len(image) % 2:
        raise ValueError(f"an image for half blocks needs an even height, not {len(image)}")
    pairs = zip(image[0::2], image[1::2], strict=True)
    if colour:
        return [
            Text.assemble(
                *(("▀", f"{_grey(upper)} on {_grey(lower)}") for upper, lower in zip(top, bottom, strict=True))
            )
            for top, bottom in pairs
        ]
    return [Text("".join(_shade((upper + lower) / 2) for upper, lower in zip(*pair, strict=True))) for pair in pairs]


def _grey(value: float) -> str:
    level = round(24 + 225 * min(1.0, max(0.0, float(value))))
    return f"#{level:02x}{level:02x}{level:02x}"


def _shade(value: float) -> str:
    return SHADES[min(len(SHADES) - 1, int(min(1.0, max(0.0, float(value))) * len(SHADES)))]
