"""Photographs of any size to cut patches from, wherever they come from, and the patches."""

import os
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaxpurify import datasets, images
from jaxpurify.checks import kind
from jaxpurify.datasets import npz, tfds_source
from jaxpurify.datasets.dataset import Dataset, to_float
from jaxpurify.datasets.photos import photographs
from jaxpurify.files import expanded
from jaxpurify.formats import ENDINGS
from jaxpurify.listing import list_images, some
from jaxpurify.transforms.resampling import LONG, resampling_band, resampling_matrix

SYMMETRIES = 8  # four turns, each flipped or not


def pictures(data: Any, *, split: str = "train") -> tuple[np.ndarray, ...]:
    """Read pictures, which may all have different sizes.

    Args:
        data: ``"photos"`` (the embedded photographs, whole); a folder (all images in it and its sub-folders); an
            ``.npz`` file with an array ``images``; a name of TensorFlow Datasets; a ``Dataset``; or arrays
            ``(height, width, channel)``, ``uint8`` or float in [0, 1]. Labels are not needed and not looked at.
        split: of a data set known by name: ``"train"``, ``"test"``, …; the embedded photographs have none.

    Returns:
        ``uint8`` of shape ``(height, width, 3)`` each; grey ones have three equal channels, opacity is dropped.

    Raises:
        TypeError: if the data are something else.
        ValueError: if there is no picture or one cannot be read.
    """
    data = images.as_array(data, name="data")
    if isinstance(data, str | os.PathLike):
        read: Sequence[np.ndarray] = _named(data, split)
    elif isinstance(data, Dataset):
        read = list(data.images)
    elif isinstance(data, Sequence) or getattr(data, "ndim", None) == 4:
        read = [np.asarray(images.as_array(picture, name=f"picture {number}")) for number, picture in enumerate(data)]
    else:
        raise TypeError(
            f"data must be a name, a folder, a Dataset or pictures (height, width, channel), got {kind(data)}"
        )
    if not len(read):
        raise ValueError("data must hold at least one picture, got none")
    return tuple(_coloured(picture, number) for number, picture in enumerate(read))


def _named(data: str | os.PathLike, split: str) -> Sequence[np.ndarray]:
    if data == "photos":
        return photographs()
    path = expanded(data)
    if path.suffix == ".npz":
        return list(npz.read_images(path))
    if not path.exists() and tfds_source.may_be_a_name(str(data)):
        return tfds_source.read_images(str(data), split=split)
    if not path.is_dir():
        return list(datasets.load(data, split=split).images)  # which says what could be meant
    listing = list_images(path)
    if not listing.images:
        raise ValueError(f"{path} has no images, expected files that end in {', '.join(ENDINGS)}")
    if listing.others:
        warnings.warn(f"{path}: left out what is no image: {some(each.name for each in listing.others)}", stacklevel=3)
    for sentence in listing.broken:
        warnings.warn(f"left out: {sentence}", stacklevel=3)
    return [images.deep_as_float(images.read(file)) for file in listing.images]


def _coloured(picture: np.ndarray, number: int) -> np.ndarray:
    if picture.ndim != 3 or picture.shape[2] not in (1, 3, 4):
        raise ValueError(f"picture {number} must be (height, width, channel) with 1, 3 or 4 channels: {picture.shape}")
    if picture.dtype != np.uint8:
        values = to_float(picture, name=f"picture {number}")
        images.check_values(values, name=f"picture {number}")
        picture = np.rint(values.clip(0, 1) * 255).astype(np.uint8)
    return np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture[..., :3]


