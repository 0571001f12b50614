"""What of an image a purifier is shown: no colour that opacity hides, and grey as colour where it wants colour."""

import warnings
from typing import Any

import jax
import numpy as np

FAINT = 1 / 16  # opacity below which colour counts the less, the less of it is seen
PROBED = 32  # pixels to a side of what a purifier is tried on


def prepare(purifier: Any, images: list[np.ndarray], keys: Any) -> list[np.ndarray]:
    """Make of images what a purifier is to see.

    Colour under no opacity, which can be anything, is replaced by that of its neighbours weighted by their opacity, or
    it would be averaged into what is visible: a dark fringe. Grey gets three equal channels where the purifier takes
    colour alone.

    Args:
        purifier: images to images.
        images: single images ``(height, width, channel)`` with 1 to 4 channels, ``uint8`` or floating point.
        keys: one an image, or None.

    Returns:
        Images of the same heights, widths and dtypes.

    Source: our choice; the filling is that of Gortler et al., "The lumigraph", SIGGRAPH 1996 (pull-push).
    """
    grey = next((image for image in images if image.shape[-1] < 3), None)
    colour = grey is not None and _wants_colour(purifier, grey, None if keys is None else keys[:1])
    shown = [_filled(image) if image.shape[-1] in (2, 4) else image for image in images]
    return [
        image[..., [0, 0, 0, *range(1, image.shape[-1])]] if colour and image.shape[-1] < 3 else image
        for image in shown
    ]


def restore(purified: np.ndarray, given: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Make of a purified image one like the given: grey again, and with its hidden colours.

    Args:
        purified: what the purifier made of ``shown``, with the opacity, ``(height, width, channel)``.
        given: the image as it came.
        shown: what ``prepare`` made of it.

    Returns:
        The purified image with the channels of the given one.
    """
    dtype, levels = given.dtype, given.dtype.kind in "ui"
    if purified.shape[-1] != given.shape[-1]:
        mean = purified[..., :3].mean(axis=-1, keepdims=True, dtype=np.float32)
        mean = (np.rint(mean) if levels else mean).astype(dtype)
        purified, shown = (
            np.concatenate([each, rest[..., 3:]], axis=-1) for each, rest in ((mean, purified), (shown[..., :1], shown))
        )
    if purified.shape != given.shape or given.shape[-1] in (1, 3):
        return purified
    differs = (given != shown).any(axis=-1, keepdims=True)
    if not differs.any():
        return purified
    wide = np.int64 if levels else np.float64  # so that what a purifier leaves alone comes back to the bit
    hidden = purified.astype(wide) + given.astype(wide) - shown.astype(wide)
    return np.where(differs, hidden.clip(0, 255 if levels else 1).astype(dtype), purified)


def _wants_colour(purifier: Any, image: np.ndarray, key: Any) -> bool:
    """Tell whether a purifier refuses one channel and takes three."""
    side = np.minimum(image.shape[:2], PROBED)
    for channels in (1, 3):
        try:
            tried = jax.ShapeDtypeStruct((1, *map(int, side), channels), np.float32)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of so small an image
                jax.eval_shape(lambda p, x: p(x, key), purifier, tried)
        except Exception:  # it says what is wrong when it gets the image
            continue
        return channels == 3
    return False


def _filled(image: np.ndarray) -> np.ndarray:
    """Blend colours of little opacity into those around them."""
    scale = 255 if image.dtype == np.uint8 else 1
    opacity = image[..., -1:].astype(np.float32) / scale
    if opacity.min() >= FAINT or opacity.max() == 0:
        return image
    colour = image[..., :-1].astype(np.float32)
    around = _around(colour, opacity)
    weight = np.minimum(opacity / np.float32(FAINT), 1) ** 2
    blended = weight * colour + (1 - weight) * around
    blended = (np.rint(blended) if scale == 255 else blended).astype(image.dtype)
    return np.concatenate([np.where(weight == 1, image[..., :-1], blended), image[..., -1:]], axis=-1)


def _around(colour: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """Average colours weighted by opacity over squares of a pyramid, larger ones where there is little of it."""
    height, width = colour.shape[:2]
    pad = ((0, height % 2), (0, width % 2), (0, 0))
    rows, columns = -(-height // 2), -(-width // 2)
    weight, total = (
        np.pad(each, pad).reshape(rows, 2, columns, 2, -1).mean(axis=(1, 3)) for each in (opacity, colour * opacity)
    )
    mean, trust = total / np.where(weight > 0, weight, 1), np.minimum(4 * weight, 1)
    if trust.min() < 1 and max(height, width) > 1:
        mean = trust * mean + (1 - trust) * _around(mean, weight)
    return mean.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
