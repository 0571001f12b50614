"""The median filter as a network of minima and maxima, exact, with a gradient that needs two images of memory.

Windows that overlap share columns: every column of a window is sorted once for all windows that it belongs to. Then
each order statistic is sorted across the columns of a window, after which most entries cannot be the median any more.
As in ``total_variation`` an image is one row of numbers, where a neighbour is a slice.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxpurify.images import check_images
from jaxpurify.transforms.loops import image_by_image

# The network of size 7 takes seconds to compile, and larger windows leave little of a picture.
LARGEST = 7


def median_filter(
    images: Float[Array, "batch height width channel"], *, size: int = 3
) -> Float[Array, "batch height width channel"]:
    """Replace every pixel by the median of the square window around it, channel by channel.

    Equal to SciPy's ``median_filter`` with ``mode="reflect"`` (d c b a | a b c d | d c b a). As there, a window of
    even size reaches one pixel further up and left, and its median is the upper one of the middle two. The gradient
    goes to the pixel that was chosen, in equal parts where several of the window have that value, so that it is finite
    on flat images too.

    Args:
        images: shape ``(batch, height, width, channel)``, float32 or float64.
        size: side of the window in pixels, from 1 to 7. 1 changes nothing.

    Returns:
        Same shape and dtype, values taken from the images.

    Raises:
        TypeError: if the dtype of the images is not float32 or float64.
        ValueError: if size is not an integer from 1 to 7.

    Source: Xu, Evans and Qi 2018 (arXiv 1704.01155), section III-B, who use SciPy's. The network is our choice.
    Shared parts are our choice as well: with 8-bit values most windows hold their median several times.

    Example:
        >>> import jax.numpy as jnp
        >>> images = jnp.full((1, 5, 5, 1), 0.25).at[0, 2, 2, 0].set(1.0)
        >>> float(median_filter(images, size=3).max())
        0.25
    """
    check_images(images)
    check_size(size)
    return image_by_image(functools.partial(_median, size), images)


def check_size(size: int) -> None:
    """Refuse a window that is no square of 1 to 7 pixels.

    Args:
        size: side of the window in pixels.

    Raises:
        ValueError: if it is not an integer from 1 to 7.
    """
    if isinstance(size, bool) or not isinstance(size, int | jnp.integer) or not 1 <= size <= LARGEST:
        raise ValueError(f"size must be an integer from 1 to {LARGEST} pixels, got {size}: 2, 3 and 5 are usual")


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
@functools.partial(jax.jit, static_argnums=(0,))
def _median(size: int, image: Array) -> Array:
    height, width, channels = image.shape
    padded = _continued(image, size)
    row = padded.shape[1] * channels
    flat = padded.reshape(-1)
    columns = _sorted([flat[k * row : (k + height) * row] for k in range(size)])
    # Without the barrier XLA would sort the columns of every window anew.
    columns = jax.lax.optimization_barrier(columns)
    across = [_sorted(_shifted(column, size, channels)) for column in columns]
    # Row i, column j of the window, sorted both ways, is no less than (i + 1)(j + 1) entries, itself among them, and
    # no more than (size − i)(size − j).
    rank = size * size // 2
    candidates, below = [], 0
    for i, entries in enumerate(across):
        for j, entry in enumerate(entries):
            if (size - i) * (size - j) > size * size - rank:
                below += 1
            elif (i + 1) * (j + 1) <= rank + 1:
                candidates.append(entry)
    chosen = _sorted(candidates)[rank - below]
    return chosen.reshape(height, -1, channels)[:, :width]


def _median_forward(size, image):
    median = _median(size, image)
    return median, (image, median)


@functools.partial(jax.jit, static_argnums=(0,))
def _median_backward(size, saved, gradient):
    image, median = saved
    padded, fold = jax.vjp(lambda image: _continued(image, size), image)
    height, width = image.shape[:2]
    offsets = [(i, j) for i in range(size) for j in range(size)]
    ties = sum((padded[i : i + height, j : j + width] == median).astype(image.dtype) for i, j in offsets)
    margin = [(size - 1, size - 1), (size - 1, size - 1), (0, 0)]
    share = jnp.pad(gradient / ties, margin)
    # Beyond the image there is no window, and NaN equals nothing.
    windows = jnp.pad(median, margin, constant_values=jnp.nan)
    share, windows = jax.lax.optimization_barrier((share, windows))
    high, wide = padded.shape[:2]
    spread = sum(
        jnp.where(windows[i : i + high, j : j + wide] == padded, share[i : i + high, j : j + wide], 0)
        for i, j in offsets
    )
    return fold(spread)


_median.defvjp(_median_forward, _median_backward)


def _continued(image: Array, size: int) -> Array:
    before, after = size // 2, (size - 1) // 2
    return jnp.pad(image, [(before, after), (before, after), (0, 0)], mode="symmetric")


def _shifted(row: Array, count: int, step: int) -> list[Array]:
    """Return the row, and the row from 1, 2 … steps on, all of its length."""
    longer = jnp.pad(row, (0, (count - 1) * step))
    return [longer[k * step : k * step + row.size] for k in range(count)]


def _sorted(values: list[Array]) -> list[Array]:
    """Sort arrays entry by entry by Batcher's odd–even mergesort; XLA drops comparisons that nothing uses."""
    values = list(values)
    for first, second in _comparisons(len(values)):
        low, high = values[first], values[second]
        values[first], values[second] = jnp.minimum(low, high), jnp.maximum(low, high)
    return values


@functools.cache
def _comparisons(count: int) -> tuple[tuple[int, int], ...]:
    """Return the pairs that Batcher's odd–even mergesort compares (Knuth, volume 3, algorithm 5.2.2 M)."""
    pairs = []
    block = 1 << max(count - 1, 0).bit_length() - 1 if count > 1 else 0
    top = p = block
    while p > 0:
        q, r, d = top, 0, p
        while True:
            pairs += [(i, i + d) for i in range(count - d) if i & p == r]
            if q == p:
                break
            d, q, r = q - p, q // 2, p
        p //= 2
    return tuple(pairs)