def reduced(picture: np.ndarray, factor: int) -> np.ndarray:
    """Shrink a picture by a whole factor, with antialiased bicubic interpolation, rounded to 8 bits.

    Args:
        picture: ``uint8`` ``(height, width, 3)``; rows and columns beyond a multiple of the factor are left out.
        factor: at least 1.

    Returns:
        ``uint8`` ``(height // factor, width // factor, 3)``.

    Source: MATLAB's ``imresize``, with which super-resolution benchmarks are made.
    """
    if factor == 1:
        return picture
    height, width = (side // factor for side in picture.shape[:2])
    cut = picture[: height * factor, : width * factor].astype(np.float32)
    if max(cut.shape[:2]) > LONG:
        shrunk = _shrunk(_shrunk(cut, height, axis=0), width, axis=1)
        return np.rint(shrunk.clip(0, 255)).astype(np.uint8)
    rows, columns = (
        resampling_matrix(side * factor, output=side, method="bicubic", dtype=np.float32) for side in (height, width)
    )
    shrunk = np.einsum("rh,hwc,vw->rvc", rows, cut, columns, optimize=True)
    return np.rint(shrunk.clip(0, 255)).astype(np.uint8)


def _shrunk(values: np.ndarray, side: int, *, axis: int) -> np.ndarray:
    """Resize along one axis without a matrix of its side."""
    values = np.moveaxis(values, axis, 0)
    band = resampling_band((len(values), side), method="bicubic", dtype=np.float32)
    width = band.weights.shape[2]
    parts = (
        np.tensordot(weights, values[start : start + width], axes=1)
        for start, weights in zip(np.asarray(band.starts), np.asarray(band.weights), strict=True)
    )
    return np.moveaxis(np.concatenate(list(parts))[:side], 0, axis)


class Examples(tuple):
    """Examples, and of what each is one: those of one picture are held out together.

    Args:
        examples: of any kind.
        groups: a number an example.
    """

    groups: np.ndarray

    def __new__(cls, examples: Iterable[Any], groups: Sequence[int] | np.ndarray) -> "Examples":
        """Make a tuple that knows its groups."""
        made = super().__new__(cls, examples)
        made.groups = np.asarray(groups)
        return made


def pyramid(read: Sequence[np.ndarray], reductions: Sequence[int], *, least: int) -> Examples:
    """Add to pictures their reductions, and leave out what is too small to cut a patch from.

    Args:
        read: ``uint8`` ``(height, width, 3)`` each.
        reductions: whole factors; 1 is the picture itself.
        least: rows and columns that are needed.

    Returns:
        The pictures, reduction by reduction, grouped by the picture that they show.

    Raises:
        ValueError: if none is left, or a factor is below 1.
    """
    if not reductions or any(not isinstance(factor, int | np.integer) or factor < 1 for factor in reductions):
        raise ValueError(f"reductions must be whole numbers of at least 1, got {tuple(reductions)}")
    shrunk = [(number, reduced(picture, factor)) for factor in reductions for number, picture in enumerate(read)]
    kept = [(number, picture) for number, picture in shrunk if min(picture.shape[:2]) >= least]
    if not kept:
        largest = max(min(picture.shape[:2]) for picture in read)
        raise ValueError(
            f"pictures must have at least {least} rows and columns to cut patches from, the largest of the "
            f"{len(read)} given has {largest}: choose a smaller patch"
        )
    return Examples((picture for _, picture in kept), [number for number, _ in kept])


def patches(
    layers: Sequence[tuple[np.ndarray, int]], random: np.random.Generator, *, patch: int
) -> tuple[np.ndarray, ...]:
    """Cut the same place out of several versions of one picture, flipped and turned alike.

    Args:
        layers: pictures with how many pixels each has for one of the smallest.
        random: where place, flip and turn come from.
        patch: rows and columns in pixels of the smallest.

    Returns:
        ``(patch * pixels, patch * pixels, 3)`` each.
    """
    smallest, pixels = layers[0]
    top, left = (random.integers(side // pixels - patch + 1) for side in smallest.shape[:2])
    turn = int(random.integers(SYMMETRIES))
    return tuple(
        turned(picture[top * per : (top + patch) * per, left * per : (left + patch) * per], turn)
        for picture, per in layers
    )


def turned(picture: np.ndarray, number: int) -> np.ndarray:
    """Apply one of the eight symmetries of the square.

    Args:
        picture: ``(height, width, channel)``.
        number: 0 to 7; 0 is the identity, from 4 on it is flipped too.

    Returns:
        The picture turned by ``number % 4`` right angles.
    """
    flipped = picture[:, ::-1] if number >= 4 else picture
    return np.rot90(flipped, number % 4)
