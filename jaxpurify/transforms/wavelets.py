"""The two-dimensional discrete wavelet transform and its inverse, as sums of shifted copies.

One level filters rows, then columns, and keeps every other sample. A filter of F taps is a sum of F shifted copies of
whole planes; Haar, with two taps, is four adds a pixel. What belongs beyond the border is appended first, so that the
filtering itself knows no border. Filtering down with some taps and up with the same taps are each other's transpose,
and that is how they are differentiated: forward-mode differentiation is not available.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxpurify.transforms.fusion import apart
from jaxpurify.transforms.wavelet_filters import (
    Pair,
    band_size,
    check_extension,
    check_levels,
    cut,
    extend,
    wavelet_filters,
    wrap_bands,
)

Details = tuple[tuple[Array, Array, Array], ...]


def wavedec2(
    images: Array,
    *,
    levels: int,
    wavelet: str = "haar",
    extension: str = "symmetric",
    axes: tuple[int, int] = (1, 2),
) -> tuple[Array, Details]:
    """Decompose images into wavelet coefficients.

    Args:
        images: shape ``(batch, height, width, channel)``, or any other with height and width on ``axes``.
        levels: number of levels, from 1 to ``max_levels`` (one level is always possible).
        wavelet: PyWavelets' name, such as ``"haar"``, ``"db4"``, ``"sym8"``, ``"coif1"``, ``"bior2.2"``, ``"rbio2.2"``.
        extension: how the image continues beyond its border: ``"symmetric"`` (b a | a b c | c b), ``"periodic"``
            (b c | a b c | a b), or ``"periodization"`` (periodic with the fewest coefficients, half a side).
        axes: height and width. Planar images, ``axes=(2, 3)``, save two transpositions.

    Returns:
        ``(approximation, details)``. Details are one ``(horizontal, vertical, diagonal)`` a level, coarsest first as in
        PyWavelets; every band has the axes of the images.

    Raises:
        TypeError: if the images are not of floating point.
        ValueError: if the wavelet or extension is unknown, or the images are too small for that many levels.

    Source: Mallat 1989, "A theory for multiresolution signal decomposition". Filters, borders and order are those of
    PyWavelets' ``wavedec2``, whose "periodic" and "periodization" are two modes.

    Example:
        >>> import jax.numpy as jnp
        >>> approximation, details = wavedec2(jnp.ones((1, 9, 8, 1)), levels=2)
        >>> approximation.shape, [bands[0].shape for bands in details]
        ((1, 3, 2, 1), [(1, 3, 2, 1), (1, 5, 4, 1)])
    """
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"images must be of floating point, got {images.dtype}: 8-bit levels? divide by 255")
    if images.ndim < 2 or 0 in images.shape:
        raise ValueError(f"images must have height and width, and pixels, got shape {images.shape}")
    check_extension(extension)
    check_levels(levels, size=(images.shape[axes[0]], images.shape[axes[1]]), wavelet=wavelet)
    return _decompose(images, levels=levels, wavelet=wavelet, extension=extension, axes=axes)


def waverec2(
    coefficients: tuple[Array, Details],
    *,
    size: tuple[int, int],
    wavelet: str = "haar",
    extension: str = "symmetric",
    axes: tuple[int, int] = (1, 2),
) -> Array:
    """Put images together from their wavelet coefficients: the inverse of ``wavedec2``.

    Args:
        coefficients: ``(approximation, details)`` as ``wavedec2`` returns them.
        size: height and width of the images in pixels, which the coefficients alone do not tell.
        wavelet: as for ``wavedec2``.
        extension: as for ``wavedec2``.
        axes: as for ``wavedec2``.

    Returns:
        Images with height and width on ``axes``, same dtype.

    Raises:
        ValueError: if the wavelet or extension is unknown, or the bands are not those of images of that size.

    Source: as ``wavedec2``.

    Example:
        >>> import jax.numpy as jnp
        >>> images = jnp.linspace(0.0, 1.0, 13 * 12).reshape(1, 13, 12, 1)
        >>> again = waverec2(wavedec2(images, levels=2, wavelet="sym2"), size=(13, 12), wavelet="sym2")
        >>> bool(jnp.allclose(again, images, atol=1e-5))
        True
    """
    check_extension(extension)
    approximation, details = coefficients
    length, sizes = wavelet_filters(wavelet).length, [size]
    for _ in details:
        sizes.append(tuple(band_size(side, length=length, extension=extension) for side in sizes[-1]))  # type: ignore[arg-type]
    bands = [approximation, *(band for level in details for band in level)]
    found = [(band.shape[axes[0]], band.shape[axes[1]]) for band in bands]
    expected = [sizes[-1], *(sizes[len(details) - i] for i in range(len(details)) for _ in range(3))]
    if found != expected:
        raise ValueError(
            f"coefficients of {len(details)} levels for images of {size[0]} × {size[1]} pixels must have bands of "
            f"{expected}, got {found}: pass the size, wavelet and extension that they were made with"
        )
    return _compose(
        approximation, tuple(details), sizes=tuple(sizes[-2::-1]), wavelet=wavelet, extension=extension, axes=axes
    )


@functools.partial(jax.jit, static_argnames=("levels", "wavelet", "extension", "axes"))
def _decompose(images, *, levels, wavelet, extension, axes):
    planes = jnp.moveaxis(images, axes, (-2, -1))
    outer = planes.shape[:-2]
    filters = wavelet_filters(wavelet)
    approximation, details = planes.reshape(-1, *planes.shape[-2:]), []

    def restored(band):
        return jnp.moveaxis(band.reshape(*outer, *band.shape[-2:]), (-2, -1), axes)

    for _ in range(levels):
        extended = extend(approximation, length=filters.length, extension=extension)
        approximation, *bands = _split(filters.analysis, extended)
        details.append(tuple(restored(band) for band in bands))
    return restored(approximation), tuple(details[::-1])


@functools.partial(jax.jit, static_argnames=("sizes", "wavelet", "extension", "axes"))
def _compose(approximation, details, *, sizes, wavelet, extension, axes):
    filters = wavelet_filters(wavelet)

    def planar(band):
        band = jnp.moveaxis(band, axes, (-2, -1))
        return band.reshape(-1, *band.shape[-2:])

    outer = jnp.moveaxis(approximation, axes, (-2, -1)).shape[:-2]
    approximation = planar(approximation)
    for level, size in zip(details, sizes, strict=True):
        bands = (approximation, *(planar(band) for band in level))
        bands = tuple(wrap_bands(band, length=filters.length, extension=extension) for band in bands)
        merged = _merge(filters.synthesis, bands)
        approximation = cut(merged, size=size, length=filters.length, extension=extension)
    return jnp.moveaxis(approximation.reshape(*outer, *approximation.shape[-2:]), (-2, -1), axes)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _split(filters: Pair, planes: Array) -> tuple[Array, Array, Array, Array]:
    """Filter extended planes down to approximation, horizontal, vertical and diagonal bands."""
    return _haar_split(planes) if _is_haar(filters) else _filter_down(planes, filters)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _merge(filters: Pair, bands: tuple[Array, Array, Array, Array]) -> Array:
    """Filter bands up to extended planes: the transpose of ``_split`` with the same filters."""
    return _haar_merge(bands) if _is_haar(filters) else _filter_up(bands, filters)


_split.defvjp(
    lambda filters, planes: (_split(filters, planes), None), lambda filters, _, bands: (_merge(filters, bands),)
)
_merge.defvjp(
    lambda filters, bands: (_merge(filters, bands), None), lambda filters, _, planes: (_split(filters, planes),)
)


def _is_haar(filters: Pair) -> bool:
    return filters == wavelet_filters("haar").analysis


def _haar_split(planes):
    sums, differences = _row_pairs(planes)
    (approximation, vertical), (horizontal, diagonal) = _column_pairs(sums), _column_pairs(differences)
    return approximation, horizontal, vertical, diagonal


@apart
def _row_pairs(planes):
    pairs = planes.reshape(planes.shape[0], -1, 2, planes.shape[2])
    return pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]


@apart
def _column_pairs(rows):
    pairs = rows.reshape(*rows.shape[:2], -1, 2)
    return 0.5 * (pairs[..., 0] + pairs[..., 1]), 0.5 * (pairs[..., 0] - pairs[..., 1])


@apart
def _haar_merge(bands):
    approximation, horizontal, vertical, diagonal = bands
    sums = _woven_rows(approximation + horizontal, approximation - horizontal)
    differences = _woven_rows(vertical + diagonal, vertical - diagonal)
    # Stacking along the last axis would be many small copies; a sum of broadcasts is one loop.
    signs = jnp.array([0.5, -0.5], sums.dtype).reshape(1, 1, 1, 2)
    return (0.5 * sums[..., None] + signs * differences[..., None]).reshape(*sums.shape[:2], -1)


def _woven_rows(even, odd):
    return jnp.stack([even, odd], axis=2).reshape(even.shape[0], -1, even.shape[2])


def _woven_columns(even, odd):
    first = (jnp.arange(2) == 0).reshape(1, 1, 1, 2)
    return jnp.where(first, even[..., None], odd[..., None]).reshape(*even.shape[:2], -1)


def _filter_down(planes, filters):
    low, high = (_rows_down(planes, taps=taps) for taps in filters)
    (approximation, vertical), (horizontal, diagonal) = (_columns_down(rows, filters) for rows in (low, high))
    return approximation, horizontal, vertical, diagonal


def _columns_down(rows, filters):
    phases = _phases(rows)
    return tuple(_column_sums(*phases, taps=taps) for taps in filters)


def _filter_up(bands, filters):
    approximation, horizontal, vertical, diagonal = bands
    low, high = _columns_up(approximation, vertical, filters), _columns_up(horizontal, diagonal, filters)
    return _rows_up(low, high, filters=filters)


def _columns_up(low, high, filters):
    return _column_up_sums(low, high, filters=filters)


@apart
def _rows_down(planes, *, taps):
    last = planes.shape[1] - len(taps) + 1
    return _weighted([planes[:, j : j + last : 2] for j in range(len(taps))], taps)


@apart
def _phases(planes):
    pairs = planes.reshape(*planes.shape[:2], -1, 2)
    return pairs[..., 0], pairs[..., 1]


@apart
def _column_sums(even, odd, *, taps):
    size = even.shape[2] - len(taps) // 2 + 1
    copies = [phase[:, :, j : j + size] for j in range(len(taps) // 2) for phase in (even, odd)]
    return _weighted(copies, taps)


@apart
def _rows_up(low, high, *, filters):
    return _woven_rows(*_up(low, high, filters, axis=1))


@apart
def _column_up_sums(low, high, *, filters):
    return _woven_columns(*_up(low, high, filters, axis=2))


def _up(low, high, filters, *, axis):
    half = len(filters[0]) // 2
    size = low.shape[axis] + half - 1
    padding = [(half - 1, half - 1) if number == axis else (0, 0) for number in range(3)]
    low, high = jnp.pad(low, padding), jnp.pad(high, padding)
    phases = []
    for phase in (0, 1):
        taps = [*filters[0][phase::2][::-1], *filters[1][phase::2][::-1]]
        copies = [jax.lax.slice_in_dim(band, j, j + size, axis=axis) for band in (low, high) for j in range(half)]
        phases.append(_weighted(copies, taps))
    return phases


def _weighted(copies, taps):
    return functools.reduce(jnp.add, [tap * copy for tap, copy in zip(taps, copies, strict=True) if tap])
