"""What a convolution reads beyond the border of an image: zeros, the nearest pixel, or the tap on the opposite side."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

ZEROS, EDGE, OPPOSITE = "zeros", "edge", "opposite"
Offset = tuple[int, int]


def check_border(border: str, known: tuple[str, ...]) -> str:
    """Return what lies beyond the border, where a network knows it.

    Args:
        border: its name.
        known: what the network can do.

    Returns:
        The name.

    Raises:
        ValueError: if it is another.
    """
    if border not in known:
        raise ValueError(f"border must be one of {', '.join(known)}, got {border!r}")
    return border


def edge_padded(
    features: Float[Array, "batch height width features"], kernel_size: tuple[int, ...], *, cell: int = 1
) -> Float[Array, "batch new_height new_width features"]:
    """Repeat the outermost pixels, so that a convolution without padding keeps the size, and constants constant.

    Args:
        features: (batch, height, width, features).
        kernel_size: rows and columns of the kernel, both odd.
        cell: rows and columns of what is repeated. After a pixel shuffle it is what one pixel became, since the pixels
            of such a cell differ where the image has one colour; then the kernel reaches no further than a cell.

    Returns:
        (batch, height + rows - 1, width + columns - 1, features).
    """
    reaches = [size // 2 for size in kernel_size]
    if cell == 1:
        rows, columns = reaches
        return jnp.pad(features, ((0, 0), (rows, rows), (columns, columns), (0, 0)), mode="edge")
    for axis, reach in zip((1, 2), reaches, strict=True):
        size = features.shape[axis]
        features = _continued(features, axis, slice(cell - reach, cell), slice(size - cell, size - cell + reach))
    return features


def has_opposites(size: tuple[int, ...], offset: Offset) -> bool:
    """Tell whether of each pair of opposite taps at least one lies inside, for all pixels of an image.

    Args:
        size: rows and columns of the image.
        offset: rows and columns from a pixel to its taps.

    Returns:
        True where `opposite_padded` can be used.
    """
    return all(side >= 2 * step for side, step in zip(size, offset, strict=True))


def opposite_padded(
    features: Float[Array, "batch height width features"], offset: Offset
) -> Float[Array, "batch new_height new_width features"]:
    """Continue an image so that a tap outside of it reads what the tap on the opposite side of the output pixel reads.

    This holds for taps `offset` or no pixels away, in rows and in columns. It is no reflection at the border: for
    taps 3 away, the row before the first is row 5.

    Args:
        features: (batch, height, width, features), where `has_opposites`.
        offset: rows and columns from a pixel to its taps.

    Returns:
        (batch, height + 2 rows, width + 2 columns, features).
    """
    for axis, step in zip((1, 2), offset, strict=True):
        size = features.shape[axis]
        features = _continued(features, axis, slice(step, 2 * step), slice(size - 2 * step, size - step))
    return features


def opposite_sources(height: int, width: int, taps: tuple[Offset, ...]) -> Int[np.ndarray, "taps pixels"]:
    """Return the pixel that each tap reads for each output pixel, in images of any size.

    A tap outside the image is replaced by the one on the opposite side of the output pixel, rows and columns each for
    themselves. Where both sides are outside, the whole tap becomes the centre, if the kernel has one. If it has none,
    its taps are the eight neighbours: the tap then moves along the other axis alone, to the same side if it has none
    there. In all cases another tap of the same kernel is read, which a blind-spot network needs.

    Args:
        height: rows of the image.
        width: its columns; one of both is above 1.
        taps: (rows, columns) from the output pixel to each tap; for each its mirror images must be among them.

    Returns:
        Numbers of pixels, row after row.
    """
    sources = [
        _source(pixel, tap, (height, width), centre=(0, 0) in taps)
        for tap in taps
        for pixel in np.ndindex(height, width)
    ]
    return np.array([row * width + column for row, column in sources], np.int32).reshape(len(taps), -1)


def _continued(features: Array, axis: int, before: slice, after: slice) -> Array:
    """Put copies of two parts of an axis before and after it."""
    others = (slice(None),) * axis
    return jnp.concatenate((features[(*others, before)], features, features[(*others, after)]), axis=axis)


def _source(pixel: Offset, tap: Offset, size: Offset, *, centre: bool) -> Offset:
    moves = [_inside(*axis) for axis in zip(pixel, tap, size, strict=True)]
    if None in moves and centre:
        moves = [0, 0]
    elif None in moves:
        other = moves.index(None) ^ 1
        along = moves[other] or _inside(pixel[other], tap[other ^ 1], size[other])
        moves = [along if axis == other else 0 for axis in (0, 1)]
    return pixel[0] + (moves[0] or 0), pixel[1] + (moves[1] or 0)


def _inside(place: int, step: int, size: int) -> int | None:
    """Return the step, or its opposite where it leads outside; None where both do."""
    return next((move for move in (step, -step) if 0 <= place + move < size), None)
