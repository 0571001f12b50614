"""Discrete cosine transforms as dense matrices, one for each way of continuing an image beyond its border."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxpurify.images import check_images

BOUNDARIES = ("symmetric", "mirror")


def check_boundary(boundary: str) -> None:
    """Refuse the name of an unknown boundary.

    Args:
        boundary: what the caller gave.

    Raises:
        ValueError: if it is not one of ``BOUNDARIES``.
    """
    if boundary not in BOUNDARIES:
        raise ValueError(f"boundary must be one of {', '.join(BOUNDARIES)}, got {boundary!r}")


def period(size: int, *, boundary: str = "symmetric") -> int:
    """Return after how many pixels a row continued beyond its borders repeats itself.

    Args:
        size: number of pixels of the row.
        boundary: ``"symmetric"`` (d c b a | a b c d | d c b a) or ``"mirror"`` (d c b | a b c d | c b a).

    Returns:
        The period in pixels: ``2 size`` or ``2 (size - 1)``, and 1 for a mirrored row of one pixel.

    Raises:
        ValueError: if the boundary is unknown.
    """
    check_boundary(boundary)
    return 2 * size if boundary == "symmetric" else max(2 * (size - 1), 1)


def cosine_basis(size: int, *, boundary: str = "symmetric") -> tuple[np.ndarray, np.ndarray]:
    """Compute the cosine transform that diagonalises every symmetric filter under a boundary.

    Row j of the analysis matrix is a cosine of angular frequency ``2π j / period`` a pixel. With symmetric borders it
    is the orthonormal DCT-II; with mirrored ones the DCT-I, whose two end pixels count half.

    Args:
        size: number of pixels, at least 1.
        boundary: ``"symmetric"`` (d c b a | a b c d | d c b a) or ``"mirror"`` (d c b | a b c d | c b a).

    Returns:
        ``(analysis, synthesis)``, float64 of shape ``(size, size)``: coefficients are ``analysis @ row`` and
        ``synthesis @ analysis`` is the identity.

    Raises:
        ValueError: if size is below 1 or the boundary is unknown.

    Source: Strang, "The discrete cosine transform", SIAM Review 41, 1999.

    Example:
        >>> analysis, synthesis = cosine_basis(4)
        >>> bool(np.allclose(synthesis, analysis.T)), bool(np.allclose(synthesis @ analysis, np.eye(4)))
        (True, True)
    """
    check_boundary(boundary)
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    frequency, pixel = np.arange(size)[:, None], np.arange(size)[None, :]
    if boundary == "symmetric":
        # Angles are reduced as integers first, which keeps them exact for large images.
        analysis = np.sqrt(2 / size) * np.cos(np.pi / (2 * size) * (frequency * (2 * pixel + 1) % (4 * size)))
        analysis[0] = np.sqrt(1 / size)
        return analysis, analysis.T
    if size == 1:
        return np.ones((1, 1)), np.ones((1, 1))
    cosines = np.cos(np.pi / (size - 1) * (frequency * pixel % (2 * (size - 1))))
    ends = np.where((np.arange(size) == 0) | (np.arange(size) == size - 1), 0.5, 1.0)
    return cosines * ends, cosines * ends * (2 / (size - 1))


def dct2(images: Float[Array, "batch height width channel"]) -> Float[Array, "batch height width channel"]:
    """Compute the orthonormal two-dimensional DCT-II of every channel, over the whole frame.

    Args:
        images: shape ``(batch, height, width, channel)``, any number of channels.

    Returns:
        Coefficients, same shape and dtype; ``[:, 0, 0]`` belongs to the mean.

    Raises:
        TypeError: if the dtype is not float32 or float64.
        ValueError: if the shape has not four axes.

    Source: Ahmed, Natarajan and Rao, "Discrete cosine transform", IEEE Transactions on Computers, 1974.
    """
    check_images(images, features=True)
    return _forward(images)


def idct2(coefficients: Float[Array, "batch height width channel"]) -> Float[Array, "batch height width channel"]:
    """Compute the inverse of ``dct2``.

    Args:
        coefficients: shape ``(batch, height, width, channel)``.

    Returns:
        Images, same shape and dtype, not clipped.

    Raises:
        TypeError: if the dtype is not float32 or float64.
        ValueError: if the shape has not four axes.

    Source: as ``dct2``, whose transpose it is.
    """
    check_images(coefficients, name="coefficients", features=True)
    return _backward(coefficients)


def dct_filter(
    images: Float[Array, "batch height width channel"], gains: Float[Array, "group rows columns"]
) -> Float[Array, "batch height width channel"]:
    """Multiply the DCT-II coefficients of images by gains: ``idct2(gains * dct2(images))`` in half the arithmetic.

    Cosines of even number are symmetric about the middle of a row, those of odd number antisymmetric. So an axis of
    even size is folded about its middle first, into sums and differences, and products of half the size do the rest.

    Args:
        images: shape ``(batch, height, width, channel)``, any number of channels.
        gains: one a coefficient, shape ``(batch, height, width)``, or ``(1, height, width)`` for all images alike.

    Returns:
        Same shape and dtype as the images, not clipped.

    Raises:
        TypeError: if the dtype of the images is not float32 or float64.
        ValueError: if the shapes do not fit.

    Source: Chen, Smith and Fralick, "A fast computational algorithm for the discrete cosine transform", 1977, whose
    first step the folding is.
    """
    check_images(images, features=True)
    batch, height, width, _ = images.shape
    if gains.shape not in ((batch, height, width), (1, height, width)):
        raise ValueError(f"gains must have shape {(batch, height, width)} or {(1, height, width)}, got {gains.shape}")
    return _filter(images, gains)


# Blocks of coefficients: [i][j] holds vertical frequencies i, i + 2, … and horizontal ones j, j + 2, … of an even size,
# and all of them where the size is odd.
@jax.jit
def _forward(images: Array) -> Array:
    blocks = [[jnp.transpose(block, (0, 2, 3, 1)) for block in row] for row in _analyse(images)]
    return _interleave([_interleave(row, axis=2) for row in blocks], axis=1)


@jax.jit
def _backward(coefficients: Array) -> Array:
    _, height, width, _ = coefficients.shape
    planes = jnp.transpose(coefficients, (0, 3, 1, 2))
    return _synthesise([[planes[:, :, rows, columns] for columns in _steps(width)] for rows in _steps(height)])


@jax.jit
def _filter(images: Array, gains: Array) -> Array:
    _, height, width, _ = images.shape
    parts = [[gains[:, None, rows, columns] for columns in _steps(width)] for rows in _steps(height)]
    return _synthesise(
        [
            [block * gain for block, gain in zip(*pair, strict=True)]
            for pair in zip(_analyse(images), parts, strict=True)
        ]
    )


def _analyse(images: Array) -> list[list[Array]]:
    """Return planar blocks of coefficients."""
    rows, columns = (_bases(size, images.dtype) for size in images.shape[1:3])
    blocks: list[list[Array]] = []
    for vertical, folded in zip(rows, _fold(images, axis=1), strict=True):
        blocks.append([])
        for horizontal, part in zip(columns, _fold(folded, axis=2), strict=True):
            # Planar, because a product over width with the channels innermost is slower than the transpositions; and
            # computed once: fused into the products, folding would be done again and again.
            planes = jax.lax.optimization_barrier(jnp.transpose(part, (0, 3, 1, 2)))
            planes = _product("bchw,vw->bchv", planes, horizontal)
            blocks[-1].append(_product("uh,bchv->bcuv", vertical, planes))
    return blocks


def _synthesise(blocks: list[list[Array]]) -> Array:
    """Return the images of planar blocks of coefficients."""
    dtype = blocks[0][0].dtype
    rows = _bases(sum(row[0].shape[2] for row in blocks), dtype)
    columns = _bases(sum(block.shape[3] for block in blocks[0]), dtype)
    halves = []
    for vertical, row in zip(rows, blocks, strict=True):
        parts = []
        for horizontal, block in zip(columns, row, strict=True):
            planes = _product("uh,bcuv->bchv", vertical, block)
            parts.append(jax.lax.optimization_barrier(_product("bchv,vw->bchw", planes, horizontal)))
        halves.append(_unfold(parts, axis=3))
    return jnp.transpose(_unfold(halves, axis=2), (0, 2, 3, 1))


def _product(subscripts: str, first: Array, second: Array) -> Array:
    return jnp.einsum(subscripts, first, second, precision="highest")


def _bases(size: int, dtype: jax.typing.DTypeLike) -> list[Array]:
    """Return the analysis matrix, or for an even size its even and its odd rows, on the first half of the pixels."""
    analysis = cosine_basis(size)[0]
    return [jnp.asarray(analysis[rows, : size if size % 2 else size // 2], dtype) for rows in _steps(size)]


def _steps(size: int) -> tuple[slice, ...]:
    return (slice(None),) if size % 2 else (slice(0, None, 2), slice(1, None, 2))


def _fold(values: Array, *, axis: int) -> tuple[Array, ...]:
    """Return sums and differences of pixels at equal distance from the middle; an odd axis as it is."""
    if values.shape[axis] % 2:
        return (values,)
    near, far = jnp.split(values, 2, axis=axis)
    far = jnp.flip(far, axis=axis)
    return near + far, near - far


def _unfold(parts: list[Array], *, axis: int) -> Array:
    """Return the pixels of what the even and the odd cosines add up to on the first half; an odd axis as it is."""
    if len(parts) == 1:
        return parts[0]
    even, odd = parts
    return jnp.concatenate([even + odd, jnp.flip(even - odd, axis=axis)], axis=axis)


def _interleave(parts: list[Array], *, axis: int) -> Array:
    if len(parts) == 1:
        return parts[0]
    shape = list(parts[0].shape)
    shape[axis] *= 2
    return jnp.stack(parts, axis=axis + 1).reshape(shape)
