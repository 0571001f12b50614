"""`photos`: 32×32 patches of the eight colour photographs inside scikit-image; the class is the photograph.

Real images, no download, the same on every machine: for demonstrations and tests. Eight photographs are no evidence
about anything, and tables on them say so.
"""

import functools
from importlib import resources
from typing import NamedTuple

import numpy as np

from jaxpurify import image_files
from jaxpurify.datasets.dataset import Dataset

SIZE = 32  # rows and columns of a patch
PER_CLASS = {"train": 1024, "test": 128}
CELL = 80  # rows and columns of a cell of the chequered plan that parts train from test, about
CONTRAST = 0.05  # least standard deviation of a patch's grey, of a range of 1
LEVELS = 1024  # at which quantile functions are compared
GOLDEN = (5**0.5 - 1) / 2


class Photograph(NamedTuple):
    """One of scikit-image's files, and how it is prepared before patches are cut."""

    name: str
    file: str
    licence: str
    reduction: int = 1  # rows and columns of pixels that are averaged into one
    margin: int = 0  # pixels left out at each side


# The larger two are reduced to the scale of the others. The retina is cut to the square inside its round image.
PHOTOGRAPHS = (
    Photograph("astronaut", "astronaut.png", "public domain (NASA)"),
    Photograph("chelsea", "chelsea.png", "CC0 (Stefan van der Walt)"),
    Photograph("coffee", "coffee.png", "CC0 (Rachel Michetti, Pikolo Espresso Bar)"),
    Photograph("hubble", "hubble_deep_field.jpg", "public domain (NASA, Hubble eXtreme Deep Field)", reduction=2),
    Photograph("immunohistochemistry", "ihc.png", "no known restrictions (CMMI)"),
    Photograph(
        "motorcycle", "motorcycle_left.png", "no licence stated (Middlebury 2014 stereo benchmark, Scharstein et al.)"
    ),
    Photograph("retina", "retina.jpg", "CC0 (Häggström 2014)", reduction=3, margin=215),
    Photograph("rocket", "rocket.jpg", "public domain (SpaceX)"),
)
# In the alphabet's order: a folder of these classes then numbers them alike.
CLASS_NAMES = tuple(photograph.name for photograph in PHOTOGRAPHS)
LICENCE = "; ".join(f"{photograph.name}: {photograph.licence}" for photograph in PHOTOGRAPHS)
SOURCE = (
    "32×32 patches of the eight colour photographs inside scikit-image, each matched to their mean quantile function a "
    "channel; train and test from disjoint regions"
)


def load(*, split: str = "test", limit: int | None = None) -> Dataset:
    """Load the embedded data set.

    Every photograph is balanced as a whole: each channel's values are mapped so that their distribution is the mean of
    all eight, and a colour histogram alone does not tell the photographs apart. Each is then parted into cells of about
    80×80 pixels, one in four of which is test; a test patch lies within one test cell, a train patch touches none.
    Patches with nearly no contrast are left out. The images have all classes in turn, so any ``limit`` is balanced.

    Args:
        split: ``"train"`` (8,192 images) or ``"test"`` (1,024 images).
        limit: take the first ``limit`` images.

    Returns:
        The images (32×32, RGB, in [0, 1]) with the number of their photograph.

    Raises:
        ValueError: if the split is unknown, or scikit-image's files are not there.

    Source:
        Our choice: a labelled set of real images that needs no download and is small enough for a test. Balancing is
        histogram matching (Gonzalez and Woods, Digital Image Processing) to a common reference.
    """
    if split not in PER_CLASS:
        raise ValueError(f"photos has no split {split!r}, expected one of: {', '.join(PER_CLASS)}")
    patches, labels = _patches(split)
    return Dataset(
        images=patches[:limit].astype(np.float32) / np.float32(255),
        labels=labels[:limit],
        class_names=CLASS_NAMES,
        name="photos",
        split=split,
        demonstration=True,
        licence=LICENCE,
        source=SOURCE,
    )


def positions(balanced: np.ndarray, *, split: str) -> np.ndarray:
    """Choose where to cut patches of one photograph.

    Args:
        balanced: the photograph, ``uint8`` of shape ``(height, width, 3)``.
        split: ``"train"`` or ``"test"``.

    Returns:
        The upper left corners of the patches, ``(patch, 2)``: spread evenly over all that qualify, and so is every
        beginning of them.
    """
    grey = balanced.sum(axis=2, dtype=np.int64)
    pixels = SIZE * SIZE
    # Standard deviation above CONTRAST, in whole numbers: the same on every machine.
    contrast = pixels * _window_sums(grey * grey) - _window_sums(grey) ** 2 > (3 * 255 * CONTRAST * pixels) ** 2
    tested = _window_sums(held_out_cells(*grey.shape).astype(np.int64))
    corners = np.argwhere(contrast & (tested == (pixels if split == "test" else 0)))
    # Multiples of the golden ratio, modulo 1, fill the range evenly however many are taken.
    spread = np.modf(np.arange(PER_CLASS[split]) * GOLDEN)[0]
    return corners[(spread * len(corners)).astype(int)]


