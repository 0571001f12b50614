"""Masks in the frequency domain, random and not, for images and for feature maps of any size."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxpurify import keys as _keys
from jaxpurify.images import check_images
from jaxpurify.pytrees import Scalar, concrete
from jaxpurify.transforms.dct import dct_filter
from jaxpurify.transforms.fourier import fft_filter

TRANSFORMS = ("dct", "fft")


def frequency_distance(height: int, width: int, *, transform: str = "dct") -> np.ndarray:
    """Compute the distance of every coefficient from the zero frequency, relative to that of the image's far corner.

    Args:
        height: number of rows.
        width: number of columns.
        transform: ``"dct"`` (the orthonormal DCT-II over the whole frame) or ``"fft"`` (``rfft2``).

    Returns:
        float64. For the DCT, shape ``(height, width)`` and ``√(i² + j²) / √(height² + width²)``. For the Fourier
        transform, whose index counts whole periods where the DCT's counts halves, shape ``(height, width // 2 + 1)``
        and the same with ``2u`` and ``2v`` in the place of i and j, u taken from the nearer end: equal distances are
        equal spatial frequencies in both.

    Raises:
        ValueError: if the transform is unknown.

    Source: Yue et al. 2021 (arXiv 2208.00428) for the DCT; the Fourier form is our choice.
    """
    check_transform(transform)
    if transform == "dct":
        vertical, horizontal = np.arange(height), np.arange(width)
    else:
        rows = np.arange(height)
        vertical, horizontal = 2 * np.minimum(rows, height - rows), 2 * np.arange(width // 2 + 1)
    return np.hypot(vertical[:, None], horizontal[None, :]) / np.hypot(height, width)


def frequency_mask(
    keys: jax.Array,
    *,
    height: int,
    width: int,
    min_radius: Scalar = 0.43,
    max_radius: Scalar = 0.50,
    transform: str = "dct",
    dtype: jax.typing.DTypeLike = jnp.float32,
) -> Float[Array, "batch height columns"]:
    """Draw random frequency masks: low frequencies stay, high ones stay the less often the higher they are.

    Within a radius, itself drawn uniformly, every coefficient is kept; beyond it, one at distance D is kept with
    probability ``1 - D / max D``.

    Args:
        keys: typed keys of shape ``(batch,)``, one a mask.
        height: number of rows.
        width: number of columns.
        min_radius: smallest radius, in (0, 1], relative to the diagonal ``√(height² + width²)``.
        max_radius: largest radius, from ``min_radius`` to 1.
        transform: ``"dct"`` or ``"fft"``.
        dtype: of the masks.

    Returns:
        Zeros and ones, shape ``(batch, height, width)`` for the DCT, ``(batch, height, width // 2 + 1)`` for ``rfft2``,
        where a frequency and its negative share their draw.

    Raises:
        ValueError: if a radius is outside (0, 1] or the transform is unknown.

    Source: Yue et al. 2021 (arXiv 2208.00428), as the authors' code has it, DCT and radii from 0.43 to 0.50.
    """
    check_radii(min_radius, max_radius)
    distance = frequency_distance(height, width, transform=transform)
    chance = jnp.asarray(1 - distance / max(distance.max(), np.finfo(float).tiny), dtype)
    reached, low, high = (jnp.asarray(value, dtype) for value in (distance, min_radius, max_radius))

    def draw(key):
        radius = low + (high - low) * jax.random.uniform(jax.random.fold_in(key, 0), (), dtype)
        uniform = jax.random.uniform(jax.random.fold_in(key, 1), reached.shape, dtype)
        if transform == "fft":
            uniform = _share_with_the_negative(uniform, width)
        return ((reached <= radius) | (uniform < chance)).astype(dtype)

    return jax.vmap(draw)(keys)


def random_frequency_mask(
    images: Float[Array, "batch height width channel"],
    key: jax.Array,
    *,
    min_radius: Scalar = 0.43,
    max_radius: Scalar = 0.50,
    transform: str = "dct",
    per_image: bool = True,
) -> Float[Array, "batch height width channel"]:
    """Erase high frequencies at random, the same ones in all channels; for images and feature maps alike.

    Args:
        images: shape ``(batch, height, width, channel)``, any number of channels and any range.
        key: one typed key (image i gets it with i folded in) or one an image.
        min_radius: smallest radius within which all is kept, in (0, 1], relative to ``√(height² + width²)``.
        max_radius: largest radius, from ``min_radius`` to 1.
        transform: ``"dct"`` or ``"fft"``.
        per_image: a mask an image; False draws one for the whole batch, from the first image's key.

    Returns:
        Same shape and dtype, not clipped.

    Raises:
        TypeError: if the dtype is not float32 or float64, or the key is raw.
        ValueError: if a radius is outside (0, 1], the transform is unknown or the shape has not four axes.

    Source: Yue et al. 2021 (arXiv 2208.00428), whose code draws one mask for the whole batch. A mask an image is our
    choice: an image's result then does not depend on its batch.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> features = jax.random.normal(jax.random.key(0), (2, 9, 12, 64))
        >>> random_frequency_mask(features, jax.random.key(1)).shape
        (2, 9, 12, 64)
    """
    check_images(images, features=True)
    batch, height, width, _ = images.shape
    keys = _keys.per_image(key, batch)
    mask = frequency_mask(
        keys if per_image else keys[:1],
        height=height,
        width=width,
        min_radius=min_radius,
        max_radius=max_radius,
        transform=transform,
        dtype=images.dtype,
    )
    return _FILTERS[transform](images, mask)


def low_pass(
    images: Float[Array, "batch height width channel"], *, radius: Scalar, transform: str = "dct"
) -> Float[Array, "batch height width channel"]:
    """Keep the frequencies within a radius and erase all others: the random mask's deterministic control.

    Args:
        images: shape ``(batch, height, width, channel)``.
        radius: in (0, 1], relative to ``√(height² + width²)``.
        transform: ``"dct"`` or ``"fft"``.

    Returns:
        Same shape and dtype, not clipped.

    Raises:
        TypeError: if the dtype is not float32 or float64.
        ValueError: if the radius is outside (0, 1], the transform is unknown or the shape has not four axes.

    Source: our choice, to tell what randomness adds from what the erased frequencies add.
    """
    check_images(images, features=True)
    check_radii(radius, radius)
    distance = jnp.asarray(frequency_distance(*images.shape[1:3], transform=transform), images.dtype)
    kept = distance <= jnp.asarray(radius, images.dtype)
    return _FILTERS[transform](images, kept.astype(images.dtype)[None])


_FILTERS = {"dct": dct_filter, "fft": fft_filter}


def check_transform(transform: str) -> None:
    """Refuse the name of an unknown transform.

    Args:
        transform: what the caller gave.

    Raises:
        ValueError: if it is not one of ``TRANSFORMS``.
    """
    if transform not in TRANSFORMS:
        raise ValueError(f"transform must be one of {', '.join(TRANSFORMS)}, got {transform!r}")


def check_radii(min_radius: Scalar, max_radius: Scalar) -> None:
    """Refuse radii outside (0, 1] or in the wrong order, where they are not traced.

    Args:
        min_radius: smallest radius.
        max_radius: largest radius.

    Raises:
        ValueError: if they are not ``0 < min_radius <= max_radius <= 1``.
    """
    for value in (min_radius, max_radius):
        if concrete(value) and not (jnp.ndim(value) == 0 and 0 < float(value) <= 1):
            raise ValueError(
                f"a radius must be above 0 and at most 1, got {value}: it is relative to the image's highest frequency"
            )
    if concrete((min_radius, max_radius)) and float(min_radius) > float(max_radius):
        raise ValueError(f"min_radius must be at most max_radius, got {min_radius} above {max_radius}")


def _share_with_the_negative(uniform: Array, width: int) -> Array:
    """Give rows u and -u one draw in the columns that hold a frequency together with its negative."""
    height, columns = uniform.shape
    rows = np.arange(height)
    shared = uniform[np.minimum(rows, height - rows)]
    alone = (np.arange(columns) == 0) | (2 * np.arange(columns) == width)
    return jnp.where(jnp.asarray(alone).reshape(1, columns), shared, uniform)
