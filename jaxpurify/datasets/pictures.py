"""Pictures of various sizes and channels, as files have them, in one array."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaxpurify.datasets.dataset import to_float

Size = Any  # checked by `as_pair`
RESIZED = "resized to {}×{} with Pillow's bicubic filter"


def stack(pictures: Iterable[tuple[str, np.ndarray]], *, size: Size = None) -> np.ndarray:
    """Stack pictures into an array of images.

    Grey pictures become RGB where others are coloured, and opacity is dropped.

    Args:
        pictures: the name of each, for messages, and its pixels: shape ``(height, width, channel)`` with 1, 3 or 4
            channels, ``uint8`` or floats in [0, 1].
        size: rows and columns, or one number for both, to resize every picture to with Pillow's bicubic filter, which
            antialiases; None keeps the pictures as they are.

    Returns:
        ``float32`` of shape ``(batch, height, width, channel)`` with 1 or 3 channels, values in [0, 1].

    Raises:
        TypeError: if pixels are neither ``uint8`` nor floats.
        ValueError: if the pictures differ in size and ``size`` is None.
    """
    pair = as_pair(size)
    names, fitted = zip(*((name, _fit(pixels, pair)) for name, pixels in pictures), strict=True)
    for name, pixels in zip(names, fitted, strict=True):
        if pixels.shape[:2] != fitted[0].shape[:2]:
            first, other = ("×".join(map(str, each.shape[:2])) for each in (fitted[0], pixels))
            raise ValueError(
                f"images must share one size, but {names[0]} has {first} pixels and {name} {other}: "
                "pass size= to resize them"
            )
    shape = (*fitted[0].shape[:2], max(pixels.shape[2] for pixels in fitted))
    return np.stack(
        [to_float(np.broadcast_to(pixels, shape), name=name) for name, pixels in zip(names, fitted, strict=True)]
    )


def as_pair(size: Any) -> tuple[int, int] | None:
    """Check a size.

    Args:
        size: rows and columns, one number for both, or None.

    Returns:
        Rows and columns, or None.

    Raises:
        ValueError: if it is something else, or a number is not positive.
    """
    if size is None:
        return None
    pair = tuple(size) if isinstance(size, Sequence | np.ndarray) and not isinstance(size, str) else (size, size)
    whole = all(isinstance(side, int | np.integer) and not isinstance(side, bool) for side in pair)
    if len(pair) != 2 or not whole or min(pair) < 1:
        raise ValueError(f"size must be a positive whole number of pixels, or rows and columns, got {size!r}")
    return int(pair[0]), int(pair[1])


def _fit(pixels: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """Drop opacity and resize one picture."""
    from PIL import Image

    pixels = pixels[..., :3] if pixels.shape[2] == 4 else pixels
    if size is None or pixels.shape[:2] == size:
        return pixels
    rows, columns = size
    channels = [Image.fromarray(channel) for channel in np.moveaxis(pixels, 2, 0)]
    resized = np.stack(
        [np.asarray(each.resize((columns, rows), Image.Resampling.BICUBIC)) for each in channels], axis=2
    )
    return resized if resized.dtype == np.uint8 else np.clip(resized, 0, 1)
