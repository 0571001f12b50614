"""JPEG as a map from images to images: what is left of them after a file is written and read.

The entropy coding in a file loses nothing, so it is left out. One codec runs in two kinds of numbers: whole ones, where
every pixel is libjpeg's, and real ones, which have a gradient.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxpurify.images import check_images
from jaxpurify.pytrees import Scalar, concrete
from jaxpurify.transforms.fusion import apart
from jaxpurify.transforms.jpeg_blocks import SIDE, Arithmetic, continued, ended
from jaxpurify.transforms.jpeg_integer import INTEGER
from jaxpurify.transforms.jpeg_smooth import smooth, straight_through_round

# By how many pixels across and down one chroma sample stands.
SUBSAMPLINGS = {"4:4:4": (1, 1), "4:2:2": (2, 1), "4:2:0": (2, 2)}

_LUMA = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
_CHROMA = np.full((8, 8), 99)
_CHROMA[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]


def jpeg(
    images: Float[Array, "batch height width channel"],
    *,
    quality: Scalar = 75.0,
    subsampling: str = "4:2:0",
    sizes: Int[Array | np.ndarray, "batch 2"] | None = None,
) -> Float[Array, "batch height width channel"]:
    """Compute what libjpeg reads from the JPEG file that it wrote, bit for bit.

    Pixels are rounded to 8 bits first. Everything after that is done in whole numbers, so the gradient is zero.

    Args:
        images: shape ``(batch, height, width, channel)`` in [0, 1], of 1 (grey) or 3 channels (RGB). NaN stays NaN.
        quality: libjpeg's, a scalar from 1 to 100; beyond, a traced one is clipped. Not necessarily whole.
        subsampling: ``"4:4:4"``, ``"4:2:2"`` (colour at half the width) or ``"4:2:0"`` (half the height too). Grey
            images have none.
        sizes: the true height and width of every image, traced or not, where they have been filled up by repeating the
            last row and column to one height and width, both multiples of 16: then one program serves all sizes. The
            true width of an image must be above 4 (libjpeg enlarges narrower colour in another way), and what lies
            beyond the true size in the result says nothing.

    Returns:
        Same shape and dtype: multiples of 1/255 in [0, 1].

    Raises:
        TypeError: if the dtype of the images is not float32 or float64.
        ValueError: if a shape, the subsampling, or a quality that is not traced is out of its domain.

    Source: ITU-T T.81 (the standard; tables of its annex K) and T.871 (JFIF, the colours). Roundings, edges and the
    interpolation of colour are those of libjpeg's default settings: the integer transform of Loeffler, Ligtenberg and
    Moschytz 1989 and "fancy" (triangular) upsampling.

    Example:
        >>> import jax.numpy as jnp
        >>> ramp = jnp.linspace(0, 1, 16).reshape(1, 1, 16, 1)
        >>> (jpeg(ramp, quality=10.0)[0, 0, ::5, 0] * 255).round().astype(int).tolist()
        [1, 90, 166, 255]
    """
    quality = _check(images, quality, subsampling)
    if sizes is not None and any(side % (2 * SIDE) for side in images.shape[1:3]):
        raise ValueError(f"images with sizes must be filled up to multiples of {2 * SIDE} pixels, got {images.shape}")
    sizes = None if sizes is None else jnp.asarray(sizes, jnp.int32)
    return _exact(images, quality, sizes, subsampling=subsampling)


def smooth_jpeg(
    images: Float[Array, "batch height width channel"],
    *,
    quality: Scalar = 75.0,
    subsampling: str = "4:2:0",
    rounding: bool = True,
) -> Float[Array, "batch height width channel"]:
    """Compute JPEG in real numbers, rounding forward and going straight through the roundings backward.

    It rounds where ``jpeg`` does but does not clip in between, so most pixels agree; a coefficient that falls on the
    other side of a half moves its block. The gradient with respect to images is that of the same map without rounding.
    That with respect to quality is the learned-step-size one: how rounding errors grow with the steps.

    Args:
        images: shape ``(batch, height, width, channel)`` in [0, 1], of 1 (grey) or 3 channels (RGB).
        quality: libjpeg's, a scalar from 1 to 100.
        subsampling: ``"4:4:4"``, ``"4:2:2"`` or ``"4:2:0"``.
        rounding: False leaves out all roundings but those of the tables: an affine map, nearly the identity at 4:4:4.

    Returns:
        Same shape and dtype, not clipped.

    Raises:
        TypeError: if the dtype of the images is not float32 or float64.
        ValueError: as ``jpeg``.

    Source: Shin and Song 2017 (NIPS workshop on machine learning and computer security), with the straight-through
    rounding of Athalye, Carlini and Wagner 2018 (arXiv 1802.00420) in the place of a cubic one, which moves pixels. The
    gradient of quality: Esser et al. 2020 (arXiv 1902.08153), section 2.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> grey = jnp.full((1, 8, 8, 1), 0.5)
        >>> bool(jax.grad(lambda x: smooth_jpeg(x)[0, 0, 0, 0])(grey).any())
        True
    """
    quality = _check(images, quality, subsampling)
    return _real(images, quality, subsampling=subsampling, rounding=rounding)


def check_jpeg(quality: Scalar, subsampling: str) -> None:
    """Refuse an unknown subsampling, and a quality out of its domain where it is not traced.

    Args:
        quality: what the caller gave.
        subsampling: likewise.

    Raises:
        ValueError: if one is out of its domain.
    """
    if subsampling not in SUBSAMPLINGS:
        raise ValueError(f"subsampling must be one of {', '.join(SUBSAMPLINGS)}, got {subsampling!r}")
    if jnp.ndim(quality) != 0:
        raise ValueError(f"quality must be a scalar, got shape {jnp.shape(quality)}: several values? use sweep")
    if concrete(quality) and not 1 <= float(quality) <= 100:
        raise ValueError(f"quality must be from 1 to 100, got {quality}: libjpeg's own default is 75")


def quantisation_tables(quality: Float[Array, ""]) -> tuple[Float[Array, "8 8"], Float[Array, "8 8"]]:
    """Compute the steps by which coefficients are rounded, as libjpeg scales the standard's tables.

    The truncations are straight through: whole numbers forward, the derivative of the scaling backward.

    Args:
        quality: from 1 to 100.

    Returns:
        The tables of luma and chroma: whole numbers from 1 to 255.

    Source: ITU-T T.81, annex K.1; the scaling is libjpeg's.
    """

    def truncated(values):
        # A little above whole numbers, lest an accelerator's approximate quotient fall below one.
        return straight_through_round(values - 0.5 + 1e-3)

    quality = jnp.clip(quality, 1, 100)
    percent = truncated(jnp.where(quality < 50, 5000 / quality, 200 - 2 * quality))
    luma, chroma = (
        jnp.clip(truncated((jnp.asarray(table, quality.dtype) * percent + 50) / 100), 1, 255)
        for table in (_LUMA, _CHROMA)
    )
    return luma, chroma


def _check(images: Array, quality: Scalar, subsampling: str) -> Array:
    check_images(images)
    if images.shape[3] not in (1, 3):
        raise ValueError(f"JPEG takes images of 1 or 3 channels, got {images.shape[3]}, in shape {images.shape}")
    check_jpeg(quality, subsampling)
    return jnp.asarray(quality, images.dtype)


@functools.partial(jax.jit, static_argnames=("subsampling",))
def _exact(images: Array, quality: Array, sizes: Array | None, *, subsampling: str) -> Array:
    # Nothing here has a derivative; said once, it need not be traced through every step.
    images, quality = jax.lax.stop_gradient((images, quality))
    luma, chroma = (table.astype(jnp.int32) for table in quantisation_tables(quality))
    return _codec(images, luma, chroma, SUBSAMPLINGS[subsampling], INTEGER, sizes)


@functools.partial(jax.jit, static_argnames=("subsampling", "rounding"))
def _real(images: Array, quality: Array, *, subsampling: str, rounding: bool) -> Array:
    arithmetic = smooth(straight_through_round if rounding else lambda values: values)
    return _codec(images, *quantisation_tables(quality), SUBSAMPLINGS[subsampling], arithmetic)


def _codec(
    images: Array,
    luma_table: Array,
    chroma_table: Array,
    sampling: tuple[int, int],
    arithmetic: Arithmetic,
    sizes: Array | None = None,
) -> Array:
    _, height, width, channels = images.shape
    across, down = sampling if channels == 3 else (1, 1)
    # Where libjpeg continues an image: to the right before colour is subsampled, below afterwards.
    whole = continued(images, 2, _multiple(width, SIDE * across))
    luma, chroma = apart(arithmetic.read)(continued(whole, 1, _multiple(height, down)))

    def coded(planes, table, height, width):
        decoded = arithmetic.code(continued(planes, 1, _multiple(planes.shape[1], SIDE)), table)
        return decoded[:, :height, :width]

    luma = coded(luma, luma_table, height, width)
    if chroma is not None:
        # Of both chroma planes, one behind the other.
        true = None if sizes is None else jnp.tile(-(-sizes // jnp.array([[down, across]], jnp.int32)), (2, 1))
        if across > 1:
            chroma = apart(lambda planes: arithmetic.shrink(planes, across, down))(chroma)
        if true is not None:
            chroma = apart(lambda planes, true: ended(planes, 1, true[:, 0]))(chroma, true)
        chroma = coded(chroma, chroma_table, -(-height // down), -(-width // across))
        if across > 1:
            if true is not None:
                chroma = apart(lambda planes, true: ended(ended(planes, 1, true[:, 0]), 2, true[:, 1]))(chroma, true)
            # So small as two columns, libjpeg repeats samples.
            enlarge = arithmetic.enlarge if chroma.shape[2] > 2 else _repeated
            chroma = apart(lambda planes: enlarge(planes, across, down)[:, :height, :width])(chroma)

    def written(images, luma, chroma):
        purified = arithmetic.write(luma, chroma).astype(images.dtype) / 255
        return jnp.where(jnp.isnan(images), images, purified)

    return apart(written)(images, luma, chroma)


def _repeated(planes: Array, across: int, down: int) -> Array:
    return jnp.repeat(jnp.repeat(planes, down, axis=1), across, axis=2)


def _multiple(size: int, of: int) -> int:
    return -(-size // of) * of