def held_out_cells(height: int, width: int) -> np.ndarray:
    """Plan which pixels of a photograph belong to the test split.

    Args:
        height: rows of pixels.
        width: columns of pixels.

    Returns:
        Booleans ``(height, width)``: one cell in four of every row of cells, shifted by half from row to row.
    """
    rows = np.arange(height) * round(height / CELL) // height
    columns = np.arange(width) * round(width / CELL) // width
    return (2 * rows[:, None] + columns[None, :]) % 4 == 1


@functools.cache
def photographs() -> tuple[np.ndarray, ...]:
    """Read all photographs whole, the larger two reduced, as they are.

    Patches of both splits of the data set are parts of them: what is trained on them is not to be scored on either.

    Returns:
        For each photograph ``uint8`` of shape ``(height, width, 3)``.

    Raises:
        ValueError: if scikit-image's files are not there.
    """
    read = [(_read(photograph), photograph.reduction**2) for photograph in PHOTOGRAPHS]
    return tuple(np.rint(sums / pixels).astype(np.uint8) for sums, pixels in read)


@functools.cache
def balanced_photographs() -> tuple[np.ndarray, ...]:
    """Read all photographs and match each channel to the mean quantile function of all.

    Returns:
        For each photograph ``uint8`` of shape ``(height, width, 3)``; for each channel all have the same distribution,
        up to values that were equal before.

    Raises:
        ValueError: if scikit-image's files are not there.
    """
    read = [_read(photograph) for photograph in PHOTOGRAPHS]
    levels = (np.arange(LEVELS) + 0.5) / LEVELS
    balanced = [np.empty(sums.shape, np.uint8) for sums in read]
    for channel in range(3):
        ranks = [_ranks(sums[..., channel]) for sums in read]
        quantiles = [
            np.interp(levels, rank[rank > 0], np.flatnonzero(rank) / photograph.reduction**2)
            for rank, photograph in zip(ranks, PHOTOGRAPHS, strict=True)
        ]
        reference = np.mean(quantiles, axis=0)
        for matched, sums, rank in zip(balanced, read, ranks, strict=True):
            table = np.rint(np.interp(rank, levels, reference)).astype(np.uint8)
            matched[..., channel] = table[sums[..., channel]]
    return tuple(balanced)


@functools.cache
def _patches(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Cut the patches of a split; round by round one of each class, whose order rotates."""
    count, classes = PER_CLASS[split], len(PHOTOGRAPHS)
    cut = np.empty((count, classes, SIZE, SIZE, 3), np.uint8)
    for number, photograph in enumerate(balanced_photographs()):
        windows = np.lib.stride_tricks.sliding_window_view(photograph, (SIZE, SIZE), axis=(0, 1))
        corners = positions(photograph, split=split)
        cut[:, number] = windows[corners[:, 0], corners[:, 1]].transpose(0, 2, 3, 1)
    labels = (np.arange(classes)[None, :] + np.arange(count)[:, None]) % classes
    patches = np.take_along_axis(cut, labels[:, :, None, None, None], axis=1)
    return patches.reshape(-1, SIZE, SIZE, 3), labels.reshape(-1).astype(np.int32)


def _read(photograph: Photograph) -> np.ndarray:
    """Read a photograph as sums over the pixels that are averaged into one: whole numbers."""
    path = resources.files("skimage") / "data" / photograph.file
    try:
        # As they lie in the file: the data set is older than the conversion of colours.
        pixels = image_files.load(str(path), to_srgb=False).pixels
    except ValueError as error:
        raise ValueError(
            f"the photograph {photograph.name} of scikit-image is damaged ({error}): install it again"
        ) from None
    margin, by = photograph.margin, photograph.reduction
    pixels = pixels[margin : pixels.shape[0] - margin, margin : pixels.shape[1] - margin, :3]
    height, width = pixels.shape[0] // by, pixels.shape[1] // by
    blocks = pixels[: height * by, : width * by].reshape(height, by, width, by, 3)
    return blocks.sum(axis=(1, 3), dtype=np.int64)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return, for each whole number that occurs, the share of values below it and half of those equal; 0 elsewhere."""
    counts = np.bincount(values.ravel())
    return np.where(counts > 0, (np.cumsum(counts) - counts / 2) / values.size, 0)


def _window_sums(values: np.ndarray) -> np.ndarray:
    """Sum whole numbers over every window of SIZE×SIZE pixels."""
    total = np.pad(values.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    return total[SIZE:, SIZE:] - total[:-SIZE, SIZE:] - total[SIZE:, :-SIZE] + total[:-SIZE, :-SIZE]
