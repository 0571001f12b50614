"""Purifying images of any size in windows of few sizes, so that programs and memory do not grow with the images.

A pixel of a local purifier's result depends on the pixels within its *reach* alone. Windows lie wholly inside the image
and are shifted in at its borders, where the purifier's own border rule holds, whatever it is; elsewhere a window's
pixels are kept where they are its reach away from the edges.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxpurify.models import attribute

SIDES = (16, 32, 64, 128, 256, 512)
USUAL, FAR = 128, 8  # larger windows only where a reach beyond some pixels asks for them
PIXELS = 2**17  # of all windows in one program


class Part(NamedTuple):
    """One window along an axis: where it begins, and which pixels of the image are kept from it."""

    start: int
    first: int
    stop: int


class Axis(NamedTuple):
    """The windows along an axis, all of one side; whether that is one of few sides for all images."""

    side: int
    parts: tuple[Part, ...]
    shared: bool


def reach_of(purifier: Any) -> int | None:
    """Return how many pixels away a pixel of the result depends on, in rows and in columns.

    Args:
        purifier: any purifier.

    Returns:
        A whole number of pixels; None where windows would not give what the whole image gives (it is not declared, or
        the purifier draws random numbers or couples images), or where they would be too large to be of use.
    """
    reach: Any = getattr(purifier, "reach", None)
    whole = isinstance(reach, int | np.integer) and not isinstance(reach, bool)
    if not whole or attribute(purifier, "random") or attribute(purifier, "couples_images"):
        return None
    return int(reach) if 0 <= reach <= SIDES[-1] // 4 else None


def is_narrow(purifier: Any, shape: Sequence[int]) -> bool:
    """Return whether images are too narrow for the windows of a purifier that fills them up.

    Args:
        purifier: any purifier.
        shape: height and width first.

    Returns:
        Whether a side is below the purifier's ``narrowest``.
    """
    return min(shape[:2]) < getattr(purifier, "narrowest", 0)


def windows_inside(size: int, reach: int) -> Axis:
    """Cover an axis by windows that lie inside it.

    Args:
        size: pixels along the axis.
        reach: of the purifier, at most a quarter of the largest side.

    Returns:
        The windows; one of all pixels where the axis is shorter than any window of use.
    """
    # At least half of a side is kept, and of two sides the one is taken that computes less twice.
    most = max(USUAL if reach <= FAR else 2 * USUAL, min(side for side in SIDES if side >= 4 * reach))
    fitting = [side for side in SIDES if 4 * reach <= side <= min(size, most)]
    if not fitting:
        return Axis(size, (Part(0, 0, size),), False)
    side = min(
        fitting[-2 if reach > FAR else -1 :], key=lambda side: -(-(size - 2 * reach) // (side - 2 * reach)) * side
    )
    starts = [*range(0, size - side, side - 2 * reach), size - side]
    stops = [start + side - reach for start in starts[:-1]] + [size]
    parts = zip(starts, [0, *stops[:-1]], stops, strict=True)
    return Axis(side, tuple(Part(*part) for part in parts), True)


def windows_aligned(size: int, step: int) -> Axis:
    """Cover an axis by windows that begin at multiples of a step, the last one reaching beyond the end of the axis.

    Args:
        size: pixels along the axis.
        step: what starts are multiples of, a power of two up to 16; it is the reach too.

    Returns:
        The windows.
    """
    side = next((side for side in SIDES if side >= 2 * step and size <= side <= USUAL), USUAL)
    starts = [0, *range(side - 2 * step, size - 2 * step, side - 2 * step)] if size > side else [0]
    stops = [start + side - step for start in starts[:-1]] + [size]
    parts = zip(starts, [0, *stops[:-1]], stops, strict=True)
    return Axis(side, tuple(Part(*part) for part in parts), True)


def purify_in_windows(
    purifier: Any, images: Sequence[np.ndarray], run: Callable[..., np.ndarray], *, most: int = 64
) -> list[np.ndarray]:
    """Purify images of any sizes, the windows of all of them together.

    Args:
        purifier: one whose ``reach_of`` is a number.
        images: shape ``(height, width, channel)`` each.
        run: batch of windows, and their true heights and widths ``(batch, 2)`` or None where they lie wholly inside
            their images, to the purified batch.
        most: windows in a program at most.

    Returns:
        The purified images.

    Raises:
        ValueError: if the purifier does not change the size by a whole number, which its reach promises.
    """
    reach, step = reach_of(purifier) or 0, getattr(purifier, "aligned", None)
    waiting: dict[Any, list[Any]] = {}
    done: list[Any] = [None] * len(images)

    def finish(kind, cut):
        height, width, shared, *_ = kind
        # Filled up, lest another number of windows compile another program.
        chosen = np.arange(_most(kind, most) if shared else len(cut)) % len(cut)
        sizes = np.array([window.shape[:2] for *_, window in cut], np.int32)
        batch = np.stack([_filled(window, height, width) for *_, window in cut])
        purified = run(batch[chosen], None if step is None else sizes[chosen])
        scale = purified.shape[1] // height
        if purified.shape[1:3] != (scale * height, scale * width):
            raise ValueError(
                f"{type(purifier).__name__} must keep the size of images or enlarge it by a whole number, since it has "
                f"a reach, got {purified.shape[1:3]} for {(height, width)}"
            )
        for (number, rows, columns, _), window in zip(cut, purified, strict=False):
            if done[number] is None:
                tall, wide, channels = images[number].shape
                done[number] = np.empty((scale * tall, scale * wide, channels), purified.dtype)
            kept = tuple(slice(scale * part.first, scale * part.stop) for part in (rows, columns))
            inner = (slice(scale * (p.first - p.start), scale * (p.stop - p.start)) for p in (rows, columns))
            done[number][kept] = window[tuple(inner)]
        cut.clear()

    for number, image in enumerate(images):
        vertical, horizontal = (
            windows_inside(size, reach) if step is None else windows_aligned(size, step) for size in image.shape[:2]
        )
        shared = vertical.shared and horizontal.shared
        kind = (vertical.side, horizontal.side, shared, image.shape[2], image.dtype.name)
        cut = waiting.setdefault(kind, [])
        for rows, columns in itertools.product(vertical.parts, horizontal.parts):
            window = image[rows.start : rows.start + kind[0], columns.start : columns.start + kind[1]]
            cut.append((number, rows, columns, window))
            if len(cut) == _most(kind, most):
                finish(kind, cut)
    for kind, cut in waiting.items():
        if cut:
            finish(kind, cut)
    return done


def _most(kind: Any, most: int) -> int:
    return max(1, min(most, PIXELS // (kind[0] * kind[1])))


def _filled(window: np.ndarray, height: int, width: int) -> np.ndarray:
    """Repeat the last row and column of a window that reaches beyond its image."""
    missing = [(0, height - window.shape[0]), (0, width - window.shape[1]), (0, 0)]
    return np.pad(window, missing, mode="edge") if any(after for _, after in missing) else window
